"""Scores of a label map against its reference. Counts first, then numbers.

A score that is not defined is NaN: Dice, precision and recall of a structure that neither map has. A structure that
only one of them has scores 0, so missing one never raises a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monaiseg.data import LabelTable


@dataclass(frozen=True)
class LabelScore:
    """Scores of one label in one case; volumes in millilitres."""

    value: int
    name: str
    dice: float
    precision: float
    recall: float
    reference_ml: float
    prediction_ml: float


def score_label_maps(
    reference: NDArray[Any], prediction: NDArray[Any], table: LabelTable, voxel_volume_mm3: float
) -> tuple[LabelScore, ...]:
    """Scores of every foreground label of the table.

    Args:
        reference: label values. Values that the table lacks count as background, voxels of its ignored value nowhere.
        prediction: the same, of the same shape.
        table: the labels.
        voxel_volume_mm3: volume of a voxel.
    """
    every = replace(table, ignored_value=None)
    counts = class_counts(
        torch.from_numpy(every.class_indices(prediction, others="background")),
        torch.from_numpy(table.class_indices(reference, others="background")),
        table.num_classes,
    )
    return label_scores(counts, table, voxel_volume_mm3)


def label_scores(
    counts: Tensor, table: LabelTable, voxel_volume_mm3: float
) -> tuple[LabelScore, ...]:
    """Scores of every foreground label from `class_counts` (K, 3)."""
    millilitres = voxel_volume_mm3 / 1000
    foreground = counts[1:]
    return tuple(
        LabelScore(
            label.value,
            label.name,
            dice=dice,
            precision=_share(both, predicted, referenced),
            recall=_share(both, referenced, predicted),
            reference_ml=referenced * millilitres,
            prediction_ml=predicted * millilitres,
        )
        for label, (both, predicted, referenced), dice in zip(
            table.foreground,
            foreground.tolist(),
            dice_from_counts(foreground).tolist(),
            strict=True,
        )
    )


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


def _share(both: int, whole: int, other: int) -> float:
    if whole:
        return both / whole
    return 0.0 if other else math.nan
