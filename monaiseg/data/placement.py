"""Placement: where the voxels of a label map lie on the grid of its image, if no resampling is needed to tell.

A label map may have its axes in another order than its image, or cover only a part of the image, as 3D Slicer writes
it. If its voxels are voxels of the image, they are moved to their places without loss. The rest is background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.grid import Grid, Shape, check_same_grid


@dataclass(frozen=True)
class Placement:
    """How a label map is laid onto the grid of its image."""

    label: Grid
    image: Grid
    turn: tuple[tuple[int, int], ...]
    """For each axis of the label map, the axis of the image that it becomes, and 1, or -1 if it is flipped."""
    first: Shape
    """Voxel of the image where the turned label map begins."""

    @classmethod
    def of(cls, label: Grid, image: Grid) -> Placement | None:
        """The placement of a label map on the grid of its image; None if it has voxels that the image has not.

        >>> corner = Grid.of((2, 3, 4), nib.affines.from_matvec(np.diag([-1, 1, 1]), [5, 0, 2]))
        >>> placement = Placement.of(corner, Grid.of((9, 9, 9), np.eye(4)))
        >>> placement.first, placement.turn
        ((4, 0, 2), ((0, -1), (1, 1), (2, 1)))
        """
        steps = np.linalg.solve(image.array[:3, :3], label.array[:3, :3])  # columns: label axes
        signs = np.rint(steps)
        if any((np.abs(signs).sum(axis=axis) != 1).any() for axis in (0, 1)):
            return None
        turn = np.stack([np.abs(signs).argmax(axis=0), signs.sum(axis=0)], axis=1).astype(int)
        turned = _turned(label, turn)
        first = np.rint(np.linalg.solve(image.array, turned.array[:, 3])[:3])
        if (first < 0).any() or (first + turned.shape > image.shape).any():
            return None
        box = Grid.of(turned.shape, image.array @ nib.affines.from_matvec(np.eye(3), first))
        if turned.difference(box) is not None:
            return None
        i, j, k = (int(index) for index in first)
        return cls(label, image, tuple((int(axis), int(sign)) for axis, sign in turn), (i, j, k))

    @property
    def is_whole(self) -> bool:
        """Whether the label map covers its whole image."""
        return math.prod(self.label.shape) == math.prod(self.image.shape)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about it, in words; empty if nothing has to be moved."""
        notes = []
        ours, theirs = self.label.orientation, self.image.orientation
        if self.turn != ((0, 1), (1, 1), (2, 1)):
            notes.append(
                f"its orientation is {ours} and that of its image {theirs}; it is read in the orientation of the image"
            )
        if not self.is_whole:
            notes.append(
                "covers only a part of its image, on the image's voxels; the rest is taken as background"
            )
        return tuple(notes)

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """A label map (X, Y, Z), or layers (X, Y, Z, C), on the grid of the image."""
        turned = nib.orientations.apply_orientation(values, np.array(self.turn))
        if self.is_whole:
            return np.ascontiguousarray(turned)
        whole = np.zeros((*self.image.shape, *values.shape[3:]), values.dtype)
        box = (slice(a, a + n) for a, n in zip(self.first, turned.shape, strict=False))
        whole[tuple(box)] = turned
        return whole


def _turned(grid: Grid, turn: NDArray[np.int_]) -> Grid:
    """The grid with its axes permuted and flipped, as `nibabel.orientations.apply_orientation` takes `turn`."""
    shape = np.empty(3, dtype=int)
    shape[turn[:, 0]] = grid.shape
    return Grid.of(shape.tolist(), grid.array @ nib.orientations.inv_ornt_aff(turn, grid.shape))


def check_placed(what: str, label: Grid, image: Grid) -> None:
    """Raise DataError if a label map has voxels that its image has not; `what` names both files."""
    if Placement.of(label, image) is None:
        check_same_grid(what, label, image)
