"""Learning rate: a function of the step, so that a resumed training cannot be a step behind.

What is remembered: how far validation has made `plateau` fall and, under a budget, where the training was last decided
to end.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from monaiseg.settings import OptimSettings
from monaiseg.training.handlers.steps import RunEvents, listen

WARMUP_START = 0.1
"""Share of the learning rate that the warm-up starts from, EasyReg's."""


@dataclass(frozen=True)
class Course:
    """From the warm-up to the last step."""

    warmup_steps: int
    last_step: float
    """Infinite until a budget's end is decided: there is no progress before."""
    start: int
    """Steps done when it was decided; the warm-up's at least."""
    share: float = 0.0
    """Progress then."""

    def progress(self, done: int) -> float:
        """Share of the way from the warm-up to the last step that `done` steps are."""
        way = max(done - self.start, 0) / max(self.last_step - self.start, 1)
        return self.share + (1 - self.share) * way

    def ending(self, done: int, last_step: int) -> Course:
        """The course from step `done` on to another last step; progress goes on from where it is.

        A warm-up that would take more than a tenth of the training ends early.

        >>> course = Course(10, 110, start=10).ending(60, 85)
        >>> [course.progress(done) for done in (60, 85)]
        [0.5, 1.0]
        """
        warmup = min(self.warmup_steps, max(done, last_step // 10))
        return Course(warmup, last_step, max(done, warmup), self.progress(done))


class LearningRate:
    """Sets an optimiser's learning rate before each step.

    torch's schedulers count calls, and `ReduceLROnPlateau` is no function of the step at all: where one stands after a
    kill depends on when it was saved. Here the rate of step N is that of step N.

    Args:
        optimizer: every parameter group gets the same rate.
        settings: schedule and base rate.
        steps_per_epoch: batches of an epoch.
        epochs: epochs of the whole training; `poly` and `cosine` reach zero at their end. None: until `end_at` says
            where the end is, they do not fall.
        warmup_epochs: epochs over which the rate rises linearly from a tenth to its full value.
        base: rate after the warm-up in place of `settings.lr`; a checkpoint remembers it.
        watched: the score in `state.metrics` that `plateau` looks at after each validation.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        settings: OptimSettings,
        *,
        steps_per_epoch: int,
        epochs: int | None,
        warmup_epochs: float,
        base: float | None = None,
        watched: str = "dice/mean",
    ) -> None:
        self.optimizer, self.watched = optimizer, watched
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch
        self.is_open = epochs is None
        last = math.inf if epochs is None else steps_per_epoch * epochs
        warmup = int(min(round(warmup_epochs * steps_per_epoch), last))
        self.course = Course(warmup, last, start=warmup)
        self._given = base
        self._fallen = 1.0  # plateau: product of the falls so far
        self._best = -math.inf
        self._waited = 0

    def attach(self, engine: Engine) -> None:
        """Set the rate before each step, and look at the score of each validation."""
        engine.add_event_handler(
            Events.ITERATION_STARTED, lambda: self.apply(engine.state.iteration)
        )
        listen(engine, RunEvents.VALIDATED, self._listen)

    def _listen(self, engine: Engine) -> None:
        score = engine.state.metrics.get(self.watched, math.nan)
        if not math.isnan(score):  # NaN: no validation case has any structure
            self.validated(score)

    @property
    def base(self) -> float:
        """The rate after the warm-up."""
        return self.settings.lr if self._given is None else self._given

    def at(self, step: int) -> float:
        """The rate of the step-th batch, counted from 1."""
        if step <= self.course.warmup_steps:
            share = (step - 1) / self.course.warmup_steps
            return self.base * (WARMUP_START + (1 - WARMUP_START) * share)
        return self._after_warmup(step)

    def _after_warmup(self, step: int) -> float:
        scheduler = self.settings.lr_scheduler
        progress = self.course.progress(step - 1)
        if scheduler.type == "step":
            epoch = (step - 1) // self.steps_per_epoch
            return self.base * scheduler.step.gamma ** (epoch // scheduler.step.step_size)
        if scheduler.type == "poly":
            return float(self.base * max(1 - progress, 0.0) ** scheduler.poly.power)
        if scheduler.type == "cosine":
            return self.base * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        if scheduler.type == "plateau":
            return max(self.base * self._fallen, min(scheduler.plateau.min_lr, self.base))
        return self.base

    def apply(self, step: int) -> float:
        """Give the optimiser the rate of this step, and return it."""
        rate = self.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def end_at(self, done: int, last_step: int) -> None:
        """Decide after step `done` that the training ends with step `last_step`."""
        self.course = self.course.ending(done, last_step)

    def validated(self, dice: float) -> None:
        """Tell `plateau` the mean foreground Dice of a validation; the other schedules do not listen."""
        plateau = self.settings.lr_scheduler.plateau
        if dice > self._best + plateau.threshold:
            self._best, self._waited = dice, 0
            return
        self._waited += 1
        if self._waited > plateau.patience:
            self._fallen, self._waited = self._fallen * plateau.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "base": self._given,
            "fallen": self._fallen,
            "best": self._best,
            "waited": self._waited,
            "course": asdict(self.course) if self.is_open else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as `state_dict` left it, by these settings: a rate that was lowered in them stays so."""
        if self._given is None:
            self._given = state["base"]
        self._fallen, self._best = float(state["fallen"]), float(state["best"])
        self._waited = int(state["waited"])
        if state["course"] is not None:
            self.course = Course(**state["course"])
