"""Structures: measurements of every label value in a label map, from which doubtful ones follow.

All axes are those of the file. A *piece* is a connected component; voxels that touch at a corner are connected. An
*island* is a piece that is small compared with the largest piece of the same label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy has no types

from monaiseg.checks.findings import Voxel
from monaiseg.data import Grid

MAIN_SHARE = 0.9
"""If the largest piece has at least this share of a structure, the structure is meant to be in one piece."""
ISLAND_SHARE = 0.01
"""Largest share of a structure's voxels that an island has."""
LARGE_SHARE, LARGE_VOXELS = 0.25, 20
"""A slice in which a structure is large: share of its largest slice, and voxels."""
SAME_PLACE = 0.5
"""Share of two slices in which a structure is in the same place."""
_CORNERS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Structure:
    """One label value in one label map."""

    voxels: int
    inner: int
    """Voxels with six neighbours of the same value."""
    between: int
    """Voxels that have both a neighbour with a lower value and one with a higher value."""
    centroid_mm: tuple[float, float, float]
    """World coordinates: right, front, up."""
    middle: Voxel
    """The voxel of the structure nearest to the middle of its largest slice."""
    cut: float
    """Area on the face of the volume that cuts it most, as a share of its largest slice parallel to that face."""
    cut_voxel: Voxel | None
    islands: int
    """0 if the structure is not meant to be in one piece."""
    island_voxel: Voxel | None
    missing_slice: Voxel | None
    """A voxel in an empty slice between two slices that hold much of the structure."""


def measure_structures(label: NDArray[Any], grid: Grid) -> dict[int, Structure]:
    """Measurements of every label value but 0 in a label map (X, Y, Z)."""
    occupied = ndimage.find_objects((label > 0).astype(np.uint8))
    if not occupied:
        return {}
    start = np.array([part.start for part in occupied[0]])
    inside = np.ascontiguousarray(label[occupied[0]])
    values, compact = _compacted(inside)
    lower, higher = _lower_and_higher(label, occupied[0])
    inner = np.bincount(compact[~(lower | higher)], minlength=len(values) + 1)
    between = np.bincount(compact[lower & higher], minlength=len(values) + 1)
    boxes = ndimage.find_objects(compact, len(values))
    letters = grid.orientation
    across = next(axis for axis in range(3) if letters[axis] in "LR")
    return {
        value: _structure(
            compact[box] == index,
            start + [part.start for part in box],
            grid,
            across,
            int(inner[index]),
            int(between[index]),
        )
        for index, (value, box) in enumerate(zip(values, boxes, strict=True), 1)
    }


def _compacted(label: NDArray[Any]) -> tuple[list[int], NDArray[np.int32]]:
    """The label values but 0, and for each voxel the position of its value in this list, counted from 1."""
    if label.max() < 1 << 16:
        values = np.flatnonzero(np.bincount(label.ravel(order="K")))
        lookup = np.zeros(int(label.max()) + 1, np.int32)
        values = values[values > 0]
        lookup[values] = np.arange(1, len(values) + 1)
        return values.tolist(), lookup[label]
    values = np.unique(label)
    values = values[values > 0]
    return values.tolist(), np.where(label > 0, np.searchsorted(values, label) + 1, 0).astype(
        np.int32
    )


def _lower_and_higher(
    label: NDArray[Any], box: tuple[slice, slice, slice]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each voxel in the box has a neighbour with a lower value, and one with a higher value."""
    inside = label[box]
    lower, higher = np.zeros(inside.shape, bool), np.zeros(inside.shape, bool)
    for axis, part in enumerate(box):
        for step in (-1, 1):
            first, last = max(part.start + step, 0), min(part.stop + step, label.shape[axis])
            there = [*box]
            there[axis] = slice(first, last)
            here = [slice(None)] * 3
            here[axis] = slice(first - step - part.start, last - step - part.start)
            neighbour, own = label[tuple(there)], inside[tuple(here)]
            lower[tuple(here)] |= neighbour < own
            higher[tuple(here)] |= neighbour > own
    return lower, higher


def _structure(
    mask: NDArray[np.bool_],
    start: NDArray[Any],
    grid: Grid,
    across: int,
    inner: int,
    between: int,
) -> Structure:
    """Measurements of one structure; `mask` is cut to its box, which starts at the voxel `start`.

    `across` is the axis that runs from left to right.
    """
    areas = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    voxels = int(areas[0].sum())
    middle = [float((line * np.arange(line.size)).sum()) / voxels for line in areas]
    centroid = grid.array[:3, :3] @ (np.array(middle) + start) + grid.array[:3, 3]
    cut, cut_voxel = _cut(mask, areas, start, grid.shape)
    islands, island_voxel = _islands(mask, voxels, start)
    return Structure(
        voxels,
        inner,
        between,
        (float(centroid[0]), float(centroid[1]), float(centroid[2])),
        _within(mask, int(areas[2].argmax()), 2, start),
        cut,
        cut_voxel,
        islands,
        island_voxel,
        _missing_slice(mask, areas, start, across),
    )


def _within(mask: NDArray[np.bool_], position: int, axis: int, start: NDArray[Any]) -> Voxel:
    """The voxel of a slice of the mask that is nearest to the middle of the mask in this slice."""
    places = np.argwhere(mask.take(position, axis=axis))
    nearest = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return _voxel(np.insert(nearest, axis, position) + start)


def _voxel(place: NDArray[Any]) -> Voxel:
    x, y, z = (int(index) for index in place)
    return x, y, z


def _cut(
    mask: NDArray[np.bool_], areas: list[NDArray[Any]], start: NDArray[Any], shape: Voxel
) -> tuple[float, Voxel | None]:
    """The largest area on a face of the volume, as a share of the largest parallel slice, and a voxel in it."""
    worst, where = 0.0, None
    for axis, line in enumerate(areas):
        ends = ((0, start[axis] == 0), (line.size - 1, start[axis] + line.size == shape[axis]))
        for position, touches in ends:
            share = float(line[position] / line.max())
            if touches and shape[axis] > 1 and share > worst:
                worst, where = share, _within(mask, position, axis, start)
    return worst, where


def _islands(mask: NDArray[np.bool_], voxels: int, start: NDArray[Any]) -> tuple[int, Voxel | None]:
    """Number of islands, and a voxel in the largest of them."""
    pieces, count = ndimage.label(mask, _CORNERS)
    if count < 2:
        return 0, None
    sizes = np.bincount(pieces.ravel())[1:]
    if sizes.max() < MAIN_SHARE * voxels:
        return 0, None
    small = np.flatnonzero(sizes <= max(ISLAND_SHARE * voxels, 1))
    if not small.size:
        return 0, None
    largest = small[sizes[small].argmax()] + 1
    return int(small.size), _voxel(np.argwhere(pieces == largest)[0] + start)


def _missing_slice(
    mask: NDArray[np.bool_], areas: list[NDArray[Any]], start: NDArray[Any], across: int
) -> Voxel | None:
    """A voxel in an empty slice between two slices in which the structure is large and in the same place.

    Slices across the left-right axis do not count: a structure may have a left and a right part.
    """
    for axis, line in enumerate(areas):
        if axis == across:
            continue
        large = line >= max(LARGE_SHARE * line.max(), LARGE_VOXELS)
        for hole in np.flatnonzero((line[1:-1] == 0) & large[:-2] & large[2:]) + 1:
            both = mask.take(hole - 1, axis=axis) & mask.take(hole + 1, axis=axis)
            if both.sum() >= SAME_PLACE * max(line[hole - 1], line[hole + 1]):
                return _voxel(
                    np.insert(np.argwhere(both)[int(both.sum()) // 2], axis, hole) + start
                )
    return None
