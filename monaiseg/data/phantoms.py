"""Phantoms: synthetic scans with known label maps, for the demo and the tests.

A *phantom* is an image and its label map on one grid. A *nested* phantom consists of a few ellipsoids inside one
another and is small enough to draw; a *brain* has every structure of a label table at its place in a head. Both are
defined in millimetres and sampled at the voxel centres, so the anatomy is the same on any grid. Millimetres run to the
right, front and top (RAS) from the centre of the volume.

Brains are defined in *template coordinates*: the cerebrum is the ball of radius 1, with x to the right, y to the front
and z up. Left and right partners are mirror images with the same intensity: only their position distinguishes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monaiseg.data.grid import Grid, Shape, Spacing, axis_rotation
from monaiseg.data.labels import Label, LabelTable
from monaiseg.data.volumes import write_image, write_label_map

Points = NDArray[np.float32]
"""Coordinates, (3, ...)."""


class Phantom(NamedTuple):
    """A synthetic scan and its label map."""

    image: NDArray[np.float32]
    """Intensities, (X, Y, Z)."""
    label_map: NDArray[Any]
    """Label values, (X, Y, Z)."""
    grid: Grid


def write_phantom_dataset(
    folder: str | Path,
    num_cases: int,
    *,
    table: LabelTable | None = None,
    shape: Shape = (64, 72, 64),
    seed: int = 0,
) -> None:
    """Write synthetic brains as `images/brain_001.nii.gz` and `labels/brain_001.nii.gz`, and so on.

    Cases differ as real scans do: in pose and shape of the head, in orientation, spacing (up to 15 %) and number of
    voxels, in intensity and noise.

    Args:
        folder: folder for `images` and `labels`.
        num_cases: number of brains.
        table: structures; None for the eight of `small_table`.
        shape: approximate number of voxels to the right, front and top; the spacing is chosen so that a head fits.
        seed: random seed; the same seed gives the same files.
    """
    table = table or small_table()
    fitting = _fitting_spacing(shape, "RAS")
    for case in range(num_cases):
        rng = np.random.default_rng([seed, case])
        orientation = _ORIENTATIONS[case % len(_ORIENTATIONS)]
        spacing = np.round(fitting * rng.uniform(0.95, 1.1, size=3), 3)
        sizes = [shape[_DIRECTIONS[letter][0]] for letter in orientation]
        x, y, z = (round(n * fitting / mm) for n, mm in zip(sizes, spacing, strict=True))
        brain_seed = int(rng.integers(2**31))
        brain = make_brain(table, (x, y, z), tuple(spacing.tolist()), orientation, brain_seed)
        write_phantom(folder, f"brain_{case + 1:03d}", brain, table)


def write_phantom(
    folder: str | Path, case_id: str, phantom: Phantom, table: LabelTable | None = None
) -> tuple[Path, Path]:
    """Write `images/<case_id>.nii.gz` and `labels/<case_id>.nii.gz` below `folder`, and return both paths."""
    image, label = (Path(folder) / kind / f"{case_id}.nii.gz" for kind in ("images", "labels"))
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, phantom.image, phantom.grid)
    write_label_map(label, phantom.label_map, phantom.grid, table=table)
    return image, label


def phantom_grid(
    shape: Sequence[int], spacing: Sequence[float] = (1, 1, 1), orientation: str = "RAS"
) -> Grid:
    """Grid of a volume whose centre is the world origin; shape and spacing are along the voxel axes.

    >>> phantom_grid((4, 4, 2), (1, 1, 3), "LPS").affine[0]
    (-1.0, 0.0, 0.0, 1.5)
    """
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(orientation):
        world_axis, sign = _DIRECTIONS[letter]
        affine[world_axis, axis] = sign * spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + 0.0  # + 0.0: no negative zeros
    return Grid.of(shape, affine)


_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR")
"""Orientations that scanners and converters write in practice."""


def make_phantom(
    shape: Shape = (24, 24, 24),
    spacing: Spacing = (1.0, 1.0, 1.0),
    orientation: str = "RAS",
    label_values: Sequence[int] = (1, 2),
    seed: int = 0,
) -> Phantom:
    """Nested ellipsoids, one per label value from the outside in, each brighter than the one around it.

    Every label has the volume `nested_volume_ml`. `seed` determines the noise and a shift of all ellipsoids by up to 4
    % of the field of view.

    >>> for row in make_phantom((9, 9, 9)).label_map[:, :, 4]:
    ...     print(*row)
    0 0 0 0 0 0 0 0 0
    0 0 0 1 1 1 0 0 0
    0 1 2 2 2 2 1 0 0
    0 1 2 2 2 2 2 1 0
    0 2 2 2 2 2 2 1 0
    0 1 2 2 2 2 2 1 0
    0 1 2 2 2 2 1 0 0
    0 0 1 1 1 1 0 0 0
    0 0 0 0 0 0 0 0 0
    """
    rng = np.random.default_rng(seed)
    grid = phantom_grid(shape, spacing, orientation)
    extent = np.abs(grid.array[:3, :3]) @ np.array(shape)  # mm to the right, front and top
    points = _world_points(grid)
    centred = points - (rng.uniform(-0.04, 0.04, size=3) * extent).reshape(3, 1, 1, 1)
    share = (
        _squared_radius(centred, _NESTED_RADIUS * extent) ** 1.5
    )  # of the volume of the outermost ellipsoid
    depth = np.clip(np.ceil(len(label_values) * (1 - share)), 0, None).astype(int)  # 0: outside
    label_map = np.array([0, *label_values], dtype=np.min_scalar_type(max(label_values)))[depth]
    signal = 0.1 + 0.9 * depth / len(label_values)
    image = 100 * (signal + rng.normal(0, 0.03, size=shape))
    return Phantom(image.astype(np.float32), label_map, grid)


def nested_volume_ml(shape: Shape, spacing: Spacing, label_values: Sequence[int]) -> float:
    """Volume in ml of each label of a nested phantom.

    >>> round(nested_volume_ml((10, 10, 10), (1, 1, 1), (1, 2)), 3)
    0.134
    """
    semi_axes = [_NESTED_RADIUS * n * mm for n, mm in zip(shape, spacing, strict=True)]
    return 4 / 3 * math.pi * math.prod(semi_axes) / len(label_values) / 1000


_NESTED_RADIUS = 0.4
"""Semi-axes of the outermost ellipsoid, as a share of the field of view."""


def make_brain(
    table: LabelTable,
    shape: Shape = (64, 72, 64),
    spacing: Spacing | None = None,
    orientation: str = "RAS",
    seed: int = 0,
) -> Phantom:
    """A synthetic head with every structure of `table`, on any grid.

    Structures with an LPBA40 name are at their anatomical position. Other pairs divide the cortex, and other single
    structures are placed along the midline. Pose, shape, intensities and bias field depend on `seed`, not on the grid.

    Args:
        table: the structures.
        shape: voxels along the axes of `orientation`.
        spacing: voxel size in mm along the same axes; None for isotropic voxels that just fit the head.
        orientation: direction of the voxel axes.
        seed: random seed; each seed gives a different head.
    """
    if spacing is None:
        spacing = (_fitting_spacing(shape, orientation),) * 3
    grid = phantom_grid(shape, spacing, orientation)
    form, scanner = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    world = _world_points(grid)
    label_map, tissue = _anatomy(_template_points(world, form), table)
    return Phantom(_scanned(tissue, world, scanner), label_map, grid)


def small_table() -> LabelTable:
    """Eight structures: three pairs, cerebellum and brainstem."""
    names = ("left cortex", "right cortex", "left caudate", "right caudate", "left hippocampus",
             "right hippocampus", "cerebellum", "brainstem")  # fmt: skip
    return LabelTable.from_values(range(1, 9), dict(enumerate(names, start=1)))


class _Ellipsoid(NamedTuple):
    """Ellipsoid in template coordinates; `pitch` tilts its front upwards, in degrees."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    pitch: float = 0.0

    def holds(self, points: Points) -> NDArray[np.bool_]:
        cos, sin = math.cos(math.radians(self.pitch)), math.sin(math.radians(self.pitch))
        x, y, z = points - np.array(self.centre, np.float32).reshape(3, *[1] * (points.ndim - 1))
        turned = np.stack([x, cos * y + sin * z, cos * z - sin * y])
        return _squared_radius(turned, np.array(self.radii)) < 1


_Place = _Ellipsoid | tuple[float, float, float]
"""An ellipsoid, or the centre of a parcel of the cortex."""


@dataclass(frozen=True)
class _Structure:
    """A single structure or a pair of mirror images: the place of the right one, and both label values."""

    place: _Place
    left: int
    right: int


_SEMI_AXES_MM = np.array([66.0, 84.0, 60.0])
"""Semi-axes of the cerebrum: half the width, length and height of an adult cerebrum."""
_CORTEX_DEPTH, _HALF_FISSURE = 0.28, 0.02
_SKIN, _SKULL, _FLUID, _GREY, _WHITE = 0.65, 0.10, 0.18, 0.55, 0.85  # T1: as share of the brightest
_HEAD = {  # from the outside in
    _Ellipsoid((0, 0, -0.10), (1.22, 1.20, 1.30)): _SKIN,
    _Ellipsoid((0, 0, -0.10), (1.16, 1.14, 1.24)): _SKULL,
    _Ellipsoid((0, 0, -0.10), (1.08, 1.06, 1.16)): _FLUID,
    _Ellipsoid((0, 0, 0), (1, 1, 1)): _GREY,
    _Ellipsoid((0, 0, 0), (1 - _CORTEX_DEPTH,) * 3): _WHITE,
}
_PARCELS = {
    "superior frontal": (0.18, 0.45, 0.75),
    "middle frontal": (0.48, 0.52, 0.52),
    "inferior frontal": (0.68, 0.48, 0.18),
    "precentral": (0.42, 0.10, 0.75),
    "middle orbitofrontal": (0.30, 0.72, -0.38),
    "lateral orbitofrontal": (0.55, 0.58, -0.32),
    "gyrus rectus": (0.08, 0.72, -0.50),
    "postcentral": (0.45, -0.18, 0.73),
    "superior parietal": (0.28, -0.50, 0.68),
    "supramarginal": (0.68, -0.28, 0.45),
    "angular": (0.60, -0.52, 0.38),
    "precuneus": (0.08, -0.55, 0.62),
    "superior occipital": (0.22, -0.78, 0.35),
    "middle occipital": (0.48, -0.72, 0.08),
    "inferior occipital": (0.45, -0.72, -0.22),
    "cuneus": (0.07, -0.85, 0.15),
    "superior temporal": (0.80, 0.08, -0.10),
    "middle temporal": (0.78, -0.12, -0.32),
    "inferior temporal": (0.66, -0.05, -0.56),
    "parahippocampal": (0.22, 0.05, -0.80),
    "lingual": (0.10, -0.84, -0.12),
    "fusiform": (0.46, 0.08, -0.72),
}
_BODIES = {
    "insular": _Ellipsoid((0.56, 0.12, 0.00), (0.06, 0.28, 0.22)),
    "cingulate": _Ellipsoid((0.09, 0.05, 0.46), (0.07, 0.50, 0.12)),
    "caudate": _Ellipsoid((0.17, 0.20, 0.12), (0.08, 0.22, 0.12), pitch=20),
    "putamen": _Ellipsoid((0.36, 0.10, 0.00), (0.09, 0.24, 0.16)),
    "hippocampus": _Ellipsoid((0.36, -0.20, -0.26), (0.09, 0.26, 0.10), pitch=-20),
    "cerebellum": _Ellipsoid((0.00, -0.50, -0.68), (0.60, 0.34, 0.26)),
    "brainstem": _Ellipsoid((0.00, -0.15, -0.80), (0.16, 0.17, 0.36), pitch=-15),
}


def _structures(table: LabelTable) -> Iterator[_Structure]:
    """Every structure of the table with its place: known structures by name, the others in free places."""
    by_value = {label.value: label for label in table.foreground}
    pairs = [
        sorted((label, by_value[label.partner]), key=_is_right)
        for label in table.foreground
        if label.partner is not None and label.value < label.partner
    ]
    singles = [[label] for label in table.foreground if label.partner is None]
    known: dict[str, _Place] = {**_PARCELS, **_BODIES}
    for sides, free_places in ((pairs, _free_parcels), (singles, _free_bodies)):
        placed = [(labels, _take_known(labels[0].name, known)) for labels in sides]
        free = iter(free_places(sum(place is None for _, place in placed)))
        for labels, place in placed:
            yield _Structure(place or next(free), labels[0].value, labels[-1].value)


def _is_right(label: Label) -> tuple[bool, int]:
    return bool(re.search(r"(?i)(?<![a-z])(right|rh|r)(?![a-z])", label.name)), label.value


def _take_known(name: str, known: dict[str, _Place]) -> _Place | None:
    """The place that `name` refers to, removed from `known` so that no other structure gets it."""
    words = re.sub(r"[^a-z]+", " ", name.lower())
    key = next((key for key in known if key in words), None)
    return None if key is None else known.pop(key)


def _free_parcels(count: int) -> list[_Place]:
    """Points spread evenly over one half of the cortex, on a golden spiral around the left-right axis."""
    places: list[_Place] = []
    for index in range(count):
        x = (index + 0.5) / count
        angle, radius = index * math.pi * (3 - 5**0.5), (1 - x * x) ** 0.5
        middle = 1 - _CORTEX_DEPTH / 2
        places.append(
            (middle * x, middle * radius * math.cos(angle), middle * radius * math.sin(angle))
        )
    return places


def _free_bodies(count: int) -> list[_Place]:
    """Balls along the midline from front to back, flattened if there are many."""
    thickness = min(0.15, 0.45 / max(count, 1))
    ys = [0.45 - 0.9 * (index + 0.5) / count for index in range(count)]
    return [_Ellipsoid((0, y, -0.12), (0.15, thickness, 0.15)) for y in ys]


def _anatomy(points: Points, table: LabelTable) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Label values and brightness (0..1) at template coordinates (3, X, Y, Z); both (X, Y, Z)."""
    label_map = np.zeros(points.shape[1:], np.min_scalar_type(table.values[-1]))
    tissue = np.full(points.shape[1:], 0.02, np.float32)
    for ellipsoid, brightness in _HEAD.items():
        tissue[ellipsoid.holds(points)] = brightness
    is_left = points[0] < 0
    mirrored = np.concatenate([np.abs(points[:1]), points[1:]])
    cortex = tissue == np.float32(_GREY)
    tissue[cortex & (mirrored[0] < _HALF_FISSURE)] = _FLUID
    cortex &= mirrored[0] >= _HALF_FISSURE

    structures = sorted(_structures(table), key=lambda s: isinstance(s.place, _Ellipsoid))
    parcels = [s.place for s in structures if not isinstance(s.place, _Ellipsoid)]
    parcel_map = np.full(label_map.shape, -1, np.int16)
    parcel_map[cortex] = _nearest(mirrored[:, cortex], parcels)
    for index, structure in enumerate(structures):  # parcels first; bodies replace parts of them
        if isinstance(structure.place, _Ellipsoid):
            here = structure.place.holds(mirrored)
        else:
            here = parcel_map == index
        label_map[here] = np.where(is_left[here], structure.left, structure.right)
        tissue[here] = _GREY + 0.16 * (index * 0.618 % 1 - 0.5)  # golden ratio: neighbours differ
    return label_map, tissue


def _nearest(points: Points, centres: Sequence[tuple[float, float, float]]) -> NDArray[np.int16]:
    """Index of the centre nearest to each of the points (3, N); -1 if there are no centres."""
    nearest = np.full(points.shape[1], -1, np.int16)
    least = np.full(points.shape[1], np.inf, np.float32)
    for index, centre in enumerate(centres):
        distance = ((points - np.array(centre, np.float32)[:, None]) ** 2).sum(axis=0)
        closer = distance < least
        nearest[closer], least[closer] = index, distance[closer]
    return nearest


def _world_points(grid: Grid) -> Points:
    """World coordinates in mm of every voxel centre, (3, X, Y, Z)."""
    indices = np.indices(grid.shape, dtype=np.float32).reshape(3, -1)
    affine = grid.array.astype(np.float32)
    return (affine[:3, :3] @ indices + affine[:3, 3:]).reshape(3, *grid.shape)


def _squared_radius(points: Points, semi_axes: NDArray[Any]) -> NDArray[np.float32]:
    """Squared distance from the origin in units of an ellipsoid's semi-axes; below 1 inside the ellipsoid."""
    x, y, z = (axis / np.float32(length) for axis, length in zip(points, semi_axes, strict=True))
    squared: NDArray[np.float32] = x * x + y * y + z * z
    return squared


def _fitting_spacing(shape: Shape, orientation: str) -> float:
    """Isotropic spacing in mm at which `shape` just holds a head."""
    voxels = np.abs(phantom_grid(shape, orientation=orientation).array[:3, :3]) @ np.array(shape)
    head = next(iter(_HEAD))
    return round(float((2.04 * np.array(head.radii) * _SEMI_AXES_MM / voxels).max()), 3)


def _template_points(world: Points, rng: np.random.Generator) -> Points:
    """Template coordinates for world coordinates (3, X, Y, Z), for a head with random pose, size and shape."""
    turn = np.eye(3)
    for axis, degrees in enumerate(rng.uniform(-8, 8, size=3)):
        turn = turn @ axis_rotation(axis, degrees)
    shift_mm = rng.uniform(-4, 4, size=3)
    semi_axes = _SEMI_AXES_MM * rng.uniform(0.93, 1.07, size=3)
    matrix = turn / semi_axes[:, None]
    head_centre = np.array(next(iter(_HEAD)).centre) - matrix @ shift_mm
    points = np.tensordot(matrix.astype(np.float32), world, axes=1)
    points += head_centre.astype(np.float32).reshape(3, 1, 1, 1)
    phases = rng.uniform(0, 2 * math.pi, size=3)
    waves = [0.03 * np.sin(3 * points[(axis + 1) % 3] + phases[axis]) for axis in range(3)]
    return points + np.stack(waves).astype(np.float32)


def _scanned(
    tissue: NDArray[np.float32], world: Points, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Simulated scan of the brightness: partial volumes, a smooth bias field, noise and an arbitrary unit."""
    unit = 10 ** rng.uniform(1.7, 3.3)
    x, y, z = world / 100
    a, b, c, d, e = rng.uniform(-0.2, 0.2, size=5)
    bias = np.exp(a * x + b * y + c * z + d * x * y + e * z * z)
    noise = rng.normal(0, 0.025, size=(2, *tissue.shape))
    signal = _softened(tissue) * bias + noise[0]
    magnitude: NDArray[np.float64] = np.hypot(signal, noise[1])  # Rician, as in magnitude images
    return (unit * magnitude).astype(np.float32)


def _softened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted mean of each voxel and its neighbours, 1 : 2 : 1 along every axis."""
    for axis in range(values.ndim):
        padded = np.pad(values, [(int(axis == k),) * 2 for k in range(values.ndim)], mode="edge")
        size = values.shape[axis]
        before, after = (padded.take(range(start, start + size), axis=axis) for start in (0, 2))
        values = np.float32(0.25) * (before + 2 * values + after)
    return values
