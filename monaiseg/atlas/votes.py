"""Votes: counts of each class in each cell of template space, from which the votes of a scan can be removed.

A scan has `UNIT` votes in each cell that it covers, shared by the classes of the voxels there. Votes and smoothing
weights are integers, so removing the votes of a scan is exact, which is not so for sums of floating-point numbers.
Votes are sparse, because few classes occur in each cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.atlas.lattice import Lattice

UNIT = 1024
"""Votes of one scan in one cell."""
KERNEL = (1, 4, 1)
"""Smoothing weights of a cell and its neighbours along each axis: about a Gaussian with a sigma of 0.58 cells."""


@dataclass(frozen=True)
class Votes:
    """Votes by cell and class, in ascending order of `cell * num_classes + class`."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    lattice: Lattice
    num_classes: int

    @property
    def cells(self) -> NDArray[np.int64]:
        """Cell of each entry."""
        return self.keys // self.num_classes

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class of each entry."""
        return self.keys % self.num_classes

    def dense(self) -> NDArray[np.int64]:
        """Votes as a dense array (cells, K), for tests and small lattices."""
        table = np.zeros((self.lattice.num_cells, self.num_classes), np.int64)
        table.reshape(-1)[self.keys] = self.counts
        return table


def count_votes(
    classes: NDArray[Any], cells: NDArray[np.int64], lattice: Lattice, num_classes: int
) -> Votes:
    """Votes of one scan.

    Args:
        classes: class index of each voxel, (N,); indices from `num_classes` on mark unlabelled voxels, which have no
            vote.
        cells: cell of each voxel, (N,).
        lattice: lattice of the cells.
        num_classes: K.
    """
    known = classes < num_classes
    if not known.all():
        classes, cells = classes[known], cells[known]
    total = np.bincount(cells, minlength=lattice.num_cells)
    named = classes > 0  # background is the rest: far fewer voxels need sorting
    keys, voxels = np.unique(cells[named] * num_classes + classes[named], return_counts=True)
    there = keys // num_classes
    counts = voxels * UNIT // total[there]
    seen = np.flatnonzero(total)
    rest = UNIT - np.bincount(there, counts, minlength=lattice.num_cells).astype(np.int64)[seen]
    background = np.bincount(cells[~named], minlength=lattice.num_cells)[seen] > 0
    zero, rest = seen[background] * num_classes, rest[background]
    return _merged([keys, zero], [counts, rest], lattice, num_classes)


def added(votes: Sequence[Votes]) -> Votes:
    """The sum of several votes."""
    first = votes[0]
    return _merged(
        [v.keys for v in votes], [v.counts for v in votes], first.lattice, first.num_classes
    )


def taken_back(votes: Votes, own: Votes) -> Votes:
    """The votes without those of `own`, which they include."""
    counts = votes.counts.copy()
    counts[np.searchsorted(votes.keys, own.keys)] -= own.counts
    left = counts > 0
    return Votes(votes.keys[left], counts[left], votes.lattice, votes.num_classes)


def mirrored(votes: Votes, partners: Sequence[int]) -> Votes:
    """The votes of the mirror image: cells move to the other side, and each class becomes its partner."""
    X, Y, Z = votes.lattice.shape
    x, rest = np.divmod(votes.cells, Y * Z)
    keys = ((X - 1 - x) * (Y * Z) + rest) * votes.num_classes + np.asarray(partners)[votes.classes]
    order = np.argsort(keys, kind="stable")
    return Votes(keys[order], votes.counts[order], votes.lattice, votes.num_classes)


def smoothed(votes: Votes) -> Votes:
    """Votes smoothed by `KERNEL` along each axis, which multiplies their total by 216."""
    for axis in range(3):
        votes = _smoothed_along(votes, axis)
    return votes


def _smoothed_along(votes: Votes, axis: int) -> Votes:
    """Votes smoothed along one axis; votes that would leave the lattice are dropped, for all classes alike."""
    shape = votes.lattice.shape
    stride = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    place = votes.cells // stride % shape[axis]
    keys, counts = [], []
    for step, weight in zip((-1, 0, 1), KERNEL, strict=True):
        stays = (place + step >= 0) & (place + step < shape[axis])
        keys.append(votes.keys[stays] + step * stride * votes.num_classes)
        counts.append(votes.counts[stays] * weight)
    return _merged(keys, counts, votes.lattice, votes.num_classes)


def _merged(
    keys: Sequence[NDArray[np.int64]],
    counts: Sequence[NDArray[np.int64]],
    lattice: Lattice,
    num_classes: int,
) -> Votes:
    """One entry per key from several ascending runs, with their counts summed."""
    every, weights = np.concatenate(keys), np.concatenate(counts)
    order = np.argsort(every, kind="stable")  # merges ascending runs in linear time
    every, weights = every[order], weights[order]
    starts = np.flatnonzero(np.diff(every, prepend=-1))
    summed = np.add.reduceat(weights, starts) if len(starts) else weights
    left = summed > 0
    return Votes(every[starts][left], summed[left], lattice, num_classes)
