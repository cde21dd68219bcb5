"""Weight averaging: an exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from monaiseg.training.handlers.steps import weights_change


class WeightAveraging:
    """Exponential moving average of a network's weights, as `state_dict` has them.

    Ours, because of what others do with the rest of a network's state and with accumulated gradients:
    `torch.optim.swa_utils.AveragedModel` either takes batch normalisation's statistics as they are now, which do not
    belong to averaged weights, or averages its count of batches too; `ignite.handlers.EMAHandler` lets the average's
    buffers be the network's own tensors, updates also at steps that change no weight, and is not in ignite's
    checkpoints: its weights have to be saved beside it.

    Args:
        network: the network in training.
        decay: share of the average that stays at each change of the weights. Early on it is less,
            (1 + step) / (10 + step), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = _copy(network.state_dict())
        # The network's own tensors stay where they are in memory.
        own = network.state_dict()
        pairs = [(average, own[name]) for name, average in self.weights.items()]
        self._learned = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    def attach(self, engine: Engine) -> None:
        """Follow the weights, whenever they change."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def _follow(self, engine: Engine) -> None:
        if weights_change(engine):
            self.update(engine.state.iteration)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as this step has changed them."""
        averages, values = zip(*self._learned, strict=True)
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averages, values, step)  # type: ignore[no-untyped-call]  # torch's
        for average, value in self._counted:  # batch normalisation's
            average.copy_(value)

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of the network's buffers, which count and do not learn: batch normalisation's."""
        names = dict(self.network.named_buffers())
        return [average for name, average in self.weights.items() if name in names]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network has the averaged weights while the block runs."""
        own = _copy(self.network.state_dict())
        self.network.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.weights

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these averaged weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
