"""Progress: on a terminal a bar, in a notebook a line that is updated, elsewhere a line now and then."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from monaiseg import progress
from monaiseg.progress import heartbeat, progress_bar


class Stderr(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def stderr(monkeypatch):
    def replaced(*, terminal):
        found = Stderr(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", found)
        return found

    return replaced


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_file_gets_lines_without_control_characters(stderr, monkeypatch):
    monkeypatch.setattr(progress, "heartbeat", lambda beat: heartbeat(beat, 0.01))
    said = stderr(terminal=False)

    with progress_bar("reading") as advance:
        wait_for(lambda: "reading: 0:00 so far\n" in said.getvalue())
        advance(3, 4)
        wait_for(lambda: "reading: 3 of 4, 0:00 left\n" in said.getvalue())

    assert "\x1b" not in said.getvalue()
    assert "\r" not in said.getvalue()


def test_work_that_ends_soon_leaves_nothing_in_a_log_file(stderr):
    said = stderr(terminal=False)

    with progress_bar("reading") as advance:
        advance(1, 1)

    assert said.getvalue() == ""


def test_a_terminal_gets_a_bar(stderr):
    said = stderr(terminal=True)

    with progress_bar("reading") as advance:
        advance(3, 4)

    assert "reading" in said.getvalue()
    assert "3/4" in said.getvalue()
    assert "\x1b[" in said.getvalue()


def test_nothing_is_shown_where_nothing_is_wanted(stderr):
    said = stderr(terminal=True)

    with progress_bar("reading", show=False) as advance:
        advance(3, 4)

    assert said.getvalue() == ""


class ZMQInteractiveShell:
    """The shell of a Jupyter kernel."""


class Shell(ZMQInteractiveShell):
    """The shell of a kernel that has its own, as in Colab."""


@pytest.mark.parametrize("shell", [ZMQInteractiveShell, Shell])
def test_a_notebook_gets_one_line_that_is_updated(shell, stderr, monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda bundle, **_: shown.append(bundle["text/plain"]))

    def display(bundle, **_):
        shown.append(bundle["text/plain"])
        return handle

    fake = SimpleNamespace(get_ipython=shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    said = stderr(terminal=False)

    with progress_bar("reading") as advance:
        advance(4, 4)

    assert shown == ["reading: 0:00 so far", "reading: 4 of 4, 0:00 left"]
    assert said.getvalue() == ""


def test_the_time_left_follows_from_the_parts_that_are_done(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    pace = progress.Pace("reading")

    now.time = 30.0
    pace.advance(3, 10)

    assert str(pace) == "reading: 3 of 10, 1:10 left"
