"""Post-processing of label maps by label: keep the largest component, drop small components, fill holes.

A *component* is a set of voxels of one label that touch one another, at least by a corner. A *hole* is a set of voxels
without the label, connected by faces, that the label encloses. A hole keeps the other labels in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Components = Callable[[NDArray[np.bool_], bool], NDArray[Any]]
"""From a mask (X, Y, Z), and whether voxels touch by corners, to the number of each voxel's component; 0 outside."""


@dataclass(frozen=True)
class LabelRule:
    """What is done to the components of one label."""

    value: int
    """Label value."""
    keep_largest: bool = False
    """Turn all components but the largest into background."""
    least_mm3: float = 0.0
    """Turn components with a smaller volume than this into background."""
    fill_holes: bool = False
    """Give the label to background that it encloses."""


def postprocessed(
    label_map: NDArray[Any],
    rules: Sequence[LabelRule],
    voxel_mm3: float,
    components: Components | None = None,
) -> NDArray[Any]:
    """A label map (X, Y, Z), in label values, postprocessed by one rule after the other.

    Args:
        label_map: it is not changed.
        rules: at most one for each label.
        voxel_mm3: volume of a voxel.
        components: a function that numbers components; None for `components_of`.
    """
    number = components or components_of
    result = label_map.copy()
    for rule in rules:
        if (box := box_of(result == rule.value)) is not None:
            _apply(result[box], rule, voxel_mm3, number)
    return result


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds a mask; None if it is empty."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not places.size:
            return None
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def _apply(box: NDArray[Any], rule: LabelRule, voxel_mm3: float, components: Components) -> None:
    """Apply the rule of one label in the smallest box that holds it, in place."""
    mask = box == rule.value
    if rule.keep_largest or rule.least_mm3:
        kept = _kept(components(mask, True), rule, voxel_mm3)
        box[mask & ~kept] = 0
        mask = kept
    if rule.fill_holes:
        box[holes_of(mask, components) & (box == 0)] = rule.value


def _kept(numbers: NDArray[Any], rule: LabelRule, voxel_mm3: float) -> NDArray[np.bool_]:
    """Where the components that stay are; of equally large ones the first is the largest."""
    voxels = np.bincount(numbers.ravel())
    voxels[0] = 0
    stays = (voxels > 0) & (voxels * voxel_mm3 >= rule.least_mm3 * (1 - 1e-9))
    if rule.keep_largest:
        stays &= np.arange(len(voxels)) == voxels.argmax()
    return np.asarray(stays[numbers])


def holes_of(mask: NDArray[np.bool_], components: Components) -> NDArray[np.bool_]:
    """Holes of a mask; what is connected to the border of the box is none."""
    numbers = components(~mask, False)
    faces = [np.moveaxis(numbers, axis, 0)[side] for axis in range(3) for side in (0, -1)]
    outside = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    outside[np.unique(np.concatenate([face.ravel() for face in faces]))] = True
    outside[0] = True
    return np.asarray(~outside[numbers])


def components_of(mask: NDArray[np.bool_], by_corners: bool) -> NDArray[np.int64]:
    """Number of the component of each voxel of a mask (X, Y, Z), from 1 in order of their first voxels; 0 outside.

    Each round joins every root to its lowest neighbour, until no two neighbours have different roots (Shiloach and
    Vishkin, J. Algorithms 3, 1982).
    """
    places = np.flatnonzero(mask)
    order = np.full(mask.shape, -1)
    order.flat[places] = np.arange(places.size)
    pairs = [_neighbours_along(order, offset) for offset in _offsets(by_corners)]
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    root = np.arange(places.size)
    while (differ := root[first] != root[second]).any():
        first, second = first[differ], second[differ]
        np.minimum.at(root, np.maximum(root[first], root[second]), np.minimum(root[first], root[second]))  # fmt: skip
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
    numbers = np.zeros(mask.size, np.int64)
    numbers[places] = np.unique(root, return_inverse=True)[1] + 1
    return numbers.reshape(mask.shape)


def _offsets(by_corners: bool) -> Iterator[tuple[int, ...]]:
    """Half of the steps from a voxel to its neighbours; the others are their opposites."""
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if offset > (0, 0, 0) and (by_corners or sum(map(abs, offset)) == 1):
            yield offset


def _neighbours_along(
    order: NDArray[np.int64], offset: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of voxels in the mask that lie `offset` apart, by their order."""
    here = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    there = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    both = (order[here] >= 0) & (order[there] >= 0)
    return order[here][both], order[there][both]
