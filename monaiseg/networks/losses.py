"""Losses: from logits and class indices to one number.

Every loss here is computed from two quantities: the log-probability of the correct class at each voxel, and the sum of
the probabilities of each class. One softmax gives both, and it is the only tensor of the size of the logits that is
kept for the backward pass. With many classes, one-hot maps and a second softmax would take several times the memory of
the network's output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monaiseg.errors import SettingsError
from monaiseg.settings import LossSettings

SMOOTH = 1e-5
"""Added to the numerators and denominators of overlap losses, as in monai.losses."""
VOXELS_AT_ONCE = 1 << 18
"""Number of voxels whose classes a GPU sums at a time: 300 MB for 145 classes."""


def unchanged(sums: Tensor) -> Tensor:
    """The sums as they are, for training with a single process."""
    return sums


def build_loss(
    settings: LossSettings,
    num_classes: int,
    *,
    has_ignored: bool = False,
    summed: Callable[[Tensor], Tensor] = unchanged,
) -> SegmentationLoss:
    """The loss of these settings for a network with `num_classes` outputs; see `SegmentationLoss` for the arguments.

    Raises:
        SettingsError: the number of class weights differs from the number of classes.
    """
    return SegmentationLoss(settings, num_classes, has_ignored=has_ignored, summed=summed)


class SegmentationLoss(nn.Module):
    """The loss of one output, or the weighted mean over outputs at several resolutions.

    Args:
        settings: type and parameters of the loss.
        num_classes: number of classes, background included.
        has_ignored: whether targets may hold the index `num_classes`, which marks unlabelled voxels. These are left out
            of every sum.
        summed: adds sums over the processes that share a batch, and passes gradients. The mean of this loss over the
            processes is then the loss of the whole batch.
    """

    def __init__(
        self,
        settings: LossSettings,
        num_classes: int,
        *,
        has_ignored: bool = False,
        summed: Callable[[Tensor], Tensor] = unchanged,
    ) -> None:
        super().__init__()
        self.settings, self.has_ignored, self.summed = settings, has_ignored, summed
        weights = settings.ce.class_weight or (1.0,) * num_classes
        if len(weights) != num_classes:
            raise SettingsError(
                f"tsk_set.loss.ce.class_weight: {len(weights)} weights for {num_classes} classes; give one for "
                "each class, background first"
            )
        if not settings.ce.include_background:
            weights = (0.0, *weights[1:])
        if has_ignored:
            weights = (*weights, 0.0)
        self.register_buffer("class_weight", torch.tensor(weights), persistent=False)
        self.class_weight: Tensor

    def forward(self, logits: Tensor | list[Tensor], target: Tensor) -> Tensor:
        """Loss of logits (B, K, X, Y, Z), or of a list of them, finest first, against class indices (B, 1, X, Y, Z).

        The outputs have weights 1, 1/2, 1/4, ..., normalised to a sum of 1. The target of a coarser output is every
        second, fourth, ... voxel, on which its stride-2 convolutions are centred.
        """
        if isinstance(logits, Tensor):
            return self._of_one_output(logits, target)
        losses = [self._of_one_output(output, _sampled(target, output)) for output in logits]
        weights = [0.5**level for level in range(len(losses))]
        weighted = (weight * loss for weight, loss in zip(weights, losses, strict=True))
        return torch.stack(list(weighted)).sum() / sum(weights)

    def _of_one_output(self, logits: Tensor, target: Tensor) -> Tensor:
        classes = target.flatten(1).long()  # (B, N)
        voxels = (
            logits.float().flatten(2).transpose(1, 2)
        )  # (B, N, K), in memory order if channels are last
        known = classes < voxels.shape[2] if self.has_ignored else None
        right, predicted = _SoftmaxSums.apply(voxels, classes, known)  # type: ignore[no-untyped-call]  # torch's; (B, N), (B, K)
        match self.settings.type:
            case "ce":
                return self._cross_entropy(right, classes)
            case "focal":
                return self._focal(right, known)
            case "dice_ce":
                dice = self._overlap(right, predicted, classes)
                return dice + self._cross_entropy(right, classes)
        return self._overlap(right, predicted, classes)

    def _cross_entropy(self, right: Tensor, classes: Tensor) -> Tensor:
        """Mean over voxels of -log p of the correct class, weighted by class; 0 if all weights are 0."""
        weights = self.class_weight[classes]
        total, weight = self.summed(torch.stack([(weights * right).sum(), weights.sum()]))
        loss: Tensor = -total / weight.clamp(min=SMOOTH)
        return loss

    def _focal(self, right: Tensor, known: Tensor | None) -> Tensor:
        """Focal loss, Lin et al., https://arxiv.org/abs/1708.02002: each voxel has the weight (1 - p) ** gamma."""
        # Clamp because at p = 1 the slope of a power below 1 is infinite.
        wrong = (-torch.expm1(right)).clamp(min=1e-7)
        losses = -(wrong**self.settings.focal_gamma * right)
        if known is None:
            return losses.mean()
        total, voxels = self.summed(torch.stack([losses.sum(), known.sum().to(losses)]))
        loss: Tensor = total / voxels.clamp(min=1)
        return loss

    def _overlap(self, right: Tensor, predicted: Tensor, classes: Tensor) -> Tensor:
        both, referenced = _sums_by_class(right.exp(), classes, predicted.shape[1])  # (B, K) each
        sums = torch.stack([both, predicted, referenced])  # (3, B, K)
        if self.settings.batch_dice:
            sums = self.summed(sums.sum(dim=1, keepdim=True))  # (3, 1, K)
        if not self.settings.include_background:
            sums = sums[:, :, 1:]
        if self.settings.type == "gdice":
            return _generalised_dice(*sums)
        if self.settings.type == "tversky":
            alpha, beta = self.settings.tversky_alpha, self.settings.tversky_beta
            losses = _tversky(sums[0], sums[1], sums[2], alpha, beta)
        else:
            losses = _dice(*sums)
        counted = sums[2] > 0 if self.settings.only_present else torch.ones_like(sums[2])
        mean: Tensor = (losses * counted).sum() / counted.sum().clamp(min=1)
        return mean


def _dice(both: Tensor, predicted: Tensor, referenced: Tensor) -> Tensor:
    """Dice loss (B, K), Milletari et al., https://arxiv.org/abs/1606.04797, without the squares."""
    return 1 - (2 * both + SMOOTH) / (predicted + referenced + SMOOTH)


def _generalised_dice(both: Tensor, predicted: Tensor, referenced: Tensor) -> Tensor:
    """Sudre et al., https://arxiv.org/abs/1707.03237; absent classes have the weight of the rarest class present."""
    weights = torch.where(referenced > 0, referenced.clamp(min=1) ** -2, 0)
    weights = torch.where(referenced > 0, weights, weights.amax(dim=1, keepdim=True))
    overlap = 2 * (both * weights).sum(dim=1) + SMOOTH
    return (1 - overlap / (((predicted + referenced) * weights).sum(dim=1) + SMOOTH)).mean()


def _tversky(
    both: Tensor, predicted: Tensor, referenced: Tensor, alpha: float, beta: float
) -> Tensor:
    """Salehi et al., https://arxiv.org/abs/1706.05721: false positives have weight alpha, false negatives beta."""
    wrong = alpha * (predicted - both) + beta * (referenced - both)
    return 1 - (both + SMOOTH) / (both + wrong + SMOOTH)


def _sums_by_class(values: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of `values` (B, N) over the voxels of each class, and the number of these voxels, both (B, K).

    Computed in float64, because a running sum over millions of voxels would lose digits in float32.
    """
    sums = _ClassSums.apply(values, classes, num_classes + 1)  # type: ignore[no-untyped-call]  # torch's
    counts = _class_sums(torch.ones_like(values), classes, num_classes + 1)
    return sums[:, :num_classes].to(values), counts[:, :num_classes].to(values)  # no ignored


class _ClassSums(torch.autograd.Function):
    """`_class_sums` with a gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
        ctx.save_for_backward(classes)
        ctx.dtype = values.dtype
        return _class_sums(values, classes, num_classes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (classes,) = ctx.saved_tensors
        return gradient.gather(1, classes).to(ctx.dtype), None, None


def _class_sums(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Sum (B, K) in float64 of `values` (B, N) over the voxels of each of `num_classes` classes."""
    if values.device.type == "cuda":
        return _class_sums_in_order(values, classes, num_classes)
    zeros = values.new_zeros(len(values), num_classes, dtype=torch.float64)
    return zeros.scatter_add(1, classes, values.double())


def _class_sums_in_order(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """`_class_sums` as products of matrices, which a GPU always adds in the same order.

    Its `scatter_add` adds in any order; the variant that does not is slow where few classes have many voxels, because
    it adds the voxels of a class one after another.
    """
    names = torch.arange(num_classes, device=classes.device)
    sums = values.new_zeros(len(values), 1, num_classes, dtype=torch.float64)
    for first in range(0, values.shape[1], VOXELS_AT_ONCE):
        some = slice(first, first + VOXELS_AT_ONCE)
        one_hot = (classes[:, some, None] == names).double()
        sums += values[:, None, some].double() @ one_hot
    return sums[:, 0]


def _sampled(target: Tensor, output: Tensor) -> Tensor:
    """Every n-th voxel of the target, so that it has the size of the output."""
    x, y, z = (
        whole // part for whole, part in zip(target.shape[2:], output.shape[2:], strict=True)
    )
    return target[:, :, ::x, ::y, ::z]


class _SoftmaxSums(torch.autograd.Function):
    """Log-probability of the correct class (B, N) and summed probabilities (B, K), from logits (B, N, K).

    `classes` are class indices (B, N). Where `known` (B, N) is given and false, the log-probability is 0 and the voxel
    is left out of the sums.

    The backward pass is written by hand because autograd would keep a log-softmax, its exponential and a gradient of
    each.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # torch's softmax needs contiguous input. It runs along the last axis only if that is long enough to vectorise.
        along_memory = logits.is_contiguous() and logits.shape[2] >= 16
        log_probabilities = (
            logits.log_softmax(dim=2)
            if along_memory
            else logits.transpose(1, 2).log_softmax(dim=1).transpose(1, 2)
        )
        if known is not None:
            classes = torch.where(known, classes, 0)
        right = log_probabilities.gather(2, classes[:, :, None])[:, :, 0]
        probabilities = log_probabilities.exp_()
        if known is not None:
            right, probabilities = right * known, probabilities.mul_(known[:, :, None])
        ctx.save_for_backward(probabilities, classes, known)
        return right, probabilities.sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """With p the softmax and o the one-hot class: d right = o - p, d predicted_k = p_k (o_k - p)."""
        probabilities, classes, known = ctx.saved_tensors
        of_right, of_predicted = gradients[0][:, :, None], gradients[1][:, None, :]
        if known is not None:
            of_right = of_right * known[:, :, None]
        of_logits = probabilities * of_predicted  # (B, N, K)
        shared = of_logits.sum(dim=2, keepdim=True) + of_right  # (B, N, 1)
        of_logits.addcmul_(probabilities, shared, value=-1)
        return of_logits.scatter_add_(2, classes[:, :, None], of_right), None, None
