"""The structure: `print` occurs in the command line alone, and what needs no network loads none.

The rules between packages stand in pyproject.toml; `nox -s lint` checks them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parent.parent
HEAVY = {"torch", "monai", "ignite", "tensorboard"}
MOST_LINES = 500


def test_what_has_left_python_3_10_is_free_there():
    """Else pip finds nothing to install, and none of the two commands of the README runs on it."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    on_3_10 = {"python_version": "3.10"}
    left = [
        requirement.name
        for requirement in pinned
        if requirement.marker is None or requirement.marker.evaluate(on_3_10)
        if not runs_on(requirement.name, "3.10.19")
    ]
    assert not left


def runs_on(name: str, python: str) -> bool:
    """Whether the installed version does; what is not installed is not known."""
    try:
        wanted = metadata(name)["Requires-Python"]
    except PackageNotFoundError:
        return True
    return wanted is None or python in SpecifierSet(wanted)


def test_the_modules_to_be_mutated_and_their_tests_are_there():
    program = ast.parse((REPOSITORY / "noxfile.py").read_text(encoding="utf-8"))
    (table,) = [
        ast.literal_eval(node.value)
        for node in program.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MUTATED"
    ]
    paths = [word for module, words in table.items() for word in (module, *words) if "/" in word]

    assert not [path for path in paths if not (REPOSITORY / path).is_file()]


def test_print_occurs_in_the_command_lines_alone():
    runner = REPOSITORY / "monaiseg" / "portable" / "program.py"
    prints = [
        f"{path}:{node.lineno}"
        for path in (REPOSITORY / "monaiseg").rglob("*.py")
        if path.parent.name != "cli" and path != runner
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not prints


@pytest.mark.parametrize(
    "program",
    [
        "import monaiseg",
        "import monaiseg.cli",
        "import sys; sys.argv = ['monaiseg', '--help']; from monaiseg.cli import app; app(standalone_mode=False)",
        "import sys; sys.argv = ['monaiseg', 'train', '--help']; from monaiseg.cli import app; app(standalone_mode=False)",
        "from monaiseg import Settings, load_settings, LabelTable, Case, Grid",
    ],
)
def test_what_needs_no_network_loads_neither_torch_nor_monai(program):
    watched = f"{program}\nimport sys; print('loaded', sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", watched], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded []"
