"""How much a command prints: `-q`, `-v`, and `--json` for scripts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on stdout, and all else on stderr."),
]


@dataclass
class Loudness:
    """What the running command prints."""

    quiet: bool = False
    """Only results that were asked for, warnings and errors."""
    verbose: bool = False
    """Also versions and devices, log messages of libraries, and the traceback of every error."""
    as_json: bool = False
    """Standard output is for one JSON document; all else goes to stderr."""
    is_step: bool = False
    """The command runs as a step of another, which goes on by itself: no command to run next is printed."""


NOW = Loudness()
"""The loudness of the running command; `set_loudness` sets it before each."""


def set_loudness(*, quiet: bool, verbose: bool) -> None:
    """Set what the command that is about to run prints."""
    NOW.quiet, NOW.verbose, NOW.as_json = quiet and not verbose, verbose, False
    NOW.is_step = False
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        typer.echo(_environment(), err=True)


def say(line: str = "") -> None:
    """Print a line that tells the user what happens; `-q` leaves it out."""
    if not NOW.quiet:
        typer.echo(line, err=NOW.as_json)


def note(line: str) -> None:
    """Print a line that the user should not miss, on stderr."""
    typer.echo(f"note: {line}", err=True)


def result_as_json(*, wanted: bool) -> None:
    """Keep standard output for one JSON document, if `--json` is given."""
    NOW.as_json = wanted


def print_json(value: Any) -> None:
    """Print the result of a command as JSON; a number that is undefined becomes null."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def at_the_front(words: Sequence[str]) -> list[str]:
    """Move `-q` and `-v` before the command, where they belong to the whole program.

    >>> at_the_front(["train", "work/scans", "-q", "--name", "first"])
    ['-q', 'train', 'work/scans', '--name', 'first']
    """
    end = words.index("--") if "--" in words else len(words)
    loud = [word for word in words[:end] if word in (*QUIET, *VERBOSE)]
    return [*loud, *(w for w in words[:end] if w not in (*QUIET, *VERBOSE)), *words[end:]]


def _environment() -> str:
    """Versions and processors, for a report of a problem."""
    import platform
    from importlib.metadata import version

    from monaiseg import __version__
    from monaiseg.machine import usable_cores

    names = ("torch", "monai", "numpy", "nibabel")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    where = f"Python {platform.python_version()}, {platform.platform()}, {usable_cores()} cores"
    return f"monaiseg {__version__}, {versions}; {where}"


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value != value:  # noqa: PLR0124  NaN
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
