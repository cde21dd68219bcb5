"""Grids: the position of voxels in the patient, and pure functions on sizes.

A *grid* is a shape in voxels and an affine that maps voxel indices to millimetres in nibabel's world coordinates (x to
the patient's right, y to the front, z up). The *orientation* gives the direction that each voxel axis runs to: "RAS".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from monaiseg.errors import DataError

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

TOLERANCE_MM = 0.1
"""Largest distance between voxels of two grids that count as equal: header rounding moves head scans by that much."""
TOLERANCE_VOXELS = 0.1
"""The same as a share of the smallest voxel size, for mice and microscopy; the smaller of both tolerances applies."""


def shape_in_words(shape: Sequence[int]) -> str:
    """A shape for a message.

    >>> shape_in_words((40, 56, 40))
    '40 x 56 x 40'
    """
    return " x ".join(map(str, shape))


@dataclass(frozen=True)
class Grid:
    """Shape in voxels and affine (4 x 4, voxel index to mm) of a volume, in the axis order of its file."""

    shape: Shape
    affine: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], affine: ArrayLike) -> Grid:
        """Grid from any three integers and any 4 x 4 numbers."""
        x, y, z = (int(n) for n in shape)
        rows = np.asarray(affine, dtype=float)
        return cls((x, y, z), tuple(tuple(float(v) for v in row) for row in rows))

    @property
    def array(self) -> NDArray[np.float64]:
        """The affine as a (4, 4) array."""
        return np.array(self.affine)

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along the three voxel axes."""
        x, y, z = (float(size) for size in np.linalg.norm(self.array[:3, :3], axis=0))
        return x, y, z

    @property
    def orientation(self) -> str:
        """Direction that each voxel axis runs to, in nibabel's axis codes: "RAS", "LPI", ..."""
        return "".join(nib.orientations.aff2axcodes(self.array))

    @property
    def along_ras(self) -> tuple[Shape, Spacing]:
        """Shape in voxels and voxel size in mm along the X, Y and Z axes of RAS."""
        x, y, z = ras_axes(self.orientation)
        shape, spacing = self.shape, self.spacing
        return (shape[x], shape[y], shape[z]), (spacing[x], spacing[y], spacing[z])

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of a voxel in mm^3."""
        return float(abs(np.linalg.det(self.array[:3, :3])))

    @property
    def tolerance_mm(self) -> float:
        """Distance in mm by which the voxels of another grid may differ and the grids still count as equal."""
        return min(TOLERANCE_MM, TOLERANCE_VOXELS * min(self.spacing))

    def difference(self, other: Grid, share: float = 1.0, slack_mm: float = 0.0) -> str | None:
        """How two grids differ, in words; None if all voxel centres agree within the tolerance.

        Args:
            other: the grid to compare with.
            share: share of the smaller of both grids' tolerances that is allowed.
            slack_mm: distance in mm that is added to it.

        >>> Grid.of((4, 4, 4), np.eye(4)).difference(Grid.of((4, 4, 5), np.eye(4)))
        'shape (4, 4, 4) and (4, 4, 5)'
        """
        if self.shape != other.shape:
            return f"shape {self.shape} and {other.shape}"
        offset = np.abs(self._corners() - other._corners()).max()
        if offset <= share * min(self.tolerance_mm, other.tolerance_mm) + slack_mm:
            return None
        if self.orientation != other.orientation:
            return f"orientation {self.orientation} and {other.orientation}"
        ours, theirs = (tuple(float(f"{s:.4g}") for s in grid.spacing) for grid in (self, other))
        if ours != theirs:
            return f"spacing {ours} and {theirs}"
        voxels = offset / min(self.spacing)
        return f"position: corners are up to {offset:.2g} mm ({voxels:.2g} voxels) apart"

    def _corners(self) -> NDArray[np.float64]:
        """World coordinates in mm of the eight corner voxels, (8, 3)."""
        last = np.array(self.shape) - 1
        picks = np.array(np.meshgrid(*[[0, 1]] * 3, indexing="ij")).reshape(3, -1).T
        return np.asarray(nib.affines.apply_affine(self.array, picks * last))


def check_same_grid(what: str, grid: Grid, other: Grid) -> None:
    """Raise DataError if two grids differ; `what` names both volumes, as in "image a.nii and label map b.nii"."""
    if words := grid.difference(other):
        raise DataError(f"{what} lie on different grids: {words}; resample one onto the other")


def median_spacing(spacings: Iterable[Spacing]) -> Spacing:
    """Median voxel size in mm along each axis, rounded to a tenth of a micrometre.

    >>> median_spacing([(1.0, 1.0, 2.0), (1.0, 1.2, 3.0), (0.8, 0.9, 5.0)])
    (1.0, 1.0, 3.0)
    """
    x, y, z = (round(float(median(sizes)), 4) for sizes in zip(*spacings, strict=True))
    return x, y, z


def padded_shape(shape: Shape, multiple: Shape) -> Shape:
    """Smallest shape, in voxels along X, Y, Z, that holds `shape` and is divisible by `multiple`.

    >>> padded_shape((181, 217, 181), (16, 16, 16))
    (192, 224, 192)
    """
    x, y, z = (-(-n // m) * m for n, m in zip(shape, multiple, strict=True))
    return x, y, z


def nearest_multiples(size: int, multiple: int) -> tuple[int, int]:
    """The multiples just below and just above a size that is not a multiple; the lower one is at least `multiple`.

    >>> nearest_multiples(100, 16)
    (96, 112)
    """
    below = max(size // multiple, 1) * multiple
    return below, max(-(-size // multiple), below // multiple + 1) * multiple


def ras_axes(orientation: str) -> tuple[int, int, int]:
    """The axes of a file with this orientation that run along X, Y and Z of RAS, in either direction.

    >>> ras_axes("PIR")
    (2, 0, 1)
    """
    x, y, z = (
        next(axis for axis, letter in enumerate(orientation) if letter in pair)
        for pair in ("RL", "AP", "SI")
    )
    return x, y, z


def axis_rotation(axis: int, degrees: float) -> NDArray[np.float64]:
    """Matrix (3, 3) of a rotation about X, Y or Z: positive angles turn Y to Z, Z to X and X to Y.

    >>> (axis_rotation(2, 90) @ (1, 0, 0)).round(6)
    array([0., 1., 0.])
    """
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix


MULTIPLE = (16, 16, 16)
"""Sizes on the network grid are multiples of this, or equal the patch size."""


def resampled_shape(shape: Shape, spacing: Spacing, wanted: Spacing | None) -> Shape:
    """Shape of an image resampled to the voxel size `wanted`; None keeps its own.

    >>> resampled_shape((11, 11, 11), (1.0, 1.0, 2.0), (1.0, 2.0, 1.0))
    (11, 6, 21)
    """
    if wanted is None:
        return shape
    x, y, z = (
        round((n - 1) * have / want) + 1
        for n, have, want in zip(shape, spacing, wanted, strict=True)
    )
    return x, y, z


def padded_up(shape: Shape, patch_shape: Shape) -> Shape:
    """Shape that an image on the network grid is padded to: multiples of 16, and at least the patch."""
    x, y, z = map(max, padded_shape(shape, MULTIPLE), patch_shape)
    return x, y, z
