"""How much a command prints: -q, -v and --json."""

import json

import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data import make_phantom, write_phantom


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def scans(tmp_path):
    for number in range(5):
        write_phantom(tmp_path / "scans", f"case_{number}", make_phantom((16, 16, 16), seed=number))
    return tmp_path / "scans"


def test_a_quiet_command_prints_nothing_when_all_is_well(scans, tmp_path):
    result = call("prepare", scans, "--output", tmp_path / "work", "-q")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("place", [0, 1, 3])
def test_quiet_may_be_written_before_or_after_the_command(place, tmp_path):
    words = ["settings", "init", str(tmp_path / "settings.json")]
    result = call(*words[:place], "--quiet", *words[place:])
    assert (result.exit_code, result.output) == (0, "")


def test_a_quiet_command_still_says_what_is_wrong(tmp_path):
    result = call("-q", "settings", "check", tmp_path / "absent.json")
    assert result.exit_code == 2
    assert "absent.json" in result.stderr


def test_a_verbose_command_names_versions_and_where_an_error_arose(tmp_path):
    result = call("settings", "check", tmp_path / "absent.json", "-v")
    assert result.exit_code == 2
    assert "monaiseg " in result.stderr
    assert "Traceback" in result.stderr


def test_with_json_stdout_is_one_document_and_the_rest_is_on_stderr(scans, tmp_path):
    result = call("prepare", scans, "--output", tmp_path / "work", "--json")
    found = json.loads(result.stdout)
    assert {case for ids in found["cases"].values() for case in ids} == {
        f"case_{number}" for number in range(5)
    }
    assert "next: monaiseg plan" in result.stderr


def test_faults_of_settings_are_listed_as_json(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"tsk_set": {"epochz": 3, "batch_size": 0}}')
    result = call("settings", "check", path, "--json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["faults"]) == 2
