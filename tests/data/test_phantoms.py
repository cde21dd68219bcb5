"""Phantoms: known volumes on every grid, and every structure in every brain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from monaiseg.data.grid import Grid
from monaiseg.data.label_files import load_label_table
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import (
    make_brain,
    make_phantom,
    nested_volume_ml,
    phantom_grid,
    small_table,
    write_phantom_dataset,
)
from monaiseg.data.volumes import read_label_map, read_volume


def volume_ml(label_map: np.ndarray, value: int, grid: Grid) -> float:
    return int((label_map == value).sum()) * grid.voxel_volume_mm3 / 1000


def centre_mm(label_map: np.ndarray, value: int, grid: Grid) -> np.ndarray:
    voxel = np.argwhere(label_map == value).mean(axis=0)
    return grid.array[:3, :3] @ voxel + grid.array[:3, 3]


def pair_table(parts: Sequence[str]) -> LabelTable:
    """Values 21, 22, 23 ...: left odd, right even, and two on the midline, as LPBA40 numbers them."""
    sided = (f"{side} {part}" for part in parts for side in ("left", "right"))
    names = dict(enumerate(sided, start=21))
    return LabelTable.from_values(
        [*names, 181, 182], {**names, 181: "cerebellum", 182: "brainstem"}
    )


@given(
    spacing=strategies.spacings(0.8, 1.25),
    orientation=strategies.orientations(),
    values=st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 100),
)
def test_a_nested_phantom_has_the_volumes_it_says_on_any_grid(spacing, orientation, values, seed):
    _, label_map, grid = make_phantom((24, 22, 26), spacing, orientation, values, seed)

    assert grid.orientation == orientation
    assert grid.spacing == pytest.approx(spacing)
    assert set(np.unique(label_map)) == {0, *values}
    for value in values:
        assert volume_ml(label_map, value, grid) == pytest.approx(
            nested_volume_ml((24, 22, 26), spacing, values), rel=0.06
        )


def test_the_labels_of_a_nested_phantom_grow_brighter_towards_the_middle():
    image, label_map, _ = make_phantom(label_values=(7, 3, 5))
    means = [image[label_map == value].mean() for value in (0, 7, 3, 5)]
    assert all(outer + 20 < inner for outer, inner in pairwise(means))


@pytest.mark.parametrize(
    "table",
    [load_label_table("lpba40"), pair_table([f"part {i}" for i in range(27)])],
    ids=["LPBA40", "unknown"],
)
def test_every_one_of_56_structures_is_in_every_brain(table):
    assert table.num_classes == 57
    for seed in range(8):
        found, voxels = np.unique(make_brain(table, seed=seed).label_map, return_counts=True)
        assert tuple(found) == table.values
        assert voxels.min() >= 30


@given(table=strategies.label_tables())
def test_a_brain_holds_every_structure_of_any_table(table):
    brain = make_brain(table, (36, 40, 36))
    assert tuple(np.unique(brain.label_map)) == table.values


def test_the_structures_of_lpba40_stand_where_anatomy_has_them():
    brain = make_brain(load_label_table("lpba40"), seed=3)

    def centre(name):
        value = next(
            label.value for label in load_label_table("lpba40").labels if label.name == name
        )
        return centre_mm(brain.label_map, value, brain.grid)

    for part in ("precentral gyrus", "superior occipital gyrus", "hippocampus"):
        assert centre(f"left {part}")[0] < -8
        assert centre(f"right {part}")[0] > 8
    front_to_back = ("left precentral gyrus", "left hippocampus", "left superior occipital gyrus")
    top_to_bottom = ("left precentral gyrus", "left hippocampus", "cerebellum")
    assert all(centre(a)[1] > centre(b)[1] for a, b in pairwise(front_to_back))
    assert all(centre(a)[2] > centre(b)[2] for a, b in pairwise(top_to_bottom))


def test_partners_look_alike_so_that_only_their_place_tells_them_apart():
    table = pair_table(["a", "b", "c", "d"])
    brains = [make_brain(table, seed=seed) for seed in range(6)]
    for left in range(21, 29, 2):
        means = np.array(
            [
                [brain.image[brain.label_map == value].mean() for value in (left, left + 1)]
                for brain in brains
            ]
        )
        sides = np.log(means[:, 0] / means[:, 1])  # the bias field favours either
        assert abs(sides.mean()) < 0.12


def test_right_is_right_even_where_a_table_counts_it_first():
    brain = make_brain(LabelTable.from_values([1, 2], {1: "right caudate", 2: "left caudate"}))
    assert (
        centre_mm(brain.label_map, 1, brain.grid)[0] > centre_mm(brain.label_map, 2, brain.grid)[0]
    )


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ILA"])
def test_a_brain_is_the_same_on_every_grid(orientation):
    table = small_table()
    fine = make_brain(table, (96, 108, 96), (1.9, 1.9, 1.9), seed=5)
    directions = np.abs(phantom_grid((1, 1, 1), orientation=orientation).array[:3, :3])
    x, y, z = (int(n) for n in directions.T @ (64, 72, 64))
    coarse = make_brain(table, (x, y, z), (2.9, 2.8, 3.0), orientation, seed=5)

    for label in table.foreground:
        volume = volume_ml(fine.label_map, label.value, fine.grid)
        assert volume_ml(coarse.label_map, label.value, coarse.grid) == pytest.approx(
            volume, rel=0.1
        )
        middle = centre_mm(fine.label_map, label.value, fine.grid)
        assert np.abs(centre_mm(coarse.label_map, label.value, coarse.grid) - middle).max() < 2


def test_a_dataset_holds_pairs_on_differing_grids_and_is_the_same_for_the_same_seed(tmp_path):
    for folder in ("once", "again"):
        write_phantom_dataset(tmp_path / folder, 4, shape=(32, 36, 32), seed=7)

    images, labels = (
        sorted(path.name for path in (tmp_path / "once" / kind).iterdir())
        for kind in ("images", "labels")
    )
    assert images == labels == [f"brain_{number:03d}.nii.gz" for number in range(1, 5)]
    headers = []
    for name in images:
        image, header = read_volume(tmp_path / "once/images" / name)
        label_map, label_header = read_label_map(tmp_path / "once/labels" / name)
        headers.append(header)
        assert header.grid.difference(label_header.grid) is None
        assert set(np.unique(label_map)) == set(small_table().values)
        assert image.min() >= 0
    assert len({header.grid.orientation for header in headers}) == 4
    assert len({header.grid.spacing for header in headers}) == 4
    for path in (tmp_path / "once").rglob("*.nii.gz"):
        assert path.read_bytes() == Path(str(path).replace("once", "again")).read_bytes()
