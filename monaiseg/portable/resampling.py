"""Resampling along the voxel axes: images by linear interpolation, label maps class by class.

A change of voxel size or of image size acts on each axis separately, so it is one matrix per axis, from the voxels
before to those after. Smoothing before an image is made smaller is a matrix, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
Matrix = NDArray[np.float64]
GRAINS = 1 << 14
"""Points between voxels are rounded to this fraction of a voxel. The shares of eight voxels are then exact, so rounding
errors of the affine do not decide between two classes with equal shares."""


def interpolation_matrix(positions: NDArray[Any], size: int) -> Matrix:
    """Matrix (N, size) that interpolates `size` voxels linearly at N positions; beyond the ends it repeats the last.

    >>> interpolation_matrix(np.array([0.0, 1.25, 9.0]), 3)
    array([[1.  , 0.  , 0.  ],
           [0.  , 0.75, 0.25],
           [0.  , 0.  , 1.  ]])
    """
    low, high, share = _neighbours(positions, size)
    matrix = np.zeros((len(positions), size))
    rows = np.arange(len(positions))
    matrix[rows, low] = 1 - share
    matrix[rows, high] += share
    return matrix


def smoothing_matrix(size: int, sigma: float) -> Matrix:
    """Matrix (size, size) of a Gaussian, cut at 4 sigma, with zeros beyond the ends: MONAI's `GaussianSmooth`."""
    if sigma == 0:
        return np.eye(size)
    tail = int(max(sigma * 4, 0.5) + 0.5)
    edges = np.array([math.erf((k - 0.5) / sigma / math.sqrt(2)) for k in range(-tail, tail + 2)])
    kernel = np.diff(edges) / 2
    return sum(
        (np.diag(np.full(size - abs(k), kernel[tail + k]), k) for k in range(-tail, tail + 1) if abs(k) < size),
        start=np.zeros((size, size)),
    )  # fmt: skip


def along_axes(
    image: NDArray[np.float32], matrices: Sequence[Matrix | None]
) -> NDArray[np.float32]:
    """Image (C, X, Y, Z) multiplied by a matrix along each of X, Y, Z; None leaves an axis as it is."""
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is not None:
            product = np.tensordot(matrix.astype(np.float32), image, axes=(1, axis))
            image = np.moveaxis(product, 0, axis)
    return np.ascontiguousarray(image, np.float32)


def labels_at(
    label_map: NDArray[Any],
    starts: Sequence[float],
    steps: Sequence[float],
    shape: Triple,
) -> NDArray[Any]:
    """A label map (X, Y, Z) at the points `starts + steps * index` of a regular grid of `shape`.

    The result is that of interpolating the indicator of every class linearly and taking the largest. Where the eight
    voxels around a point have one class, it is that class. Elsewhere at most eight classes meet, and only these are
    compared. Memory does not depend on the number of classes. Of two classes with equal shares, that of the nearest
    voxel wins: always taking the lower one would shrink structures where every second point lies halfway.
    """
    axes = [
        _neighbours(np.rint((start + step * np.arange(count)) * GRAINS) / GRAINS, size)
        for start, step, count, size in zip(starts, steps, shape, label_map.shape, strict=True)
    ]
    result = np.empty(shape, label_map.dtype)
    for plane, low, high, share in zip(result, *axes[0], strict=True):
        plane[...] = _plane_of_labels((label_map[low], label_map[high]), float(share), *axes[1:])
    return result


Neighbours = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]
"""For each point on an axis: the voxel below, the one above, and the share of the latter."""


def _neighbours(positions: NDArray[Any], size: int) -> Neighbours:
    places = np.clip(positions, 0, size - 1)
    low = np.minimum(places.astype(np.intp), max(size - 2, 0))
    return low, np.minimum(low + 1, size - 1), places - low


def _plane_of_labels(
    planes: tuple[NDArray[Any], NDArray[Any]],
    share: float,
    along_y: Neighbours,
    along_z: Neighbours,
) -> NDArray[Any]:
    """Labels of one plane of points, from the two planes of voxels around it."""
    corners = np.stack(
        [plane.take(y, axis=0).take(z, axis=1) for plane in planes for y in along_y[:2] for z in along_z[:2]]
    )  # (8, Y, Z)  # fmt: skip
    chosen = corners[0]
    y, z = np.nonzero((corners != chosen).any(axis=0))
    if y.size:
        x_parts, y_parts, z_parts = (
            (1 - part, part) for part in (share, along_y[2][y], along_z[2][z])
        )
        weights = np.stack([a * b * c for a in x_parts for b in y_parts for c in z_parts])
        chosen[y, z] = _heaviest(corners[:, y, z], weights)
    return np.asarray(chosen)


def _heaviest(labels: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[Any]:
    """The label with the largest sum of weights in each column; of equal ones that of the heaviest corner.

    >>> _heaviest(np.array([[1], [2], [2]]), np.array([[0.4], [0.3], [0.3]]))
    array([2])
    """
    sums = np.stack([((labels == label) * weights).sum(axis=0) for label in labels])
    best = (sums + 1e-9 * weights).argmax(axis=0)
    return np.asarray(labels[best, np.arange(labels.shape[1])])
