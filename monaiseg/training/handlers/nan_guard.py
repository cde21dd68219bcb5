"""NaN guard: stops a run when the loss is NaN or infinite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from monaiseg.errors import NumericsError
from monaiseg.training.checkpoint_file import SUFFIX
from monaiseg.training.handlers.batches import in_words, learning_rate_of, loss_of


class NanGuard:
    """Stops a run when the loss is NaN or infinite, before it can affect the weights.

    Args:
        checkpoints: folder of the run's commits; the message names the last one.
    """

    def __init__(self, checkpoints: Path | None = None) -> None:
        self.checkpoints = checkpoints

    def attach(self, engine: Engine) -> None:
        """Check each loss before the backward pass."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        loss, batch = loss_of(engine), cast(Any, engine.state.batch)
        if math.isfinite(loss):
            return
        commits = sorted(self.checkpoints.glob("step-*.json")) if self.checkpoints else []
        last = (
            f"{commits[-1].with_suffix(SUFFIX)} is not affected"
            if commits
            else "nothing has been saved yet"
        )
        raise NumericsError(
            f"step {engine.state.iteration}: the loss is {loss} on {in_words(batch)} at learning rate "
            f"{learning_rate_of(engine):g}; {last}; check these cases, or lower tsk_set.optim.lr"
        )
