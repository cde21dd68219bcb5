"""The route of a scan: from the voxels of its file to the network grid, and of a label map back.

The *network grid* has RAS orientation (nibabel's), the voxel size or image size of the recipe, and is padded to
multiples of 16 voxels and at least the patch. A route follows the steps of the chain of MONAI transforms that the
network was trained with, in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.resampling import (
    Matrix,
    Triple,
    along_axes,
    interpolation_matrix,
    labels_at,
    smoothing_matrix,
)

MULTIPLE = 16
SAME = 1e-3
"""MONAI leaves an axis as it is if its voxel size differs by less than this, in mm."""
PADDINGS: dict[str, Literal["constant", "reflect", "edge", "wrap"]] = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
"""NumPy's names for the padding modes of the settings."""


class RouteError(ValueError):
    """A scan cannot be brought to the network grid."""


@dataclass(frozen=True)
class Route:
    """The way of one scan; `there` and `back` take it in either direction."""

    turn: NDArray[np.float64]
    """(3, 2) as `nibabel.orientations.apply_orientation` takes it, from the file's axes to RAS."""
    ras_shape: Triple
    matrices: tuple[Matrix | None, ...]
    """For each axis the matrix from the file's voxels to resampled ones; None: not resampled."""
    starts: tuple[float, ...]
    steps: tuple[float, ...]
    """Voxel i of the file, in RAS orientation, lies at `start + step * i` on the resampled axis."""
    sampled_shape: Triple
    padded_shape: Triple

    @property
    def before(self) -> Triple:
        """Voxels of padding at the start of each axis."""
        x, y, z = (
            (full - inner) // 2
            for full, inner in zip(self.padded_shape, self.sampled_shape, strict=True)
        )
        return x, y, z

    def turned(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image (C, X, Y, Z) in the file's axes, in RAS orientation."""
        return np.stack(
            [nib.orientations.apply_orientation(channel, self.turn) for channel in image]
        )

    def sampled(self, image: NDArray[np.float32], padding_mode: str) -> NDArray[np.float32]:
        """An image (C, X, Y, Z) in RAS orientation, resampled and padded; constant padding is each channel's minimum."""
        image = along_axes(image, self.matrices)
        widths = [
            (first, full - inner - first)
            for first, full, inner in zip(self.before, self.padded_shape, self.sampled_shape, strict=True)
        ]  # fmt: skip
        if PADDINGS[padding_mode] != "constant":
            return np.stack([np.pad(c, widths, mode=PADDINGS[padding_mode]) for c in image])
        return np.stack([np.pad(c, widths, constant_values=c.min()) for c in image])

    def back(self, class_map: NDArray[Any]) -> NDArray[Any]:
        """A class map (X, Y, Z) on the network grid, on the grid of the file.

        Padding and orientation are undone exactly, resampling by `labels_at`.
        """
        inner = tuple(
            slice(first, first + size)
            for first, size in zip(self.before, self.sampled_shape, strict=True)
        )
        class_map = class_map[inner]
        if any(matrix is not None for matrix in self.matrices):
            class_map = labels_at(class_map, self.starts, self.steps, self.ras_shape)
        return turned_back(class_map, self.turn)


def turned_back(label_map: NDArray[Any], turn: NDArray[np.float64]) -> NDArray[Any]:
    """A label map (X, Y, Z) in RAS orientation, in the axes of the file that `turn` turned to RAS."""
    home = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    return np.ascontiguousarray(nib.orientations.apply_orientation(label_map, home))


def route_of(
    shape: Sequence[int],
    affine: NDArray[np.float64],
    *,
    spacing: Sequence[float] | None,
    image_shape: Sequence[int] | None,
    patch: Sequence[int],
) -> Route:
    """The route of a scan of `shape` voxels with this affine (4, 4), voxel index to mm.

    Args:
        shape: voxels along the axes of the file.
        affine: of the file.
        spacing: voxel size in mm along X, Y, Z to resample to; None keeps that of the file.
        image_shape: voxels along X, Y, Z to resample to after that; None keeps them.
        patch: smallest shape after padding.

    Raises:
        RouteError: the scan is resampled, and its voxel axes are not at right angles.
    """
    turn = nib.orientations.io_orientation(affine)
    ras_affine = affine @ nib.orientations.inv_ornt_aff(turn, tuple(shape))
    order = np.argsort(turn[:, 0])
    ras_shape = [int(shape[axis]) for axis in order]
    if spacing is not None:
        _check_right_angles(ras_affine)
    factors = _factors(np.linalg.norm(ras_affine[:3, :3], axis=0), spacing)
    counts, centred = _grid_after(ras_affine, ras_shape, factors)
    if not _changes(ras_shape, counts, factors):
        factors, counts = [None] * 3, ras_shape
    axes = [
        _axis(size, factor, count, target, centred)
        for size, factor, count, target in zip(ras_shape, factors, counts, image_shape or (None,) * 3, strict=True)
    ]  # fmt: skip
    sampled = [size for _, _, _, size in axes]
    padded = [max(-(-n // MULTIPLE) * MULTIPLE, least) for n, least in zip(sampled, patch, strict=True)]  # fmt: skip
    return Route(
        turn,
        _triple(ras_shape),
        tuple(matrix for matrix, _, _, _ in axes),
        tuple(start for _, start, _, _ in axes),
        tuple(step for _, _, step, _ in axes),
        _triple(sampled),
        _triple(padded),
    )


def _factors(found: NDArray[np.float64], wanted: Sequence[float] | None) -> list[float | None]:
    """For each axis the voxel size before resampling over that after it; None where it stays as it is."""
    if wanted is None:
        return [None] * 3
    pairs = list(zip(found.tolist(), wanted, strict=True))
    return [have / want if abs(have - want) > SAME else None for have, want in pairs]


def _grid_after(
    affine: NDArray[np.float64], shape: Sequence[int], factors: Sequence[float | None]
) -> tuple[list[int], bool]:
    """Voxels along each axis after resampling, and whether the centres of the two volumes are aligned.

    MONAI aligns the first voxels where some corner comes before all others, to within 1e-8 voxels, and the centres
    otherwise: on oblique axes, whose affine the file has rounded to float32, there is no such corner. The same rounding
    decides to which side a half goes. Both are computed as in `monai.data.utils.compute_shape_offset`, step by step.
    """
    if not any(factors):
        return list(shape), False
    zooms = np.linalg.cholesky(affine[:3, :3].T @ affine[:3, :3]).T
    spacing = np.linalg.norm(affine[:3, :3], axis=0) / [factor or 1.0 for factor in factors]
    resampled = np.eye(4)
    resampled[:3, :3] = affine[:3, :3] @ np.linalg.inv(zooms) @ np.diag(spacing)
    ends = np.meshgrid(*[(0.0, n - 1.0) for n in shape], indexing="ij")
    corners = np.stack([*(end.ravel() for end in ends), np.ones(8)])
    after = (np.linalg.solve(resampled, affine) @ corners)[:3]
    counts = np.round(np.ptp(after, axis=1) + 1).astype(int).tolist()
    first = (after - corner[:, None] for corner in after.T)
    return counts, not any(np.allclose(offsets.min(axis=1), 0) for offsets in first)


def _changes(shape: Sequence[int], counts: Sequence[int], factors: Sequence[float | None]) -> bool:
    """Whether MONAI resamples at all: it leaves a scan as it is where the grids are nearly equal."""
    return any(
        factor is not None and (count != size or abs(1 / factor - 1) > SAME)
        for size, count, factor in zip(shape, counts, factors, strict=True)
    )


def _axis(
    size: int, factor: float | None, count: int, target: int | None, centred: bool
) -> tuple[Matrix | None, float, float, int]:
    """Matrix from `size` voxels to the resampled ones, start and step of the way back, and number of voxels.

    Args:
        size: voxels before resampling.
        factor: voxel size before resampling over that after it; None: not resampled.
        count: voxels after resampling.
        target: voxels after resizing to an image size; None: not resized.
        centred: whether resampling keeps the centre, in place of the first voxel.
    """
    matrix, start, step = None, 0.0, 1.0
    if factor is not None:
        step = factor
        start = (count - factor * size) / 2 if centred else 0.0
        matrix = interpolation_matrix((np.arange(count) - start) / factor, size)
    if target is not None and target != count:
        ratio = target / count
        positions = (np.arange(target) + 0.5) / ratio - 0.5
        resize = interpolation_matrix(positions, count)
        resize = resize @ smoothing_matrix(count, max(0.0, (1 / ratio - 1) / 2))
        matrix = resize if matrix is None else resize @ matrix
        start, step, count = (start + 0.5) * ratio - 0.5, step * ratio, target
    return matrix, start, step, count


def _check_right_angles(affine: NDArray[np.float64]) -> None:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    angles = axes.T @ axes - np.eye(3)
    if np.abs(angles).max() > SAME:
        raise RouteError(
            "its voxel axes are not at right angles, and the model resamples scans: resample it to a grid with right "
            "angles first"
        )


def _triple(numbers: Sequence[int]) -> Triple:
    x, y, z = numbers
    return x, y, z
