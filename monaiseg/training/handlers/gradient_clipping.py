"""Gradient clipping: limits the norm of the gradient in each step."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from monaiseg.training.handlers.steps import weights_change


class GradientClipping:
    """Clips the norm of the gradient once per change of the weights: accumulated batches are clipped together.

    The norm before clipping is put into `state.gradient_norm`.

    Args:
        norm: maximum norm of the gradient over all weights.
    """

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def attach(self, engine: Engine) -> None:
        """Clip after the backward pass, before the optimiser's step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Any) -> None:
        if not weights_change(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        norm = nn.utils.clip_grad_norm_(engine.network.parameters(), self.norm)
        engine.state.gradient_norm = norm.detach()
