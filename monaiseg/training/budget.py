"""A budget of minutes: how many steps a training may have, so that it ends on time with everything in it.

The *clock* runs from the start of the command. A *pace* is what the parts of a training were measured to take. The
last step follows from it and from the time left; that *decision* is committed before the next step is computed, and a
resumed training goes on by it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CALIBRATION_STEPS = 10
"""Steps after which the end is decided for the first time."""
UNSTEADY_STEPS = 2
"""A process's first steps wait for workers and memory: their time is spent, but tells nothing of the others'."""
FORWARD_SHARE = 1 / 2
"""What a window at validation takes of a step's patch, until it has been measured: a third of it is the way forward, scores
are added up, and where steps are in bfloat16 windows are not."""
EXIT_SECONDS = 2.0
"""Kept for the interpreter's start and the end of the process."""
VALIDATION_SLACK = 1.25
"""The last validation may take so many times what the one before it took."""


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a training take."""

    step: float
    """One step, the wait for its batch included."""
    validation: float
    """Validation and debug cases, and saving the best."""
    closing: float = 0.0
    """The rest of an epoch's end, with a commit."""

    @property
    def ending(self) -> float:
        """What must be left when the last step is done."""
        return VALIDATION_SLACK * self.validation + self.closing + EXIT_SECONDS


@dataclass(frozen=True)
class Rhythm:
    """What comes how often."""

    steps_per_epoch: int
    val_period: int
    """Epochs from one validation to the next."""

    def seconds(self, pace: Pace, done: int, last: int, closed: int) -> float:
        """Seconds to the end of a training whose last step is `last`, from step `done` on with `closed` epochs closed.

        >>> Rhythm(steps_per_epoch=5, val_period=1).seconds(Pace(step=1.0, validation=4.0), 10, 20, closed=2)
        21.0
        """
        epochs = (last - 1) // self.steps_per_epoch  # closed before the one that the last step ends
        validations = epochs // self.val_period - closed // self.val_period
        return (
            pace.step * (last - done)
            + pace.validation * max(validations, 0)
            + pace.closing * max(epochs - closed, 0)
            + pace.ending
        )

    def last_step(self, pace: Pace, done: int, seconds: float, closed: int) -> int:
        """The last step of a training that has so many seconds left; one more than `done` at least.

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
    """The clock of a training: measures its pace, and says what the time left allows.

    Args:
        minutes: for the whole training.
        rhythm: its epochs and validations.
        windows: windows that a validation looks at, in batches of a step's size.
        started: when the clock began to run, by `clock`. None: now.
        clock: seconds that never go back.
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
        """As decided; infinite until it is."""
        self._unsteady = UNSTEADY_STEPS
        self._steps: list[float] = []  # since the last decision
        self._state = {"spent": 0.0, "step": 0.0, "validation": 0.0, "closing": 0.0}

    @property
    def spent(self) -> float:
        """Seconds so far, those up to the commit that this process goes on from included."""
        return self._state["spent"] + self._clock() - self._started

    @property
    def pace(self) -> Pace:
        """As measured since the last decision; what has not been measured yet is guessed from the steps."""
        step = sum(self._steps) / len(self._steps) if self._steps else self._state["step"]
        guess = FORWARD_SHARE * self.windows * step
        return Pace(max(step, 1e-6), self._state["validation"] or guess, self._state["closing"])

    def choose_last_step(self, done: int, closed: int) -> int:
        """The last step that the clock allows after step `done`, with `closed` epochs closed; steps are measured anew."""
        last = self.rhythm.last_step(self.pace, done, self.seconds - self.spent, closed)
        self._state["step"], self._steps = self.pace.step, []
        return last

    def is_spent(self, done: int) -> bool:
        """Whether another step after step `done`, which has just been computed, would end too late."""
        closed = (done - 1) // self.rhythm.steps_per_epoch
        return self.rhythm.seconds(self.pace, done, done + 1, closed) > self.seconds - self.spent

    # ------------------------------------------------------------ what has just passed

    def begun(self) -> None:
        """The first step of a run is about to begin."""
        self._lap()

    def stepped(self) -> None:
        """A step is over."""
        if self._unsteady and self._steps:
            self._unsteady -= 1
            self._steps.pop()
        self._steps.append(self._lap())

    def validated(self) -> None:
        """A validation is over."""
        self._state["validation"] = self._lap()

    def closed(self, *, committed: bool) -> None:
        """An epoch's end, or a commit within one, is over; the last of a training has a commit, so these are counted."""
        seconds = self._lap()
        if committed:
            self._state["closing"] = seconds

    def _lap(self) -> float:
        now = self._clock()
        seconds, self._since = now - self._since, now
        return seconds

    # ------------------------------------------------------------ there and back

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps: seconds spent so far, the pace and the last step."""
        return self._state | {"spent": self.spent, "last_step": self.last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as `state_dict` left it."""
        self._state = {name: float(state[name]) for name in self._state}
        self.last_step = state["last_step"]
