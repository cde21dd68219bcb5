"""Weight averaging: an exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from monaiseg.training.handlers.steps import weights_change


class WeightAveraging:
    """Exponential moving average of a network's weights, with the keys of its `state_dict`.

    Existing implementations treat buffers or accumulated gradients differently. With
    `torch.optim.swa_utils.AveragedModel`, batch normalisation either keeps its current statistics, which do not match
    averaged weights, or has its count of batches averaged too. `ignite.handlers.EMAHandler` uses the network's own
    tensors as the buffers of the average, also updates at steps that do not change the weights, and is not part of
    ignite's checkpoints, so its weights must be saved separately.

    Args:
        network: the network in training.
        decay: share of the average that is kept at each change of the weights. At the start it is smaller,
            (1 + step) / (10 + step), so that the random initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = _copy(network.state_dict())
        # The tensors of the network stay at the same place in memory, so the pairs stay valid.
        own = network.state_dict()
        pairs = [(average, own[name]) for name, average in self.weights.items()]
        self._learned = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    def attach(self, engine: Engine) -> None:
        """Update the average each time the weights change."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def _follow(self, engine: Engine) -> None:
        if weights_change(engine):
            self.update(engine.state.iteration)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after this step."""
        averages, values = zip(*self._learned, strict=True)
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(averages, values, step)  # type: ignore[no-untyped-call]  # torch's
        for average, value in self._counted:  # the batch counts of batch normalisation
            average.copy_(value)

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of the network's buffers (statistics of batch normalisation), which have no gradient."""
        names = dict(self.network.named_buffers())
        return [average for name, average in self.weights.items() if name in names]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the network the averaged weights while the block runs."""
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
        """Load averaged weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
