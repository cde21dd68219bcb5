"""The house: imports point down, heavy ones start where they may, and `print` stays in the command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parent.parent
MODULES = {path.stem: path for path in sorted((REPOSITORY / "monaiseg").glob("*.py"))}
FIRST_TORCH_FLOOR = 7
HEAVY = {"torch", "monai", "ignite", "tensorboard"}


def floors() -> dict[str, int]:
    """Floor of every module, from the table in CONTRIBUTING.md."""
    table = re.search(
        r"```floors\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    assert table is not None
    rows = (line.split(maxsplit=1) for line in table[1].splitlines())
    return {name.strip(): int(number) for number, names in rows for name in names.split("·")}


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports anywhere in it, functions too, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports from the package's name"
            assert node.module is not None
            for alias in node.names:
                inside = node.module == "monaiseg" and alias.name in MODULES
                yield (f"monaiseg.{alias.name}" if inside else node.module), node.lineno


def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


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


def test_every_module_stands_on_one_floor():
    assert set(MODULES) == set(floors())


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    floor = floors()
    upward = [
        f"{module}.py:{line} imports {name}"
        for name, line in imported_modules(parsed(module))
        if name.startswith("monaiseg.") and floor[name.split(".")[1]] >= floor[module]
    ]
    assert not upward


@pytest.mark.parametrize(
    "module", [name for name, floor in floors().items() if floor < FIRST_TORCH_FLOOR]
)
def test_torch_and_monai_start_at_their_floor(module):
    if module not in MODULES:
        pytest.skip(f"{module} is not written yet")
    assert not {name.split(".")[0] for name, _ in imported_modules(parsed(module))} & HEAVY


@pytest.mark.parametrize("module", [name for name in MODULES if name != "cli"])
def test_print_lives_in_the_command_line_alone(module):
    prints = [
        node.lineno
        for node in ast.walk(parsed(module))
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
        [sys.executable, "-c", watched], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded []"
