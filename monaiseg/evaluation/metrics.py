"""Dice of all classes by counting voxels, for validation during training; `structures` has all scores.

The Dice of a structure that is in neither map is not defined (NaN). A structure that is in only one map scores 0, so
missing a structure never raises a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def class_counts(prediction: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """Number of voxels of each class in both maps, in the prediction and in the reference: (K, 3), int64.

    This takes one pass and one bincount for any number of classes, without one-hot maps. Voxels where the reference is
    `num_classes` are unlabelled and are not counted.
    """
    references, predictions = reference.long().flatten(), prediction.long().flatten()
    known = references < num_classes
    if not known.all():
        references, predictions = references[known], predictions[known]
    pairs = references * num_classes + predictions
    confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    return torch.stack([confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)], dim=1)


def dice_from_counts(counts: Tensor) -> Tensor:
    """Dice of each class (..., K) from counts (..., K, 3); NaN if both maps lack the class."""
    both, predicted, referenced = counts.double().unbind(dim=-1)
    return 2 * both / (predicted + referenced)


def mean_over_cases(dice: Tensor) -> tuple[float, list[float]]:
    """Mean over foreground labels of their means over cases, and the label means, from (cases, K), ignoring NaN.

    >>> dice = torch.tensor([[1.0, 0.5, float("nan")], [1.0, 0.7, 0.0]], dtype=torch.double)
    >>> mean_over_cases(dice)[0]
    0.3
    """
    labels = [mean_defined(column.tolist()) for column in dice[:, 1:].double().unbind(1)]
    return round(mean_defined(labels), 12), labels


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none.

    >>> mean_defined([0.5, math.nan, 1.0])
    0.75
    """
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
