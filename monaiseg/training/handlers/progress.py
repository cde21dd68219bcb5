"""Progress: the display of a run.

On a terminal it is a live panel, in a notebook a text below the cell, and in a log file a line per epoch and, if an epoch
or a validation takes long, a line in between.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ignite.engine import Engine, Events
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from monaiseg.progress import LINE_SECONDS, duration, heartbeat, in_notebook, show_in_notebook
from monaiseg.training.handlers.batches import log, loss_of
from monaiseg.training.handlers.steps import at_the_end, is_broken_off, last_step_of

BARS = "▁▂▃▄▅▆▇█"
"""Heights of a sparkline."""
SPARKS = 40
"""Most values that a sparkline shows."""
REFRESHES = 4
"""Times per second that a terminal or a notebook is updated."""


class _Screen(Console):
    """A console whose reader may close the pipe (`| head`) while training continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(
            OSError
        ):  # the rest of the file's buffer is discarded without an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class ProgressDisplay:
    """Shows epoch, loss, Dice and the time left.

    Args:
        console: where to show them. None: stderr, or the notebook.
        show: False: only the log gets a line per epoch.
        evaluators: engines whose cases are shown while they validate.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        show: bool = True,
        evaluators: Iterable[Engine] = (),
    ) -> None:
        self.console = _Screen(stderr=True, quiet=not show) if console is None else console
        self.evaluators = tuple(evaluators)
        self._in_notebook = show and console is None and in_notebook()
        self._shown: Any = None
        self._open = contextlib.ExitStack()
        self._first, self._steps, self._last, self._length = 0, 0, math.inf, 1
        self._epoch, self._started, self._printed = 1, 0.0, 0.0
        self._loss, self._validating = math.nan, ""
        self._losses: list[float] = []
        self._scores: list[tuple[int, float]] = []

    def attach(self, engine: Engine) -> None:
        """Update the display after each step and validated case, and print the result of each epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._say)
        for evaluator in self.evaluators:
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._validate)
        at_the_end(engine, self._open.close)

    def _start(self, engine: Engine) -> None:
        self._started = self._printed = time.monotonic()
        self._first = engine.state.iteration
        self._take(engine)
        if self.console.quiet:
            return
        if self._in_notebook:
            self._shown = show_in_notebook(self._in_words())
            self._open.callback(self._update_notebook)
        elif self.console.is_terminal:
            live = Live(
                console=self.console,
                get_renderable=self._panel,
                refresh_per_second=REFRESHES,
                transient=True,
            )
            self._open.enter_context(live)
        else:
            self._open.enter_context(heartbeat(self._beat, LINE_SECONDS / 4))

    def _take(self, engine: Engine) -> None:
        """Remember what the display needs, which other threads read."""
        state: Any = engine.state
        self._steps, self._last, self._length = (
            state.iteration,
            last_step_of(engine),
            state.epoch_length,
        )
        self._epoch = max(state.epoch, 1)

    def _follow(self, engine: Engine) -> None:
        self._loss, self._validating = loss_of(engine), ""
        self._take(engine)
        self._update_notebook(now_and_then=True)

    def _validate(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        place = (state.iteration - 1) % state.epoch_length + 1
        self._validating = f"validation: case {place} of {state.epoch_length}"
        self._update_notebook(now_and_then=True)

    def _say(self, engine: Engine) -> None:
        """Epoch, mean loss and, after a validation, Dice."""
        if is_broken_off(engine):
            return
        self._take(engine)
        metrics = engine.state.metrics
        self._loss, self._validating = metrics.get("loss", self._loss), ""
        self._losses.append(self._loss)
        if "dice/mean" in metrics:
            self._scores.append((self._epoch, metrics["dice/mean"]))
        line = self._sentence()
        log.info("%s", line)
        if not self.console.is_terminal and not self._in_notebook:
            self._print(line)

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        with contextlib.suppress(OSError):  # output goes to a file on a full disk
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _beat(self) -> None:
        """Print where the run is, if nothing has been printed for some time."""
        if time.monotonic() - self._printed >= LINE_SECONDS:
            self._print(self._validating or self._sentence(with_steps=True))

    def _sentence(self, *, with_steps: bool = False) -> str:
        """One line: epoch, loss, the last Dice and the time left."""
        steps = f", step {self._steps}" if with_steps else ""
        dice = f", Dice {self._scores[-1][1]:.4f}" if self._scores else ""
        loss = "" if math.isnan(self._loss) else f", loss {self._loss:.4f}"
        if not math.isfinite(self._last):
            return f"epoch {self._epoch}{steps}{loss}{dice}"
        epochs = math.ceil(self._last / self._length)
        return f"epoch {self._epoch} of {epochs}{steps}{loss}{dice}, {self._left()}"

    def _left(self) -> str:
        done = self._steps - self._first
        if not done:
            return "starting"
        speed = (time.monotonic() - self._started) / done
        return f"{duration(speed * (self._last - self._steps))} left"

    def _curves(self) -> list[str]:
        """Lines with the loss of each epoch and the Dice of each validation as sparklines."""
        lines = []
        if len(self._losses) > 1:
            lines.append(f"loss {sparkline(self._losses)} {self._losses[-1]:.4f}")
        if self._scores:
            epoch, best = max(self._scores, key=lambda score: score[1])
            values = [value for _, value in self._scores]
            lines.append(
                f"Dice {sparkline(values)} {values[-1]:.4f}, best {best:.4f} in epoch {epoch}"
            )
        return [*lines, *filter(None, [self._validating])]

    def _panel(self) -> RenderableType:
        total = self._last if math.isfinite(self._last) else None
        bar = ProgressBar(total=total, completed=self._steps, width=SPARKS)
        return Group(bar, *(Text(line) for line in (self._sentence(), *self._curves())))

    def _in_words(self) -> str:
        return "\n".join([self._sentence(), *self._curves()])

    def _update_notebook(self, *, now_and_then: bool = False) -> None:
        recent = time.monotonic() - self._printed < 1 / REFRESHES
        if self._shown is not None and not (now_and_then and recent):
            self._printed = time.monotonic()
            show_in_notebook(self._in_words(), self._shown)


def sparkline(values: Sequence[float]) -> str:
    """The last values as bars between the lowest and the highest of them; one that is not finite is a space.

    >>> sparkline([0.9, 0.6, 0.3, 0.2])
    '█▅▂▁'
    """
    shown = values[-SPARKS:]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(
        BARS[round((value - low) / step)] if math.isfinite(value) else " " for value in shown
    )
