"""Progress: the display of a run on the terminal."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Any

from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from monaiseg.training.handlers.batches import log, loss_of
from monaiseg.training.handlers.steps import at_the_end, is_broken_off, last_step_of


class _Screen(Console):
    """A console whose reader may close the pipe (`| head`) while training continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(
            OSError
        ):  # the rest of the file's buffer is discarded without an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class ProgressDisplay:
    """Shows epoch, loss, Dice and time left: a live line on a terminal; elsewhere, and in the log, a line per epoch."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = _Screen(stderr=True) if console is None else console
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._line = self._bar.add_task("")
        self._first = 0
        self._started = 0.0
        self._dice = ""

    def attach(self, engine: Engine) -> None:
        """Update the display after each step, and print the result of each epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say)
        at_the_end(engine, self._bar.stop)

    def _start(self, engine: Engine) -> None:
        self._started, self._first = time.monotonic(), engine.state.iteration
        self._bar.start()
        self._bar.update(self._line, completed=self._first)

    def _follow(self, engine: Engine) -> None:
        last = last_step_of(engine)
        self._bar.update(
            self._line,
            completed=engine.state.iteration,
            total=last if math.isfinite(last) else None,
            description=self._sentence(engine, loss_of(engine)),
        )

    def _say(self, engine: Engine) -> None:
        """Epoch, mean loss and, after a validation, Dice."""
        if is_broken_off(engine):
            return
        scores = engine.state.metrics
        if "dice/mean" in scores:
            self._dice = f", Dice {scores['dice/mean']:.4f}"
        line = self._sentence(engine, scores["loss"] if "loss" in scores else loss_of(engine))
        log.info("%s", line)
        if not self.console.is_terminal:
            with contextlib.suppress(OSError):  # output goes to a file on a full disk
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _sentence(self, engine: Engine, loss: float) -> str:
        state: Any = engine.state
        last = last_step_of(engine)
        if not math.isfinite(last):
            return f"epoch {state.epoch}, loss {loss:.4f}{self._dice}"
        speed = (time.monotonic() - self._started) / max(state.iteration - self._first, 1)
        left = _duration(speed * (last - state.iteration))
        epochs = math.ceil(last / state.epoch_length)
        return f"epoch {state.epoch} of {epochs}, loss {loss:.4f}{self._dice}, {left} left"


def _duration(seconds: float) -> str:
    """Duration as hours, minutes and seconds.

    >>> _duration(3723.4)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
