"""Dice of all classes by counting voxels, for validation while training; `structures` has every score.

A structure that neither map has is not defined, NaN. One that only one of them has scores 0, so that missing it never
raises a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def class_counts(prediction: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """Voxels of each class in both maps, in the prediction, in the reference: (K, 3), int64.

    One pass and one bincount, however many classes; no one-hot. Voxels where the reference holds `num_classes`, which no
    one has labelled, count nowhere.
    """
    references, predictions = reference.long().flatten(), prediction.long().flatten()
    known = references < num_classes
    if not known.all():
        references, predictions = references[known], predictions[known]
    pairs = references * num_classes + predictions
    confusion = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    return torch.stack([confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)], dim=1)


def dice_from_counts(counts: Tensor) -> Tensor:
    """Dice of each class (..., K) from counts (..., K, 3); NaN where both maps lack the class."""
    both, predicted, referenced = counts.double().unbind(dim=-1)
    return 2 * both / (predicted + referenced)


def mean_over_cases(dice: Tensor) -> tuple[float, list[float]]:
    """Mean over foreground labels of their means over cases, and those: from (cases, K), NaN left out.

    >>> dice = torch.tensor([[1.0, 0.5, float("nan")], [1.0, 0.7, 0.0]], dtype=torch.double)
    >>> mean_over_cases(dice)[0]
    0.3
    """
    labels = [mean_defined(column.tolist()) for column in dice[:, 1:].double().unbind(1)]
    return round(mean_defined(labels), 12), labels


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN where none is.

    >>> mean_defined([0.5, math.nan, 1.0])
    0.75
    """
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
