"""Weight averaging: an exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelAverage:
    """Exponential moving average of a network's weights; with decay 0 it keeps none and costs nothing.

    Args:
        network: the network in training.
        decay: share of the average that stays at each change of the weights. Early on it is less,
            (1 + step) / (10 + step), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = _copy(network.state_dict()) if decay else None
        # The network's own tensors stay where they are in memory.
        own = network.state_dict()
        pairs = [(average, own[name]) for name, average in (self.weights or {}).items()]
        self._learned = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as this step has changed them."""
        if self._learned:
            averages, values = zip(*self._learned, strict=True)
            decay = min(self.decay, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(averages, values, step)  # type: ignore[no-untyped-call]  # torch's
        for average, value in self._counted:  # batch normalisation's
            average.copy_(value)

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of the network's buffers, which count and do not learn: batch normalisation's."""
        names = dict(self.network.named_buffers())
        return [average for name, average in (self.weights or {}).items() if name in names]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network has the averaged weights while the block runs."""
        if self.weights is None:
            yield
            return
        own = _copy(self.network.state_dict())
        self.network.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor] | None:
        """The averaged weights, for the checkpoint."""
        return self.weights

    def load_state_dict(self, weights: Mapping[str, Tensor] | None) -> None:
        """Go on from these averaged weights or, where there are none, from the network's own."""
        if self.weights is not None:
            for name, value in (weights or self.network.state_dict()).items():
                self.weights[name].copy_(value)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
