"""The project's chores: `nox -l` lists them, `nox -s tests lint` runs some, `nox -s tests -- -k volumes` passes words on.

Everything is installed at the versions of constraints.txt. Torch takes minutes to install, so the sessions that need it
share one environment, .nox/runtime; the others have small ones of their own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = ("--constraint", "constraints.txt")
TESTED_TORCH = next(
    line for line in Path("constraints.txt").read_text().split() if line.startswith("torch==")
)
BUNDLE_TESTS = ("tests/bundle", "tests/training/test_distributed.py")
SIDE_BY_SIDE = ("--numprocesses", "auto", "--maxprocesses", "4")
"""More than four processes would train the shared networks of the tests more often than they save."""
MUTATED = {
    "monaiseg/files.py": [
        "monaiseg/files.py", "tests/test_files.py", "tests/data/test_data_tasks.py", "tests/data/test_list_files.py",
    ],
    "monaiseg/data/labels.py": [
        "monaiseg/data/labels.py", "tests/data/test_labels.py", "tests/data/test_label_checks.py",
    ],
    "monaiseg/data/splits.py": ["monaiseg/data/splits.py", "tests/data/test_cases.py", "tests/data/test_groups.py"],
    "monaiseg/training/handlers/learning_rate.py": ["tests/training/handlers/test_learning_rate.py"],
    "monaiseg/training/sampling.py": ["tests/training/test_sampling.py"],
    "monaiseg/evaluation/metrics.py": ["monaiseg/evaluation/metrics.py", "tests/evaluation/test_metrics.py"],
}  # fmt: skip
"""Modules whose every edit must make a test fail, and pytest's words for these tests."""


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, name)


def pytest(session: nox.Session, *arguments: str) -> None:
    in_runtime(session, "python", "-m", "pytest", *arguments, *session.posargs)


def runtime(session: nox.Session, *more: str) -> Path:
    """Folder of the shared environment's programs; it is made at first and brought up to date at each session."""
    bin_folder = Path(".nox/runtime").absolute() / ("Scripts" if os.name == "nt" else "bin")
    python = str(bin_folder / "python")
    if not bin_folder.exists():
        session.run(sys.executable, "-m", "venv", str(bin_folder.parent), external=True)
    wanted = ("--editable", ".[onnx]", *group("test"), *group("types"), *more)
    session.run_install(python, "-m", "pip", "install", "-q", *CONSTRAINTS, *wanted, external=True)
    return bin_folder


def in_runtime(
    session: nox.Session, program: str, *arguments: str, env: Mapping[str, str] | None = None
) -> None:
    """Runs a program of the shared environment."""
    bin_folder = runtime(session)
    path = os.pathsep.join([str(bin_folder), os.environ.get("PATH", "")])
    session.run(
        str(bin_folder / program), *arguments, env={"PATH": path, **(env or {})}, external=True
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, imports between packages and their drawing, spelling."""
    session.install(*CONSTRAINTS, *group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("python", "scripts/draw_structure.py", "--check")
    session.run("codespell")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    in_runtime(session, "python", "-m", "mypy", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every test that takes seconds, but for the pages' blocks, which the session `docs` runs."""
    pytest(session, "-m", "not slow", "--ignore", "tests/test_docs.py", *SIDE_BY_SIDE)


@nox.session(venv_backend="none", default=False)
def coverage(session: nox.Session) -> None:
    """The same tests, and which lines and branches they reach."""
    in_runtime(session, "python", "-m", "coverage", "run", "-m", "pytest", "-m", "not slow")
    in_runtime(session, "python", "-m", "coverage", "report")


@nox.session(venv_backend="none")
def slow(session: nox.Session) -> None:
    """The tests that take minutes, but for those of the session `bundle`."""
    others = [word for module in BUNDLE_TESTS for word in ("--ignore", module)]
    pytest(session, "-m", "slow", "--timeout", "7200", *others)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in build/docs, with every link checked; the reference pages are those of the code; every block runs."""
    session.install(*CONSTRAINTS, *group("docs"))
    strictly = ("--fail-on-warning", "--keep-going", "--fresh-env", "--write-all", "-q")
    session.run("sphinx-build", *strictly, "-c", "docs", ".", "build/docs")
    in_runtime(session, "python", "scripts/build_reference.py", "--check")
    pytest(session, "tests/test_docs.py")


@nox.session(venv_backend="none")
def schema(session: nox.Session) -> None:
    """The published schema is that of the code, and the shipped settings files keep to it."""
    pytest(session, "tests/settings/test_schema.py")


@nox.session(venv_backend="none")
def bundle(session: nox.Session) -> None:
    """The shipped bundle has no faults, and every command of its card runs; several processes train together."""
    in_runtime(session, "monaiseg", "bundle", "lint", "bundles/lpba")
    pytest(session, "-m", "slow", "--timeout", "7200", *BUNDLE_TESTS)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Synthetic brains, from raw files to pictures of what the network found."""
    folder = Path(session.create_tmp()) / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    in_runtime(session, "monaiseg", "demo", "--output", str(folder), *session.posargs)


@nox.session(venv_backend="none", default=False)
def fuzz(session: nox.Session) -> None:
    """Drawn files of every kind that users are handed: `-- --minutes 60` for longer, `--seed 1` for others."""
    in_runtime(session, "python", "-m", "fuzz", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(venv_backend="none", default=False)
def properties(session: nox.Session) -> None:
    """The property tests, with many more examples than usual and new ones each time: hours."""
    pytest(session, "-m", "hypothesis", "--hypothesis-profile", "many", "--timeout", "0")


@nox.session(venv_backend="none", default=False)
def crash(session: nox.Session) -> None:
    """Trainings killed, starved and cut off, a thousand times: an hour; `nox -s crash -- named` for a part."""
    in_runtime(session, "python", "tests/crash/campaign.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def mutants(session: nox.Session) -> None:
    """Do the tests bite? One edit of a module at a time, and its tests must fail: `-- data/splits` for one module."""
    mutmut = str(runtime(session, *group("mutants")) / "mutmut")
    for module, tests in MUTATED.items():
        if session.posargs and not any(word in module for word in session.posargs):
            continue
        copy = Path(session.create_tmp()).absolute() / module.replace("/", "-")
        shutil.rmtree(copy, ignore_errors=True)
        for folder in ("monaiseg", "tests"):
            shutil.copytree(folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("pyproject.toml", copy)
        lines = ["[mutmut]", "source_paths = monaiseg", f"only_mutate = {module}"]
        lines += [
            "also_copy = tests",
            "pytest_add_cli_args_test_selection =",
            *(f"  {word}" for word in tests),
        ]
        (copy / "setup.cfg").write_text("\n".join(lines), encoding="utf-8")
        with session.chdir(copy):
            session.run(mutmut, "run", external=True, env={"CI": "true"})
            session.run(mutmut, "results", external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Wheel and source archive; the wheel's `monaiseg --help` runs where neither torch nor MONAI is."""
    session.install(*CONSTRAINTS, "build", "typer", "pydantic", "nibabel", "rich")
    session.run("python", "-m", "build", "--outdir", session.create_tmp(), str(Path.cwd()))
    (wheel,) = Path(session.create_tmp()).glob("*.whl")
    session.install("--no-deps", "--force-reinstall", str(wheel))
    session.chdir(session.create_tmp())
    session.run("monaiseg", "--help")


@nox.session
def minimums(session: nox.Session) -> None:
    """The tests at the oldest versions that pyproject.toml allows; torch alone stays at the tested one.

    The reference pages are written with the tested typer, so they are not compared here. An older torch is a
    download of gigabytes on most machines: `nox -s minimums -- torch` takes it all the same.
    """
    oldest = [bound.replace(">=", "==") for bound in PROJECT["project"]["dependencies"]]
    if "torch" not in session.posargs:
        oldest[0] = TESTED_TORCH
    session.install(*oldest, *group("test"))
    session.install("--no-deps", "--editable", ".")
    reference = "tests/test_docs.py::test_the_reference_pages_are_those_of_the_code"
    session.run(
        "python", "-m", "pytest", "-m", "not slow", "--deselect", reference
    )  # typer words it


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """nnU-Net in an environment of its own, for the benchmarks that compare with it: `.nox/peers/bin/python`."""
    session.install(TESTED_TORCH, "nnunetv2==2.8.1")
