"""Surfaces: distances between the surfaces of two masks, in millimetres.

A *mask* says which voxels belong to a structure. A *surface element* is at a corner shared by 2 x 2 x 2 voxels, some of
which belong to the structure and some of which do not. Its area is that of the marching-cubes polygons at this corner.
Voxels outside the volume do not belong to the structure, so a structure that is cut by the edge of the volume has a
surface there. Distances are from each surface element of one mask to the nearest of the other, weighted by area.

The definitions are those of Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and
neck anatomy for radiotherapy" (2018), and of google-deepmind/surface-distance; the results equal those of the latter.
Both place the surface on the corners of voxels. MONAI uses the centres of the voxels at the edge of the mask, each with
weight 1, so its numbers differ slightly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree  # type: ignore[import-untyped]  # SciPy brings no types

from monaiseg.data import Spacing

Mask: TypeAlias = NDArray[np.bool_]
"""Which voxels belong to the structure, (X, Y, Z)."""
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between two surfaces, and the areas that weight them."""

    from_reference_mm: Floats
    """From each of the reference's R surface elements to the nearest of the prediction, (R,)."""
    reference_mm2: Floats
    """Areas of the reference's surface elements, (R,)."""
    from_prediction_mm: Floats
    """From each of the prediction's P surface elements to the nearest of the reference, (P,)."""
    prediction_mm2: Floats
    """Areas of the prediction's surface elements, (P,)."""


def hausdorff_mm(distances: SurfaceDistances, percent: float = 100) -> float:
    """Hausdorff distance in mm: `percent` of the area of each surface is at most this far from the other surface.

    100 gives the maximum distance, 95 the usual robust variant (HD95). The result is the larger of both directions.
    """
    return max(
        _percentile(distances.from_reference_mm, distances.reference_mm2, percent),
        _percentile(distances.from_prediction_mm, distances.prediction_mm2, percent),
    )


def mean_surface_distance_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance (ASSD) in mm: the mean over the area of both surfaces.

    Both directions are pooled, as in Heimann et al., "Comparison and evaluation of methods for liver segmentation from
    CT datasets" (2009). surface-distance gives a separate mean for each direction.
    """
    moment = np.dot(distances.from_reference_mm, distances.reference_mm2)
    moment += np.dot(distances.from_prediction_mm, distances.prediction_mm2)
    return float(moment / (distances.reference_mm2.sum() + distances.prediction_mm2.sum()))


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface Dice: share of the area of both surfaces within `tolerance_mm` of the other surface."""
    near = distances.reference_mm2[distances.from_reference_mm <= tolerance_mm].sum()
    near += distances.prediction_mm2[distances.from_prediction_mm <= tolerance_mm].sum()
    return float(near / (distances.reference_mm2.sum() + distances.prediction_mm2.sum()))


def _percentile(distances: Floats, areas: Floats, percent: float) -> float:
    """The smallest of `distances` that is not exceeded on `percent` of the area."""
    if percent == 100:
        return float(distances.max())
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    place = int(np.searchsorted(covered / covered[-1], percent / 100))
    return float(distances[order[min(place, len(order) - 1)]])


# ---------------------------------------------------------------- distances


def surface_distances(reference: Mask, prediction: Mask, spacing: Spacing) -> SurfaceDistances:
    """Distances between the surfaces of two non-empty masks of the same shape; `spacing` is in mm.

    >>> reference = np.ones((4, 1, 1), dtype=bool)
    >>> prediction = reference & (np.arange(4) < 2).reshape(4, 1, 1)
    >>> hausdorff_mm(surface_distances(reference, prediction, (1.5, 1.0, 1.0)))
    3.0
    """
    codes = [neighbour_codes(mask) for mask in (reference, prediction)]
    (here, points), (there, other_points) = (_elements(code, spacing) for code in codes)
    areas = element_areas(spacing)
    return SurfaceDistances(
        _to_nearest(points, other_points, there[here]),
        areas[codes[0][here]],
        _to_nearest(other_points, points, here[there]),
        areas[codes[1][there]],
    )


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Which of the 2 x 2 x 2 voxels around each voxel corner belong to the mask: (X+1, Y+1, Z+1).

    Bit 4i + 2j + k is the voxel at offset (i, j, k). Code 0 is outside, 255 inside, and others are surface elements.
    """
    codes: NDArray[np.uint8] = np.pad(mask, 1).view(np.uint8)
    codes = codes[:-1] | codes[1:] << np.uint8(4)
    codes = codes[:, :-1] | codes[:, 1:] << np.uint8(2)
    return codes[:, :, :-1] | codes[:, :, 1:] << np.uint8(1)


def _elements(codes: NDArray[np.uint8], spacing: Spacing) -> tuple[Mask, Floats]:
    """Mask (X+1, Y+1, Z+1) of the N surface elements, and their positions in mm (N, 3)."""
    is_surface = (codes != 0) & (codes != 255)
    return is_surface, voxels_of(is_surface) * np.array(spacing)


def voxels_of(mask: Mask) -> NDArray[np.intp]:
    """Indices (N, 3) of the N voxels of a mask; `numpy.argwhere` takes twenty times as long if there are few."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _to_nearest(points: Floats, others: Floats, is_shared: Mask) -> Floats:
    """Distance (N,) in mm from each point (N, 3) to the nearest of `others`; 0 where both surfaces share the point."""
    distances = np.zeros(len(points))
    if not is_shared.all():
        tree = KDTree(others, balanced_tree=False, compact_nodes=False)
        distances[~is_shared] = tree.query(points[~is_shared])[0]
    return distances


# ---------------------------------------------------------------- areas

Corner: TypeAlias = tuple[int, int, int]
"""One of the 2 x 2 x 2 voxels, with 0 or 2 along each axis; also the midpoint of an edge between two of them."""
Triangle: TypeAlias = tuple[Corner, Corner, Corner]


def element_areas(spacing: Spacing) -> Floats:
    """Area in mm2 of the surface element of each neighbour code, (256,).

    >>> areas = element_areas((1.0, 2.0, 3.0))
    >>> float(areas[0b11110000]), float(areas[0b00110011]), float(areas[0b01010101])  # flat: x, y, z
    (6.0, 3.0, 2.0)
    """
    x, y, z = spacing
    areas: Floats = np.linalg.norm(_area_vectors() * (y * z, x * z, x * y), axis=2).sum(axis=1)
    return areas


@cache
def _area_vectors() -> Floats:
    """Normals of the at most four triangles of each code, whose length is their area in voxels: (256, 4, 3).

    The polygons connect the midpoints of the edges between a voxel inside the mask and one outside. A face whose
    corners are alternately inside and outside is ambiguous: the kind of corner that the cube has fewer of is cut off.
    A polygon that is not flat is cut into as few flat pieces as possible.
    """
    vectors = np.zeros((256, 4, 3))
    for code in range(1, 255):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        rare = inside if len(inside) <= 4 else set(_CORNERS) - inside
        triangles = [t for polygon in _polygons(rare) for t in _flattest(polygon)]
        normals = [_normal(triangle) for triangle in triangles]
        vectors[code, : len(normals)] = np.array(normals) / 8  # half the product; edge length 2
    return vectors


_CORNERS: tuple[Corner, ...] = tuple((x, y, z) for x in (0, 2) for y in (0, 2) for z in (0, 2))
"""The corners in the order of the bits of a neighbour code."""


def _faces() -> Iterator[list[Corner]]:
    """The corners of each face of the cube, in order around the face."""
    for axis, side in itertools.product(range(3), (0, 2)):
        a, b, c, d = (corner for corner in _CORNERS if corner[axis] == side)
        yield [a, b, d, c]


def _polygons(corners: set[Corner]) -> Iterator[list[Corner]]:
    """Closed polygons through the midpoints of edges that separate `corners` from the rest of the cube."""
    joined: dict[Corner, list[Corner]] = {}
    for ring in _faces():
        for first in range(4):
            if ring[first - 1] in corners or ring[first] not in corners:
                continue
            last = first
            while ring[(last + 1) % 4] in corners:
                last += 1
            start = _middle(ring[first - 1], ring[first])
            end = _middle(ring[last % 4], ring[(last + 1) % 4])
            joined.setdefault(start, []).append(end)
            joined.setdefault(end, []).append(start)
    while joined:
        polygon, after = [], [next(iter(joined))]
        while after:
            polygon.append(after[0])
            after = [point for point in joined.pop(after[0]) if point in joined]
        yield polygon


def _middle(a: Corner, b: Corner) -> Corner:
    return (a[0] + b[0]) // 2, (a[1] + b[1]) // 2, (a[2] + b[2]) // 2


def _flattest(polygon: list[Corner]) -> tuple[Triangle, ...]:
    """The triangulation of a polygon with triangles in the fewest planes."""
    return min(_triangulations(polygon), key=lambda triangles: len(set(map(_plane, triangles))))


def _triangulations(polygon: list[Corner]) -> Iterator[tuple[Triangle, ...]]:
    """Every triangulation of a polygon without additional vertices."""
    if len(polygon) < 3:
        yield ()
    for n in range(1, len(polygon) - 1):
        for before in _triangulations(polygon[: n + 1]):
            for after in _triangulations(polygon[n:]):
                yield ((polygon[0], polygon[n], polygon[-1]), *before, *after)


def _plane(triangle: Triangle) -> tuple[int, ...]:
    """A key that is equal for all triangles of a polygon in one plane: normalised normal, and offset."""
    normal = _normal(triangle)
    offset = sum(n * p for n, p in zip(normal, triangle[0], strict=True))
    length = math.gcd(*normal)
    return (*(n // length for n in normal), offset // length)


def _normal(triangle: Triangle) -> tuple[int, int, int]:
    """Normal of a triangle, twice as long as its area."""
    (ax, ay, az), b, c = triangle
    (ux, uy, uz), (vx, vy, vz) = ((x - ax, y - ay, z - az) for x, y, z in (b, c))
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
