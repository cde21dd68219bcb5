"""Losses: from logits and class indices to one number.

Sums over voxels are gathered and scattered by class index, so that no K-channel one-hot of the volume is built:
with 57 classes that halves the memory of the loss against MONAI's (see benchmarks/RESULTS.md), at equal values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monaiseg.settings import LossSettings

SMOOTH = 1e-5
"""Added to numerators and denominators of overlaps, as in monai.losses."""


class SegmentationLoss(nn.Module):
    """The loss of one output, or the weighted mean over outputs of several resolutions.

    Args:
        settings: which loss, and its parameters.
        num_classes: classes with background.
    """

    def __init__(self, settings: LossSettings, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        weight = settings.ce.class_weight
        self.register_buffer("class_weight", None if weight is None else torch.tensor(weight))

    def forward(self, logits: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Loss of logits (B, K, X, Y, Z), or of a list of them finest first, against class indices (B, 1, X, Y, Z).

        Coarser outputs weigh 1/2, 1/4, ... of the finest; the weights sum to 1. Their targets are every second,
        fourth, ... voxel.
        """
        if isinstance(logits, Tensor):
            return self._one(logits, target)
        weights = torch.tensor([0.5**level for level in range(len(logits))])
        losses = [self._one(output, _sampled(target, output)) for output in logits]
        return torch.stack(losses) @ (weights / weights.sum()).to(losses[0])

    def _one(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, classes = logits.float().flatten(2), target.long().flatten(1)  # (B, K, N), (B, N)
        if self.settings.type == "ce":
            return self._cross_entropy(logits, classes)
        if self.settings.type == "focal":
            return self._focal(logits, classes)
        overlap = self._overlap(logits, classes)
        if self.settings.type == "dice_ce":
            return overlap + self._cross_entropy(logits, classes)
        return overlap

    def _cross_entropy(self, logits: Tensor, classes: Tensor) -> Tensor:
        if self.settings.ce.include_background:
            return F.cross_entropy(logits, classes, weight=self.class_weight)
        inside = classes.masked_fill(classes == 0, -100)
        total = F.cross_entropy(
            logits, inside, weight=self.class_weight, ignore_index=-100, reduction="sum"
        )
        return total / (classes > 0).sum().clamp(min=1)

    def _focal(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Lin et al., https://arxiv.org/abs/1708.02002: easy voxels weigh (1 - p) ** gamma."""
        log_p = -F.cross_entropy(logits, classes, reduction="none")
        return ((1 - log_p.exp()) ** self.settings.focal_gamma * -log_p).mean()

    def _overlap(self, logits: Tensor, classes: Tensor) -> Tensor:
        both, predicted, referenced = _class_sums(logits.softmax(dim=1), classes)  # each (B, K)
        if self.settings.batch_dice:
            both, predicted, referenced = (
                sums.sum(dim=0, keepdim=True) for sums in (both, predicted, referenced)
            )
        first = 0 if self.settings.include_background or self.num_classes == 1 else 1
        sums = (both[:, first:], predicted[:, first:], referenced[:, first:])
        form: Callable[..., Tensor] = {
            "gdice": _generalised_dice,
            "tversky": self._tversky,
        }.get(self.settings.type, _dice)
        return form(*sums)

    def _tversky(self, both: Tensor, predicted: Tensor, referenced: Tensor) -> Tensor:
        """Salehi et al., https://arxiv.org/abs/1706.05721."""
        false_positive, false_negative = predicted - both, referenced - both
        alpha, beta = self.settings.tversky_alpha, self.settings.tversky_beta
        denominator = both + alpha * false_positive + beta * false_negative + SMOOTH
        return (1 - (both + SMOOTH) / denominator).mean()


def build_loss(settings: LossSettings, num_classes: int) -> SegmentationLoss:
    """The loss of these settings for a network of `num_classes` outputs."""
    return SegmentationLoss(settings, num_classes)


def _class_sums(probabilities: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over voxels, each (B, K): probability where the class is, probability, voxels of the class."""
    batch, num_classes, _ = probabilities.shape
    zeros = probabilities.new_zeros(batch, num_classes)
    at_target = probabilities.gather(1, classes[:, None])[:, 0]  # (B, N)
    both = zeros.scatter_add(1, classes, at_target)
    referenced = zeros.scatter_add(1, classes, torch.ones_like(at_target))
    return both, probabilities.sum(dim=2), referenced


def _dice(both: Tensor, predicted: Tensor, referenced: Tensor) -> Tensor:
    """Milletari et al., https://arxiv.org/abs/1606.04797, without the squares."""
    return (1 - (2 * both + SMOOTH) / (predicted + referenced + SMOOTH)).mean()


def _generalised_dice(both: Tensor, predicted: Tensor, referenced: Tensor) -> Tensor:
    """Sudre et al., https://arxiv.org/abs/1707.03237; absent classes weigh as much as the rarest present one."""
    present = referenced > 0
    weights = torch.where(present, 1 / referenced.clamp(min=1) ** 2, 0.0)
    weights = torch.where(present, weights, weights.amax(dim=1, keepdim=True))
    numerator = 2 * (both * weights).sum(dim=1) + SMOOTH
    return (1 - numerator / (((predicted + referenced) * weights).sum(dim=1) + SMOOTH)).mean()


def _sampled(target: Tensor, output: Tensor) -> Tensor:
    """Every n-th voxel of the target, so that it has the output's size."""
    steps = [full // part for full, part in zip(target.shape[2:], output.shape[2:], strict=True)]
    return target[:, :, :: steps[0], :: steps[1], :: steps[2]]
