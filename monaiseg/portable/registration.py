"""Registration: the position of each voxel of a scan in the template of an atlas, in NumPy.

These are the steps of `monaiseg.atlas`, which trains templates with torch, and their numbers, which it takes from here. A
scan is divided into blocks of about the size of a template's cell. An affine map is found by Gauss-Newton, then a smooth
deformation by demons; see `monaiseg.atlas.registration` for the papers. *Positions* are template mm along x, y, z, with
the origin in the middle of the template. Both programs find the same positions to a thousandth of a cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.resampling import Matrix, Triple, along_axes, interpolation_matrix

FLAT_SHARE = 0.1
"""If at least this share of voxels has the lowest value, they are background that was cut away, not air with noise."""
ROUNDING = 1e-5
"""Share of the range of intensities by which resampling may change equal ones."""
MOST_DEVIATIONS = 3.0
"""Intensities are clipped this many standard deviations from their mean, to limit vessels, fat and artefacts."""
INSIDE = 0.999
"""A block lies entirely in the foreground if more than this share of it does; the rest is for rounding."""
AFFINE_STEPS = 12
AFFINE_BLUR = 0.5
"""Sigma of the blur of the template for the affine map, in cells."""
RIDGE = 1e-4
"""Ridge penalty per block on changes of the affine map: it stays as it is along axes without image information."""
DEFORMATION_STEPS = 40
DEFORMATION_BLUR = 0.4
LARGEST_STEP = 0.5
"""Largest step of the deformation, in cells."""
FLAT_GRADIENT = 0.016
"""Squared gradient, in standard deviations per cell, below which differences have less effect on the deformation."""
SMOOTHING = 0.5
"""Smoothing of each step of the deformation, and of the whole deformation after each step; sigma in blocks.

Dice of the vote with 40 steps of 0.5 and with 25 steps of 1: whole brains 0.574 and 0.546, hearts 0.452 and 0.368,
mouse brains 0.789 and 0.801, hippocampus 0.801 and 0.822 (`benchmarks/atlas.py`)."""
STRANGE_DEVIATIONS = 4.0
"""A scan does not fit if Fisher's z of its correlation is this many standard deviations below the training scans."""
LEAST_DEVIATION = 0.1
"""Lower bound of the standard deviation of Fisher's z: a few similar training scans say little about other scans."""
MOST_SIZE = 2.0
"""A scan does not fit if its body is more than this many times larger or smaller than a typical body."""

Floats = NDArray[np.float32]


class Cells:
    """The lattice of a template: number of cells along x, y, z, and their size in mm."""

    def __init__(self, shape: Triple, cell_mm: Sequence[float]) -> None:
        self.shape = shape
        self.cell_mm = tuple(map(float, cell_mm))
        self.mm = np.asarray(cell_mm, np.float32)
        self.last = np.asarray(shape, np.float32) - 1
        self.half_extent_mm = self.last / 2 * self.mm
        """Distance (3,) from the origin to the centre of the outermost cell."""

    def indices(self, positions: Floats) -> Floats:
        """Fractional indices (N, 3) of positions (N, 3); outside the lattice, those of the nearest point of its border."""
        places = (positions + self.half_extent_mm) / self.mm
        return np.clip(places, np.float32(0), self.last)

    def nearest(self, positions: Floats) -> NDArray[np.int64]:
        """Flat index (N,) of the cell that contains each position (N, 3); the last axis varies fastest."""
        _, Y, Z = self.shape
        return np.asarray(np.rint(self.indices(positions)).astype(np.int64) @ (Y * Z, Z, 1))

    def read(self, table: Floats, positions: Floats) -> Floats:
        """Values (N, C) of a table (cells, C) at positions (N, 3), by trilinear interpolation."""
        places = self.indices(positions)
        low = np.minimum(np.floor(places), np.maximum(self.last - 1, 0))
        share = places - low
        _, Y, Z = self.shape
        first = low.astype(int) @ (Y * Z, Z, 1)
        steps = [stride if n > 1 else 0 for n, stride in zip(self.shape, (Y * Z, Z, 1), strict=True)]  # fmt: skip
        values = np.zeros((len(positions), table.shape[1]), np.float32)
        for sides in itertools.product((0, 1), repeat=3):
            weights = np.where(sides, share, 1 - share).prod(axis=1, keepdims=True)
            values += weights * table[first + np.dot(sides, steps)]
        return values


@dataclass(frozen=True, eq=False)
class Blocks:
    """A scan as registration uses it. Scan coordinates are mm from the centre of the first voxel."""

    values: Floats
    """Mean standardised intensity of each block, (X', Y', Z')."""
    foreground: NDArray[np.bool_]
    """Blocks that contain or adjoin foreground, (X', Y', Z')."""
    inside: NDArray[np.bool_]
    """Blocks entirely in the foreground."""
    centres: Floats
    """Centres of the blocks, (X', Y', Z', 3)."""
    centre: Floats
    """Mean position (3,) of the foreground."""
    deviation: Floats
    """Standard deviation (3,) of the foreground."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a scan lies in the template, and how well it fits."""

    positions: Floats
    """(3, X, Y, Z)"""
    size: float
    """Length of the body in the template relative to the scan, as a factor."""
    correlations: tuple[float, float]
    """Of the scan's blocks with the template after the affine map: inside the foreground, and with its surroundings."""


@dataclass(frozen=True, eq=False)
class MeanImage:
    """The mean image of the training scans, which new scans are registered to: the template."""

    image: Floats
    """Standardised intensity of each cell."""
    cells: Cells
    deviation: Floats
    """Standard deviation (3,) of a typical scan's foreground, in mm."""
    correlations: Floats
    """Correlations of the training scans, (n, 2)."""

    def place(self, image: Floats, spacing: Sequence[float]) -> Placement:
        """Where an image (C, X, Y, Z) in RAS orientation, with voxels of `spacing` mm, lies in the template."""
        shape = image.shape[1:]
        factors = [max(1, round(min(self.cells.cell_mm) / mm)) for mm in spacing]
        scan = blocks_of(image, spacing, factors)
        affine = affine_map(scan, self._table(AFFINE_BLUR), self)
        moved = deformation(scan, self._table(DEFORMATION_BLUR), self.cells, affine)
        between = [
            interpolation_matrix((np.arange(n) + 0.5) / f - 0.5, -(-n // f))
            for n, f in zip(shape, factors, strict=True)
        ]
        positions = along_axes(moved, between) + affine[:, 3].reshape(3, 1, 1, 1)
        for axis, (n, mm) in enumerate(zip(shape, spacing, strict=True)):
            steps = affine[:, axis, None] * (np.arange(n) * mm).astype(np.float32)
            positions += steps.reshape([3, *(n if a == axis else 1 for a in range(3))])
        size = abs(float(np.linalg.det(affine[:, :3].astype(np.float64)))) ** (1 / 3)
        start = moved_points(scan.centres, affine)
        inner, outer = (self._correlation(scan.values[r], start[r]) for r in (scan.inside, scan.foreground))  # fmt: skip
        return Placement(positions, size, (inner, outer))

    def misfit(self, placed: Placement) -> str | None:
        """In which way a scan does not resemble the training scans; None if it does."""
        scores = np.arctanh(np.clip(self.correlations, -0.999, 0.999))
        spread = np.maximum(scores.std(axis=0), LEAST_DEVIATION)
        least = np.tanh(scores.mean(axis=0) - STRANGE_DEVIATIONS * spread)
        if 1 / MOST_SIZE <= placed.size <= MOST_SIZE and (placed.correlations >= least).all():
            return None
        pairs = zip(placed.correlations, least, strict=True)
        by = " and ".join(f"{found:.2f} (at least {wanted:.2f})" for found, wanted in pairs)
        return (
            "does not resemble the scans that the atlas was made from: its body has "
            f"{placed.size:.2g} of their size, and it correlates with them by {by}; look at what it labels"
        )

    def _table(self, sigma: float) -> Floats:
        """Value and gradient per mm along x, y, z in each cell of the template, blurred by `sigma` cells: (cells, 4)."""
        smooth = blurred(self.image[None], sigma)[0]
        slopes = [
            np.gradient(smooth, mm, axis=axis) if smooth.shape[axis] > 1 else smooth * 0
            for axis, mm in enumerate(self.cells.mm)
        ]
        return np.stack([smooth, *slopes], axis=-1).reshape(-1, 4).astype(np.float32)

    def _correlation(self, values: Floats, positions: Floats) -> float:
        """Correlation of blocks (N,) with the template at their positions (N, 3); 0 if either has no contrast."""
        seen = self.cells.read(self.image.reshape(-1, 1), positions)[:, 0]
        if len(values) < 2 or not seen.std() or not values.std():
            return 0.0
        return float(np.corrcoef(seen, values)[0, 1])


# ---------------------------------------------------------------- scans


def blocks_of(image: Floats, spacing: Sequence[float], factors: Sequence[int]) -> Blocks:
    """The blocks of `factors` voxels of an image (C, X, Y, Z)."""
    foreground = foreground_of(image)
    share = _block_means(foreground.astype(np.float32), factors)
    mm = zip(share.shape, factors, spacing, strict=True)
    axes = [(np.arange(n) * f + (f - 1) / 2) * size for n, f, size in mm]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    centre, deviation = _extent(foreground, spacing)
    values = _block_means(_standardised(image, foreground), factors)
    return Blocks(values, _widened(share > 0), share > INSIDE, centres, centre, deviation)


def foreground_of(image: Floats) -> NDArray[np.bool_]:
    """Voxels (X, Y, Z) of an image (C, X, Y, Z) that are not cut away; all voxels if there is no flat background."""
    lowest, highest = (end(axis=(1, 2, 3), keepdims=True) for end in (image.min, image.max))
    above = np.any(image > lowest + np.float32(ROUNDING) * (highest - lowest), axis=0)
    share = 1 - above.mean()
    return above if FLAT_SHARE <= share < 1 else np.ones_like(above)


def _standardised(image: Floats, foreground: NDArray[np.bool_]) -> Floats:
    """Mean (X, Y, Z) over the channels of an image, each in standard deviations of its foreground."""
    total = np.zeros(foreground.shape, np.float32)
    for channel in image:
        inside = channel[foreground]
        mean = inside.mean(dtype=np.float64)
        deviation = max(float(inside.std(dtype=np.float64, ddof=1)), 1e-6)
        scores = (channel - np.float32(mean)) / np.float32(deviation)
        total += np.clip(scores, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    return total / np.float32(len(image))


def _extent(foreground: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[Floats, Floats]:
    """Mean position and standard deviation (3,) of a foreground, the latter at least a third of a voxel, in mm."""
    means, deviations = [], []
    for axis, mm in enumerate(spacing):
        counts = foreground.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        places = np.arange(len(counts)) * mm
        means.append(np.average(places, weights=counts))
        variance = np.average((places - means[-1]) ** 2, weights=counts)
        deviations.append(max(math.sqrt(variance), mm / 3))
    return np.array(means, np.float32), np.array(deviations, np.float32)


def _block_means(volume: Floats, factors: Sequence[int]) -> Floats:
    """Mean of each block of a volume (X, Y, Z); border voxels are repeated beyond the border."""
    sizes = list(zip(volume.shape, factors, strict=True))
    padded = np.pad(volume, [(0, -n % f) for n, f in sizes], mode="edge")
    split = [n for size, f in zip(padded.shape, factors, strict=True) for n in (size // f, f)]
    return np.asarray(padded.reshape(split).mean(axis=(1, 3, 5)))


def _widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (X, Y, Z) with the 26 neighbours of its voxels."""
    for axis in range(3):
        line = np.moveaxis(np.pad(mask, [(int(a == axis),) * 2 for a in range(3)]), axis, 0)
        mask = np.moveaxis(line[:-2] | line[1:-1] | line[2:], 0, axis)
    return mask


def blurred(volumes: Floats, sigma: float) -> Floats:
    """Volumes (C, X, Y, Z) smoothed by a Gaussian of `sigma` voxels; border values are repeated beyond the border."""
    return along_axes(volumes, [_blur_matrix(size, sigma) for size in volumes.shape[1:]])


def _blur_matrix(size: int, sigma: float) -> Matrix:
    reach = max(1, math.ceil(2.5 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    rows = np.arange(size)[:, None]
    matrix = np.zeros((size, size))
    np.add.at(matrix, (rows, np.clip(rows + offsets, 0, size - 1)), weights / weights.sum())
    return matrix


# ---------------------------------------------------------------- maps


def moved_points(points: Floats, affine: Floats) -> Floats:
    """Points (..., 3) after an affine map (3, 4)."""
    return np.asarray(points @ affine[:, :3].T + affine[:, 3], np.float32)


def affine_map(scan: Blocks, table: Floats, template: MeanImage) -> Floats:
    """Affine map (3, 4) from scan mm to template mm.

    The initial map sends the mean of the foreground to the origin and its standard deviations to those of the template.
    """
    places = (scan.centres[scan.foreground] - scan.centre) / scan.deviation
    places = np.concatenate([places, np.ones((len(places), 1), np.float32)], axis=1)  # (N, 4)
    wanted = scan.values[scan.foreground]
    matrix = np.eye(3, 4, dtype=np.float32)  # both sides in standard deviations
    for _ in range(AFFINE_STEPS):
        matrix = matrix + _gauss_newton_step(places, wanted, matrix, table, template)
    linear = template.deviation[:, None] * matrix[:, :3] / scan.deviation
    shift = template.deviation * matrix[:, 3] - linear @ scan.centre
    return np.concatenate([linear, shift[:, None]], axis=1)


def _gauss_newton_step(
    places: Floats, wanted: Floats, matrix: Floats, table: Floats, template: MeanImage
) -> Floats:
    """Update of the map (3, 4) of points (N, 4) towards the intensities `wanted` (N,) in the template."""
    found = template.cells.read(table, places @ matrix.T * template.deviation)
    difference = wanted - found[:, 0]
    middle = (len(difference) - 1) // 2  # the lower of the two in the middle, as torch's median
    scale = 2 * np.partition(np.abs(difference), middle)[middle] + np.float32(0.1)
    weight = 1 / (1 + (difference / scale) ** 2)  # Cauchy weights
    slopes = (found[:, 1:] * template.deviation)[:, :, None] * places[:, None, :]
    slopes = slopes.reshape(-1, 12)
    ridge = np.float32(RIDGE * len(places)) * np.eye(12, dtype=np.float32)
    normal = slopes.T @ (slopes * weight[:, None]) + ridge
    return np.linalg.solve(normal, slopes.T @ (difference * weight)).reshape(3, 4)


def deformation(scan: Blocks, table: Floats, cells: Cells, affine: Floats) -> Floats:
    """Displacement (3, X', Y', Z') of each block after the affine map, in template mm."""
    inside = scan.foreground
    start, wanted = moved_points(scan.centres[inside], affine), scan.values[inside]
    cell = cells.mm.min()
    moved = np.zeros((3, *inside.shape), np.float32)
    for _ in range(DEFORMATION_STEPS):
        found = cells.read(table, start + moved[:, inside].T)
        step = np.zeros_like(moved)
        step[:, inside] = _demons_step(wanted - found[:, 0], found[:, 1:] * cell).T * cell
        moved = blurred(moved + blurred(step, SMOOTHING), SMOOTHING)
    return moved


def _demons_step(difference: Floats, gradient: Floats) -> Floats:
    """Step (N, 3) in cells that reduces differences (N,), along gradients (N, 3) of the template per cell."""
    slope = (gradient**2).sum(axis=1) + difference**2 + np.float32(FLAT_GRADIENT)
    step = gradient * (difference / slope)[:, None]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return np.asarray(step / np.maximum(length / np.float32(LARGEST_STEP), np.float32(1)))
