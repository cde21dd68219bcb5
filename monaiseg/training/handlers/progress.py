"""Progress: what a run shows on the terminal."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from monaiseg.training.handlers.batches import log, loss_of


class _Screen(Console):
    """A console whose reader may leave (`| head`): the training that it shows goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(
            OSError
        ):  # what is still in the file's buffer goes nowhere, quietly
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class ProgressDisplay:
    """Epoch, loss, Dice and time left: a live line on a terminal, one plain line an epoch elsewhere and in the log."""

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
        self._steps: float = 0
        self._epoch_length = 1
        self._started = 0.0
        self._dice = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The live line stands on the screen while the block runs."""
        with self._bar:
            yield

    def attach(self, engine: Engine) -> None:
        """Follow the steps of a training."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def end_at(self, last_step: float) -> None:
        """The training now ends with this step; infinite where that is not decided yet."""
        self._steps = last_step
        self._bar.update(self._line, total=last_step if math.isfinite(last_step) else None)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Say what an epoch's row holds: epoch, step, loss and, after a validation, `dice/mean`."""
        if "dice/mean" in row:
            self._dice = f", Dice {row['dice/mean']:.4f}"
        line = self._sentence(row["epoch"], row["step"], row["loss"])
        log.info("%s", line)
        if not self.console.is_terminal:
            with contextlib.suppress(OSError):  # sent to a file whose disk is full
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _start(self, engine: Engine) -> None:
        state: Any = engine.state
        self._started, self._first = time.monotonic(), state.iteration
        self._epoch_length = state.epoch_length
        self.end_at(state.max_epochs * state.epoch_length)
        self._bar.update(self._line, completed=state.iteration)

    def _follow(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._bar.update(
            self._line,
            completed=step,
            description=self._sentence(engine.state.epoch, step, loss_of(engine)),
        )

    def _sentence(self, epoch: int, step: int, loss: float) -> str:
        if not math.isfinite(self._steps):
            return f"epoch {epoch}, loss {loss:.4f}{self._dice}"
        speed = (time.monotonic() - self._started) / max(step - self._first, 1)
        left = _duration(speed * (self._steps - step))
        epochs = math.ceil(self._steps / self._epoch_length)
        return f"epoch {epoch} of {epochs}, loss {loss:.4f}{self._dice}, {left} left"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _duration(3723.4)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
