"""The help: options in groups, examples to copy, and an answer at once."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from monaiseg.cli import app


def shown(*words: str, columns: int = 80) -> str:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, words).output


def test_the_help_loads_neither_rich_nor_pydantic_nor_torch():
    code = (
        "import sys; from monaiseg.cli import app\n"
        "try: app(['train', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('rich', 'pydantic', 'torch', 'monai') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_command_shows_its_options_in_groups_and_examples_at_the_end():
    lines = shown("train", "--help").splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments:", "Options:", "EasyReg's spelling:", "Examples:"]
    assert lines[-1] == "  monaiseg train work/scans/first --resume"


@pytest.mark.parametrize("columns", [60, 100, 300])
def test_no_line_of_meaning_is_longer_than_the_terminal_or_100_characters(columns):
    lines = shown("prepare", "--help", columns=columns).partition("Examples:")[0].splitlines()
    meanings = [line for line in lines if line.startswith(" " * 20)]
    assert max(map(len, meanings)) <= min(columns, 100)


def test_options_that_every_command_has_are_shown_once():
    for words in ([], ["plan"], ["bundle", "pack"]):
        assert shown(*words, "--help").count("--quiet") == 1


def test_help_is_found_anywhere_before_a_double_hyphen():
    assert shown("train", "work/scans", "-h").startswith("Usage: ")
    assert " fit [OPTIONS] SCANS\n" in shown("fit", "-h")
    assert "Usage" not in shown("predict", "--", "-h")


def test_a_default_is_shown_and_a_required_option_says_so():
    assert "[default: 70]" in shown("prepare", "-h", columns=100)
    assert "[required]" in shown("bundle", "pack", "-h", columns=100)


def test_a_command_without_arguments_shows_its_help_and_ends_with_2():
    result = CliRunner().invoke(app, ["train"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_a_misspelt_command_names_the_nearest_one():
    result = CliRunner().invoke(app, ["trian"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.stderr


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", {"COMP_WORDS": "monaiseg tr", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "monaiseg tr"}),
    ],
)
def test_a_shell_completes_commands(shell, words):
    code = "import sys; sys.argv[0] = 'monaiseg'; from monaiseg.cli import app; app()"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"_MONAISEG_COMPLETE": f"complete_{shell}", **words, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "train" in found.stdout
    assert "predict" not in found.stdout
