"""Learning rate: a function of the step, so that a resumed run cannot be a step behind.

Only two things are remembered: how far `plateau` has lowered the rate and, with a time budget, the last step as last
decided.
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
"""Fraction of the learning rate at the start of the warm-up, as in EasyReg."""


@dataclass(frozen=True)
class Course:
    """Progress from the end of the warm-up (0) to the last step (1)."""

    warmup_steps: int
    last_step: float
    """Infinite until a time budget has decided the last step; progress is 0 until then."""
    start: int
    """Steps done when the last step was decided; at least `warmup_steps`."""
    share: float = 0.0
    """Progress at `start`."""

    def progress(self, done: int) -> float:
        """Progress after `done` steps, from 0 at the end of the warm-up to 1 at the last step."""
        way = max(done - self.start, 0) / max(self.last_step - self.start, 1)
        return self.share + (1 - self.share) * way

    def ending(self, done: int, last_step: int) -> Course:
        """The course from step `done` to another last step; progress continues from its current value.

        A warm-up that would take more than a tenth of the run ends early.

        >>> course = Course(10, 110, start=10).ending(60, 85)
        >>> [course.progress(done) for done in (60, 85)]
        [0.5, 1.0]
        """
        warmup = min(self.warmup_steps, max(done, last_step // 10))
        return Course(warmup, last_step, max(done, warmup), self.progress(done))


class LearningRate:
    """Sets an optimiser's learning rate before each step.

    torch's schedulers count calls, and `ReduceLROnPlateau` does not depend on the step at all, so their rate after a
    kill depends on when they were saved. Here the rate is always that of the current step.

    Args:
        optimizer: optimiser; every parameter group gets the same rate.
        settings: schedule and base rate.
        steps_per_epoch: number of steps per epoch.
        epochs: epochs of the whole run, at the end of which `poly` and `cosine` reach zero. None: these schedules do
            not decrease until `end_at` sets the last step.
        warmup_epochs: epochs over which the rate rises linearly from a tenth to its full value.
        base: rate after the warm-up, in place of `settings.lr`; checkpoints save it.
        watched: name of the score in `state.metrics` that `plateau` uses after each validation.
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
        self._fallen = 1.0  # plateau: product of all reductions so far
        self._best = -math.inf
        self._waited = 0

    def attach(self, engine: Engine) -> None:
        """Set the rate before each step, and use the score of each validation."""
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
        """The rate of a step, counted from 1."""
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
        """Set the optimiser's rate for this step and return it."""
        rate = self.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def end_at(self, done: int, last_step: int) -> None:
        """After step `done`, set the last step of the run."""
        self.course = self.course.ending(done, last_step)

    def validated(self, dice: float) -> None:
        """Pass the mean foreground Dice of a validation to `plateau`; it has no effect on other schedules."""
        plateau = self.settings.lr_scheduler.plateau
        if dice > self._best + plateau.threshold:
            self._best, self._waited = dice, 0
            return
        self._waited += 1
        if self._waited > plateau.patience:
            self._fallen, self._waited = self._fallen * plateau.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {
            "base": self._given,
            "fallen": self._fallen,
            "best": self._best,
            "waited": self._waited,
            "course": asdict(self.course) if self.is_open else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. The settings are not part of it: a rate lowered in them stays lowered."""
        if self._given is None:
            self._given = state["base"]
        self._fallen, self._best = float(state["fallen"]), float(state["best"])
        self._waited = int(state["waited"])
        if state["course"] is not None:
            self.course = Course(**state["course"])
