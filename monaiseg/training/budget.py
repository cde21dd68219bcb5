"""A budget of minutes: how many steps a run can take so that it ends on time, with its last validation and commit.

The *clock* starts with the command. A *pace* is the measured duration of each part of a run. The pace and the time
left determine the last step. This *decision* is committed before the next step is computed, and a resumed run
follows it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CALIBRATION_STEPS = 10
"""Number of steps before the last step is decided for the first time."""
UNSTEADY_STEPS = 2
"""Number of steps at the start of a process that the pace ignores, because they wait for workers and memory. Their
time still counts as spent."""
FORWARD_SHARE = 1 / 2
"""Estimated time of a validation window, as a share of the time per training patch, until it has been measured. The
forward pass is about a third of a step; windows also have to be scored, and do not use bfloat16 even if steps do."""
EXIT_SECONDS = 2.0
"""Time reserved for the start of the interpreter and the end of the process."""
DECISION_SHARE = 1 / 20
"""Share of the budget after which the last step is decided again, but not within `LEAST_DECISION_SECONDS`."""
LEAST_DECISION_SECONDS = 20.0
CLOSE_ENOUGH = 1 / 50
"""Share of the budget that may be left over, or be missing, without another decision."""
VALIDATION_SLACK = 1.25
"""The last validation may take this many times as long as the one before it."""


@dataclass(frozen=True)
class Pace:
    """Duration of each part of a run, in seconds."""

    step: float
    """One step, including the wait for its batch."""
    validation: float
    """Validation of the val and debug cases, including saving the best checkpoint."""
    closing: float = 0.0
    """The rest of the end of an epoch, including a commit."""

    @property
    def ending(self) -> float:
        """Seconds that must be left after the last step."""
        return VALIDATION_SLACK * self.validation + self.closing + EXIT_SECONDS


@dataclass(frozen=True)
class Rhythm:
    """Length of an epoch, and how often a validation follows."""

    steps_per_epoch: int
    val_period: int
    """Number of epochs from one validation to the next."""
    at_the_end: float = 0.0
    """What follows the last validation, in the time of a validation: another with mirrored windows."""

    def seconds(self, pace: Pace, done: int, last: int, closed: int) -> float:
        """Seconds from step `done`, with `closed` epochs closed, to the end of a run whose last step is `last`.

        >>> Rhythm(steps_per_epoch=5, val_period=1).seconds(Pace(step=1.0, validation=4.0), 10, 20, closed=2)
        21.0
        """
        epochs = (last - 1) // self.steps_per_epoch  # closed before the epoch of the last step
        validations = epochs // self.val_period - closed // self.val_period
        return (
            pace.step * (last - done)
            + pace.validation * max(validations, 0)
            + pace.closing * max(epochs - closed, 0)
            + VALIDATION_SLACK * pace.validation * self.at_the_end
            + pace.ending
        )

    def last_step(self, pace: Pace, done: int, seconds: float, closed: int) -> int:
        """The last step of a run that has this many seconds left; at least `done` + 1.

        >>> Rhythm(steps_per_epoch=5, val_period=1).last_step(Pace(step=1.0, validation=4.0), 10, 21.0, closed=2)
        20
        """
        low, high = done + 1, done + 2 + max(int(seconds / pace.step), 0)
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.seconds(pace, done, middle, closed) <= seconds
            low, high = (middle, high) if fits else (low, middle)
        return low


class Budget:
    """The clock of a run: measures its pace and decides how many steps fit into the time left.

    Args:
        minutes: minutes for the whole run.
        rhythm: steps per epoch and epochs between validations.
        windows: number of windows in a validation, divided by the batch size.
        started: time at which the clock started, as given by `clock`. None: now.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        minutes: float,
        rhythm: Rhythm,
        *,
        windows: float = 0.0,
        started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.rhythm, self.windows = 60 * minutes, rhythm, windows
        self._clock = clock
        self._since = clock()
        self._started = self._since if started is None else started
        self.last_step = math.inf
        """The decided last step; infinite before the first decision."""
        self._unsteady = UNSTEADY_STEPS
        self._steps: list[float] = []  # since the last decision
        self._decided = self._since
        self._halfway = math.inf
        self._state = dict.fromkeys(("spent", "step", "validation", "steps_then", "closing"), 0.0)

    @property
    def spent(self) -> float:
        """Seconds spent so far, including those before the commit that this process resumed from."""
        return self._state["spent"] + self._clock() - self._started

    @property
    def pace(self) -> Pace:
        """The pace measured since the last decision.

        If steps take longer than at the last validation, because other programs take the processor by now, so will the next
        validation. Before the first, its time is estimated from the steps.
        """
        step = sum(self._steps) / len(self._steps) if self._steps else self._state["step"]
        step, known = max(step, 1e-6), self._state
        if known["steps_then"]:
            validation = known["validation"] * step / known["steps_then"]
        else:
            validation = FORWARD_SHARE * self.windows * step
        return Pace(step, validation, known["closing"])

    def choose_last_step(self, done: int, closed: int) -> int:
        """The last step that fits after step `done`, with `closed` epochs closed. Restarts measuring the steps."""
        last = self.rhythm.last_step(self.pace, done, self.seconds - self.spent, closed)
        self._state["step"], self._steps = self.pace.step, []
        self._decided, self._halfway = self._clock(), done + max((last - done) // 2, 1)
        return last

    def is_due(self, done: int) -> bool:
        """Whether the last step should be decided again after step `done`.

        So it should when a share of the budget has passed since the last decision, and when half of the steps that were
        left then are done, if by the pace since then the run would end too early or too late.
        """
        since = self._clock() - self._decided
        if since > max(DECISION_SHARE * self.seconds, LEAST_DECISION_SECONDS):
            return True
        if done < self._halfway or not math.isfinite(self.last_step):
            return False
        return abs(self._left_over(done, int(self.last_step))) > CLOSE_ENOUGH * self.seconds

    def is_spent(self, done: int) -> bool:
        """Whether one more step after step `done`, which has just been computed, would end too late."""
        return self._left_over(done, done + 1) < 0

    def _left_over(self, done: int, last: int) -> float:
        """Seconds that will be left over, or if negative missing, if the run ends with step `last`.

        Step `done` has just been computed. If it is the last of an epoch, that epoch is not closed yet.
        """
        closed = (done - 1) // self.rhythm.steps_per_epoch
        return self.seconds - self.spent - self.rhythm.seconds(self.pace, done, last, closed)

    # ------------------------------------------------------------ measuring

    def begun(self) -> None:
        """Called before the first step of this process."""
        self._lap()

    def stepped(self) -> None:
        """Called after each step."""
        if self._unsteady and self._steps:
            self._unsteady -= 1
            self._steps.pop()
        self._steps.append(self._lap())

    def validated(self) -> None:
        """Called after each validation."""
        self._state |= {"validation": self._lap(), "steps_then": self.pace.step}

    def closed(self, *, committed: bool) -> None:
        """Called after the end of an epoch, and after a commit inside one.

        Only an end with a commit is measured, because the last one of a run has a commit.
        """
        seconds = self._lap()
        if committed:
            self._state["closing"] = seconds

    def _lap(self) -> float:
        now = self._clock()
        seconds, self._since = now - self._since, now
        return seconds

    # ------------------------------------------------------------ saving and loading

    def state_dict(self) -> dict[str, float]:
        """State for a checkpoint: seconds spent so far, the pace and the last step."""
        return self._state | {"spent": self.spent, "last_step": self.last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._state = {name: float(state[name]) for name in self._state}
        self.last_step = state["last_step"]
