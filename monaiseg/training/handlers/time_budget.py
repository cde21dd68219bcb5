"""Time budget: ends a run on time, including its last validation and checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events

from monaiseg.training import distributed
from monaiseg.training.budget import CALIBRATION_STEPS, Budget
from monaiseg.training.handlers.learning_rate import LearningRate
from monaiseg.training.handlers.steps import RunEvents, listen, weights_change

log = logging.getLogger("monaiseg")


class TimeBudget:
    """Decides the last step from the measured pace and the time left, again and again.

    A computer that is busy for a while would otherwise leave minutes unused, or the schedule unfinished: the last step
    is decided anew at each checkpoint of an epoch, after each twentieth of the time, and towards the end each time half
    of the remaining steps are done.

    `ignite.handlers.TimeLimit` stops as soon as the time is up, without a validation and before the learning rate has
    reached its end. Other handlers read the decision from `state.last_step` and `state.max_epochs`. Attach this
    handler after `ExactResume`, so that it counts the time for checkpoints.

    Args:
        budget: the clock and the pace.
        rate: learning rate that should reach its end with the last step.
        commit: function that writes a checkpoint. The first decision is committed at once, inside an epoch. None: no
            checkpoints are written, and the last step is decided again after each epoch.
    """

    def __init__(
        self,
        budget: Budget,
        rate: LearningRate | None = None,
        commit: Callable[[Engine], None] | None = None,
    ) -> None:
        self.budget, self.rate, self.commit = budget, rate, commit
        self._has_committed = False

    def attach(self, engine: Engine) -> None:
        """Measure the pace, decide the last step and end the run there."""
        self._tell(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        listen(engine, RunEvents.VALIDATED, self.budget.validated)
        listen(engine, RunEvents.CLOSED, self._decide_with_a_commit)

    def _start(self, engine: Engine) -> None:
        self._tell(engine)
        self.budget.begun()

    def _end_step(self, engine: Any) -> None:
        """Decide the last step once the first steps have been measured; end at this step if the time is up."""
        step, length = engine.state.iteration, engine.state.epoch_length
        self.budget.stepped()
        if distributed.any_of(step < self.budget.last_step and self.budget.is_spent(step)):
            self._end_at(engine, step)
        elif self._is_due(step):
            self._decide_inside_epoch(engine)
        if step == self.budget.last_step and step % length:
            engine.terminate_epoch()

    def _is_due(self, step: int) -> bool:
        if not self._is_decided:
            return step >= CALIBRATION_STEPS
        return step < self.budget.last_step and distributed.from_first(self.budget.is_due(step))

    def _decide_inside_epoch(self, engine: Any) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0 or not weights_change(engine):
            return
        self._decide(engine)
        if self.commit is not None:
            self.commit(engine)
        self.budget.closed(committed=True)

    def _decide_with_a_commit(self, engine: Engine) -> None:
        """Decide again before the checkpoint at the end of an epoch. Only a committed decision takes effect."""
        if engine.state.iteration < self.budget.last_step:
            self._decide(engine)
        self._has_committed = True

    def _end_epoch(self, engine: Engine) -> None:
        if self.commit is None and engine.state.iteration < self.budget.last_step:
            self._decide(engine)
        self.budget.closed(committed=self._has_committed)
        self._has_committed = False

    def _decide(self, engine: Engine) -> None:
        step, length = engine.state.iteration, engine.state.epoch_length or 1
        self._end_at(
            engine, distributed.from_first(self.budget.choose_last_step(step, step // length))
        )
        log.info(
            "time budget: %.0f of %.0f seconds used after step %d; the last step will be %g",
            self.budget.spent, self.budget.seconds, step, self.budget.last_step,
        )  # fmt: skip

    def _end_at(self, engine: Engine, last_step: int) -> None:
        self.budget.last_step = last_step
        if self.rate is not None:
            self.rate.end_at(engine.state.iteration, last_step)
        self._tell(engine)

    def _tell(self, engine: Any) -> None:
        """Tell the engine the last step, and as many epochs as it takes (or the next step, before the decision)."""
        last = self.budget.last_step
        engine.state.last_step = last
        ahead = last if self._is_decided else engine.state.iteration + 1
        engine.state.max_epochs = math.ceil(ahead / engine.state.epoch_length)

    @property
    def _is_decided(self) -> bool:
        return math.isfinite(self.budget.last_step)
