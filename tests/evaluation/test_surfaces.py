"""Surface distances against closed forms, a brute force, google-deepmind's surface-distance, and MONAI."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage
from scipy.spatial.distance import cdist

from monaiseg.evaluation.surfaces import (
    element_areas,
    hausdorff_mm,
    mean_surface_distance_mm,
    neighbour_codes,
    surface_dice,
    surface_distances,
)
from strategies import spacings

SPACING = (1.0, 1.5, 2.5)
SHAPE = (10, 11, 9)


def box(start, stop, shape=(12, 12, 12)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(itertools.starmap(slice, zip(start, stop, strict=True)))] = True
    return mask


def ball(radius_mm, spacing, shape, centre_mm):
    axes = [
        (np.arange(n) + 0.5) * mm - c for n, mm, c in zip(shape, spacing, centre_mm, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius_mm**2


def blobs(seed, shape=SHAPE):
    """Two masks that overlap in part, with islands and cavities."""
    noise = np.random.default_rng(seed).random((3, *shape))
    a, b, both = (ndimage.uniform_filter(n, 3) for n in noise)
    first, second = both + a > 1.0, both + b > 1.0
    first[4, 4, 4] = second[5, 5, 5] = True
    return first, second


def monais(mask):
    return torch.from_numpy(mask)[None, None]


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", [1, 2, 4])
def test_a_box_that_is_shifted_by_d_voxels_lies_d_times_the_spacing_away(axis, voxels):
    reference = box((2, 2, 2), (7, 7, 7))
    distances = surface_distances(reference, np.roll(reference, voxels, axis), SPACING)

    shift = voxels * SPACING[axis]
    assert hausdorff_mm(distances) == pytest.approx(shift)
    assert surface_dice(distances, shift) == 1.0
    assert 0 < surface_dice(distances, shift - 0.01) < 1
    assert 0 < mean_surface_distance_mm(distances) < shift


def test_a_plate_that_grows_on_one_side_has_the_distances_of_a_drawing():
    """x: reference 2..5, prediction 2..7, across the whole 40 x 40 plate; its rim is a small share of the area.

    Reference faces lie at x = 2 and x = 6, prediction faces at x = 2 and x = 8: half of either area is 0 and the
    other half 2 voxels away.
    """
    reference = box((2, 0, 0), (6, 60, 60), (10, 60, 60))
    prediction = box((2, 0, 0), (8, 60, 60), (10, 60, 60))
    distances = surface_distances(reference, prediction, (0.5, 1.0, 1.0))

    assert hausdorff_mm(distances) == hausdorff_mm(distances, 95) == 1.0
    assert hausdorff_mm(distances, 40) == 0.0
    assert surface_dice(distances, 0.0) == pytest.approx(0.5, abs=0.04)
    assert mean_surface_distance_mm(distances) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 1.0), (2.0, 0.9, 0.9)])
@pytest.mark.parametrize(("smaller_mm", "larger_mm"), [(8, 9.5), (6, 13), (4, 14)])
def test_concentric_spheres_lie_the_difference_of_their_radii_apart(spacing, smaller_mm, larger_mm):
    """An element has voxel centres on both sides of the sphere within half a voxel's diagonal, so it lies that near."""
    shape = [math.ceil(30 / mm) for mm in spacing]
    small, large = (ball(r, spacing, shape, (15, 15, 15)) for r in (smaller_mm, larger_mm))
    distances = surface_distances(small, large, spacing)

    diagonal = math.hypot(*spacing)
    for distance in (
        hausdorff_mm(distances),
        hausdorff_mm(distances, 95),
        mean_surface_distance_mm(distances),
    ):
        assert distance == pytest.approx(larger_mm - smaller_mm, abs=diagonal)
    assert surface_dice(distances, larger_mm - smaller_mm + diagonal) == 1.0
    assert surface_dice(distances, larger_mm - smaller_mm - diagonal - 0.01) == 0.0
    area = 4 * math.pi * larger_mm**2
    assert area < distances.prediction_mm2.sum() < 1.2 * area  # its steps make it rougher


@pytest.mark.parametrize(
    ("code", "area"),
    [
        (0b00000000, 0),
        (0b11111111, 0),
        (0b10000000, math.sqrt(3) / 8),  # a corner: an equilateral triangle of side sqrt(1/2)
        (0b01111111, math.sqrt(3) / 8),
        (0b11000000, math.sqrt(2) / 2),  # an edge: a rectangle 1 x sqrt(1/2)
        (0b11110000, 1.0),  # a face: a square
        (0b10000001, math.sqrt(3) / 4),  # two far corners
        (0b10010110, math.sqrt(3) / 2),  # four corners, no two of them neighbours
        (0b11101000, 3 * math.sqrt(3) / 4),  # a corner and its neighbours: a regular hexagon
    ],
)  # fmt: skip
def test_elements_have_the_areas_of_marching_cubes(code, area):
    assert element_areas((1.0, 1.0, 1.0))[code] == pytest.approx(area)


def test_areas_are_the_same_from_every_side_and_inside_out():
    corners = list(itertools.product((0, 1), repeat=3))
    codes = np.arange(256)
    belongs = (codes[:, None] >> np.arange(8)) & 1  # (256, corners)
    areas = element_areas((1.0, 1.0, 1.0))

    assert np.allclose(areas, areas[255 - codes])
    for axes, flips in itertools.product(
        itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)
    ):
        moved = [
            corners.index(tuple(c[a] ^ f for a, f in zip(axes, flips, strict=True)))
            for c in corners
        ]
        turned = (belongs[:, moved] << np.arange(8)).sum(axis=1)
        assert np.allclose(areas, areas[turned])


# ---------------------------------------------------------------- brute force and properties


def elements(mask, spacing):
    """Points and areas of surface elements, one corner of the voxels at a time."""
    padded, areas = np.pad(mask, 1), element_areas(spacing)
    found = []
    for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
        around = [padded[tuple(np.add(corner, o))] for o in itertools.product((0, 1), repeat=3)]
        if 0 < sum(around) < 8:
            code = int("".join(str(int(b)) for b in around)[::-1], 2)
            found.append((*np.multiply(corner, spacing), areas[code]))
    return np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_a_brute_force(seed):
    first, second = blobs(seed, (6, 7, 6))
    a, b = elements(first, SPACING), elements(second, SPACING)
    table = cdist(a[:, :3], b[:, :3])
    from_a, from_b = table.min(axis=1), table.min(axis=0)
    distances = surface_distances(first, second, SPACING)

    weights = np.concatenate([a[:, 3], b[:, 3]])
    both = np.concatenate([from_a, from_b])
    assert hausdorff_mm(distances) == pytest.approx(both.max())
    assert mean_surface_distance_mm(distances) == pytest.approx(np.average(both, weights=weights))
    assert surface_dice(distances, 1.6) == pytest.approx(np.average(both <= 1.6, weights=weights))
    assert distances.reference_mm2.sum() == pytest.approx(a[:, 3].sum())


@given(seed=st.integers(0, 10_000), spacing=spacings(), scale=st.floats(0.1, 10))
def test_distances_are_symmetric_and_scale_with_the_spacing(seed, spacing, scale):
    first, second = blobs(seed)
    there = surface_distances(first, second, spacing)
    back = surface_distances(second, first, spacing)
    scaled = surface_distances(first, second, tuple(mm * scale for mm in spacing))

    for measure in (hausdorff_mm, mean_surface_distance_mm, lambda d: hausdorff_mm(d, 95)):
        assert measure(there) == pytest.approx(measure(back))
        assert measure(scaled) == pytest.approx(scale * measure(there))
    assert surface_dice(there, 1.01) == pytest.approx(surface_dice(back, 1.01))
    assert mean_surface_distance_mm(there) <= hausdorff_mm(there)
    assert hausdorff_mm(there, 95) <= hausdorff_mm(there)


@given(seed=st.integers(0, 10_000), axis=st.integers(0, 2))
def test_distances_do_not_depend_on_the_direction_of_an_axis(seed, axis):
    first, second = blobs(seed)
    here = surface_distances(first, second, SPACING)
    flipped = surface_distances(np.flip(first, axis), np.flip(second, axis), SPACING)

    assert hausdorff_mm(flipped) == pytest.approx(hausdorff_mm(here))
    assert mean_surface_distance_mm(flipped) == pytest.approx(mean_surface_distance_mm(here))


@given(seed=st.integers(0, 10_000), spacing=spacings())
def test_a_mask_has_no_distance_from_itself(seed, spacing):
    mask, _ = blobs(seed)
    distances = surface_distances(mask, mask, spacing)

    assert hausdorff_mm(distances) == mean_surface_distance_mm(distances) == 0.0
    assert surface_dice(distances, 0.0) == 1.0


def test_a_structure_that_the_edge_of_the_volume_cuts_has_a_surface_there():
    assert (neighbour_codes(np.ones((1, 1, 1), dtype=bool)) > 0).sum() == 8


# ---------------------------------------------------------------- google-deepmind's surface-distance

RECORDED = {
    # seed: HD, HD95, mean distance from the reference and from the prediction, surface Dice at 1 mm and at 2 mm
    0: (3.35410197, 1.80277564, 0.34508448, 0.15291283, 0.92506092, 0.99180773),
    1: (3.00000000, 1.50000000, 0.29890217, 0.30211560, 0.90969196, 0.98801492),
    2: (3.08220700, 1.50000000, 0.24358588, 0.21573680, 0.94463286, 0.99573256),
    3: (3.00000000, 1.50000000, 0.28346737, 0.34944227, 0.90128183, 0.98732265),
}


@pytest.mark.parametrize("seed", RECORDED)
def test_numbers_are_those_that_surface_distance_gave(seed):
    """Recorded from surface-distance 0.1, which is not a dependency."""
    distances = surface_distances(*blobs(seed), SPACING)
    numbers = [
        hausdorff_mm(distances),
        hausdorff_mm(distances, 95),
        np.average(distances.from_reference_mm, weights=distances.reference_mm2),
        np.average(distances.from_prediction_mm, weights=distances.prediction_mm2),
        surface_dice(distances, 1.0),
        surface_dice(distances, 2.0),
    ]

    assert numbers == pytest.approx(RECORDED[seed], abs=1e-6)


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), spacing=spacings())
def test_numbers_are_surface_distances_where_it_is_installed(seed, spacing):
    theirs = pytest.importorskip("surface_distance")
    first, second = blobs(seed)
    distances = surface_distances(first, second, spacing)
    expected = theirs.compute_surface_distances(first, second, spacing)

    for percent in (100, 95):
        assert hausdorff_mm(distances, percent) == pytest.approx(
            theirs.compute_robust_hausdorff(expected, percent), abs=1e-6
        )
    for tolerance in (0.0, 1.003, 2.007):
        assert surface_dice(distances, tolerance) == pytest.approx(
            theirs.compute_surface_dice_at_tolerance(expected, tolerance), abs=1e-6
        )
    means = theirs.compute_average_surface_distance(expected)
    areas = distances.reference_mm2.sum(), distances.prediction_mm2.sum()
    assert mean_surface_distance_mm(distances) == pytest.approx(
        np.average(means, weights=areas), abs=1e-6
    )


def test_areas_are_surface_distances_where_it_is_installed():
    tables = pytest.importorskip("surface_distance.lookup_tables")
    reverse = [int(f"{code:08b}"[::-1], 2) for code in range(256)]  # its first corner has bit 7
    theirs = np.array(tables.create_table_neighbour_code_to_surface_area(SPACING))

    assert np.allclose(element_areas(SPACING)[reverse], theirs, atol=1e-9)


# ---------------------------------------------------------------- MONAI


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 2, 0), (0, 0, 3)])
def test_shifted_boxes_have_monais_hausdorff_distance(shift):
    first = box((2, 2, 2), (8, 7, 8))
    second = np.roll(first, shift, (0, 1, 2))
    distances = surface_distances(first, second, SPACING)

    expected = compute_hausdorff_distance(monais(second), monais(first), True, spacing=SPACING)
    assert hausdorff_mm(distances) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_other_distances_differ_from_monais_by_less_than_a_voxels_diagonal(seed):
    """MONAI measures between the centres of voxels at the edge, we between their corners: half a diagonal each."""
    first, second = blobs(seed)
    pair = monais(second), monais(first)
    distances = surface_distances(first, second, SPACING)

    diagonal = math.hypot(*SPACING)
    hausdorff = compute_hausdorff_distance(*pair, True, spacing=SPACING)
    mean = compute_average_surface_distance(*pair, True, symmetric=True, spacing=SPACING)
    assert hausdorff_mm(distances) == pytest.approx(hausdorff.item(), abs=diagonal)
    assert mean_surface_distance_mm(distances) == pytest.approx(mean.item(), abs=diagonal)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.0, 1.2, 2.6])
def test_surface_dice_is_monais_with_subvoxels(seed, tolerance):
    """Without them MONAI counts voxels at the edge, all alike: 1 for a structure that is a voxel too thick, at 1 mm."""
    first, second = blobs(seed)
    expected = compute_surface_dice(
        monais(second), monais(first), [tolerance], True, spacing=SPACING, use_subvoxels=True
    )

    distances = surface_distances(first, second, SPACING)
    assert surface_dice(distances, tolerance) == pytest.approx(expected.item(), abs=1e-6)


def test_a_missed_structure_has_no_number_in_monai_so_that_a_mean_would_leave_it_out():
    """Why `structures` gives it the diagonal of the grid instead."""
    reference, empty = box((2, 2, 2), (8, 7, 8)), np.zeros((12, 12, 12), dtype=bool)
    pair = monais(empty), monais(reference)

    assert not np.isfinite(compute_hausdorff_distance(*pair, True, spacing=SPACING).item())
    assert not np.isfinite(compute_average_surface_distance(*pair, True, spacing=SPACING).item())
