"""Votes: how often each class was seen in each cell of template space, counted so that a scan's votes can be taken back.

A scan has `UNIT` votes in each cell that it covers, shared by the classes of the voxels there. Votes are whole numbers,
and they are smoothed by whole numbers: what is taken back leaves nothing behind, which subtraction of floating-point sums
does not promise. They are sparse: a cell sees few of the classes.
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
"""Weights of a cell and its neighbours along each axis: about a Gaussian with a sigma of 0.58 cells."""


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
        """Votes (cells, K): for tests and small lattices."""
        table = np.zeros((self.lattice.num_cells, self.num_classes), np.int64)
        table.reshape(-1)[self.keys] = self.counts
        return table


def count_votes(
    classes: NDArray[Any], cells: NDArray[np.int64], lattice: Lattice, num_classes: int
) -> Votes:
    """Votes of one scan.

    Args:
        classes: class index of each voxel, (N,); indices beyond the classes, which mark what no one has labelled, have
            no vote.
        cells: that each voxel lies in, (N,).
        lattice: of the cells.
        num_classes: K.
    """
    known = classes < num_classes
    if not known.all():
        classes, cells = classes[known], cells[known]
    total = np.bincount(cells, minlength=lattice.num_cells)
    named = classes > 0  # background is what is left: far fewer voxels have to be sorted
    keys, voxels = np.unique(cells[named] * num_classes + classes[named], return_counts=True)
    there = keys // num_classes
    counts = voxels * UNIT // total[there]
    seen = np.flatnonzero(total)
    rest = UNIT - np.bincount(there, counts, minlength=lattice.num_cells).astype(np.int64)[seen]
    background = np.bincount(cells[~named], minlength=lattice.num_cells)[seen] > 0
    zero, rest = seen[background] * num_classes, rest[background]
    return _merged([keys, zero], [counts, rest], lattice, num_classes)


def added(votes: Sequence[Votes]) -> Votes:
    """All the votes together."""
    first = votes[0]
    return _merged(
        [v.keys for v in votes], [v.counts for v in votes], first.lattice, first.num_classes
    )


def taken_back(votes: Votes, own: Votes) -> Votes:
    """The votes without those of `own`, which are among them."""
    counts = votes.counts.copy()
    counts[np.searchsorted(votes.keys, own.keys)] -= own.counts
    left = counts > 0
    return Votes(votes.keys[left], counts[left], votes.lattice, votes.num_classes)


def mirrored(votes: Votes, partners: Sequence[int]) -> Votes:
    """The votes of the mirror image: left cells to the right, each class to its partner."""
    X, Y, Z = votes.lattice.shape
    x, rest = np.divmod(votes.cells, Y * Z)
    keys = ((X - 1 - x) * (Y * Z) + rest) * votes.num_classes + np.asarray(partners)[votes.classes]
    order = np.argsort(keys, kind="stable")
    return Votes(keys[order], votes.counts[order], votes.lattice, votes.num_classes)


def smoothed(votes: Votes) -> Votes:
    """Votes shared with the neighbouring cells by `KERNEL` along each axis: 216 times as many in all."""
    for axis in range(3):
        votes = _smoothed_along(votes, axis)
    return votes


def _smoothed_along(votes: Votes, axis: int) -> Votes:
    """Smoothed along one axis; what would leave the lattice is lost there, for all classes alike."""
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
    """One entry a key from several ascending runs, with the counts added up."""
    every, weights = np.concatenate(keys), np.concatenate(counts)
    order = np.argsort(every, kind="stable")  # which merges runs that ascend, in linear time
    every, weights = every[order], weights[order]
    starts = np.flatnonzero(np.diff(every, prepend=-1))
    summed = np.add.reduceat(weights, starts) if len(starts) else weights
    left = summed > 0
    return Votes(every[starts][left], summed[left], lattice, num_classes)
