"""Progress: how far long work is, and how long it will take.

On a terminal it is a live bar, in a notebook a line that is updated, and elsewhere (a log file) a line from time to
time, without control characters. Everything goes to stderr.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]
"""Called with the number of parts done, the number of all parts and, if it changes, what is done."""
LINE_SECONDS = 20.0
"""Seconds between lines where there is neither a terminal nor a notebook."""
NOTEBOOK_SECONDS = 0.2
"""Seconds between updates of a line in a notebook."""


@contextmanager
def progress_bar(what: str, *, show: bool = True) -> Iterator[Advance]:
    """Show the progress of the work in the block; it yields a function to call after each part.

    Work that cannot say how far it is never calls it: then only the time that has passed is shown.
    """
    if not show:
        yield no_progress
    elif in_notebook():
        with _line_in_notebook(what) as advance:
            yield advance
    elif sys.stderr.isatty():
        with _bar_on_terminal(what) as advance:
            yield advance
    else:
        with _lines_now_and_then(what) as advance:
            yield advance


def in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel, which shows output below a cell.

    Colab and others have a shell of their own, which is derived from that of Jupyter.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


def duration(seconds: float) -> str:
    """Duration as hours, minutes and seconds.

    >>> duration(3723.4)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How far work is, in words; the time left follows from the parts that are done."""

    def __init__(self, what: str) -> None:
        self.what, self.done, self.total = what, 0, 0
        self._started = time.monotonic()

    def advance(self, done: int, total: int, what: str = "") -> None:
        """Take note of the number of parts done and of all parts."""
        self.done, self.total, self.what = done, total, what or self.what

    def __str__(self) -> str:
        passed = time.monotonic() - self._started
        if not self.done:
            return f"{self.what}: {duration(passed)} so far"
        left = passed / self.done * (self.total - self.done)
        return f"{self.what}: {self.done} of {self.total}, {duration(left)} left"


@contextmanager
def heartbeat(beat: Callable[[], None], seconds: float = LINE_SECONDS) -> Iterator[None]:
    """Call `beat` in a thread every so many seconds while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def show_in_notebook(text: str, handle: Any = None) -> Any:
    """Show a text below the cell, or replace the one that `handle` shows; returns the handle."""
    bundle = {"text/plain": text}
    if handle is None:  # a kernel has IPython; nobody else needs it
        display = importlib.import_module("IPython.display").display
        return display(bundle, raw=True, display_id=True)
    handle.update(bundle, raw=True)
    return handle


@contextmanager
def _line_in_notebook(what: str) -> Iterator[Advance]:
    pace, handle, shown = Pace(what), None, 0.0
    handle = show_in_notebook(str(pace))

    def advance(done: int, total: int, what: str = "") -> None:
        nonlocal shown
        pace.advance(done, total, what)
        if done == total or time.monotonic() - shown > NOTEBOOK_SECONDS:
            shown = time.monotonic()
            show_in_notebook(str(pace), handle)

    yield advance


@contextmanager
def _bar_on_terminal(what: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, what=what: bar.update(
            task, completed=done, total=total, description=what
        )


@contextmanager
def _lines_now_and_then(what: str) -> Iterator[Advance]:
    pace = Pace(what)
    with heartbeat(lambda: print_line(str(pace))):
        yield pace.advance


def print_line(line: str) -> None:
    """Write a line to stderr; a reader that has gone (`| head`) is no reason to stop."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def no_progress(_done: int, _total: int, _what: str = "") -> None:
    """Show no progress."""
