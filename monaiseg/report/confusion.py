"""Confusion: which structures the prediction takes for which others, in volume over all cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import LabelTable, read_label_map


@dataclass(frozen=True)
class Confused:
    """A part of a structure that was predicted as another one."""

    reference: str
    prediction: str
    ml: float
    """Volume per case."""
    share: float
    """Share of the reference's volume."""


@dataclass(frozen=True)
class Confusion:
    """Mean volume per case of each pair of classes."""

    names: tuple[str, ...]
    """Names of the classes, background first."""
    ml: NDArray[np.float64]
    """(K, K): rows are the classes of the reference, columns those of the prediction."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each row divided by its sum; NaN for a class that no reference has."""
        sums = self.ml.sum(axis=1, keepdims=True)
        shares: NDArray[np.float64] = np.full_like(self.ml, np.nan)
        np.divide(self.ml, sums, out=shares, where=sums > 0)
        return shares

    def largest(self, most: int, *, with_background: bool) -> list[Confused]:
        """The pairs of different classes with the largest volumes, largest first."""
        wrong = self.ml.copy()
        np.fill_diagonal(wrong, 0.0)
        if not with_background:
            wrong[0], wrong[:, 0] = 0.0, 0.0
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(self.names)) for place in order]
        shares = self.shares
        return [
            Confused(self.names[row], self.names[column], float(wrong[row, column]), float(shares[row, column]))
            for row, column in pairs
            if wrong[row, column] > 0
        ]  # fmt: skip

    @property
    def share_with_background(self) -> float:
        """Share of the wrong volume that is background in one of the maps; NaN if nothing is wrong."""
        wrong = self.ml.sum() - np.trace(self.ml)
        edge = self.ml[0].sum() + self.ml[:, 0].sum() - 2 * self.ml[0, 0]
        return float(edge / wrong) if wrong > 0 else float("nan")


def confusion_of(
    pairs: Mapping[str, tuple[Path, Path]],
    table: LabelTable,
    on_case: Callable[[], object] = lambda: None,
) -> Confusion:
    """The confusion between the classes of a table, from reference and prediction of each case.

    Values that the table does not list count as background; voxels with its ignored value are left out.

    Raises:
        DataError: a file cannot be read.
    """
    size = table.num_classes
    ml = np.zeros((size, size))
    for reference_file, prediction_file in pairs.values():
        reference, header = read_label_map(reference_file)
        prediction, _ = read_label_map(prediction_file, like=header.grid)
        rows = table.class_indices(reference, others="background").astype(np.int64).ravel()
        columns = table.class_indices(prediction, others="background").astype(np.int64).ravel()
        known = (rows < size) & (columns < size)
        counts = np.bincount(rows[known] * size + columns[known], minlength=size**2)
        ml += counts.reshape(size, size) * header.grid.voxel_volume_mm3 / 1000
        on_case()
    return Confusion(table.names, ml / max(len(pairs), 1))
