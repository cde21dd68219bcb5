"""There and back: to the network grid, and home to the grid of the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from cached_items import TABLE, blob_on, centroid_mm, dice, settings_of, written
from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.data.volumes import read_label_map
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    inference_chain,
    load_chain,
)
from monaiseg.transforms.inverse import nearest_on_file_grid, to_file_grid
from monaiseg.transforms.items import case_item
from monaiseg.transforms.network_grid import target_shape
from strategies import ORIENTATIONS, grids


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_comes_home_voxel_for_voxel(tmp_path, orientation):
    label = np.random.default_rng(0).integers(0, 3, size=(5, 7, 6)).astype(np.uint8)
    grid = phantom_grid(label.shape, (1.0, 1.2, 2.0), orientation)
    case = written(tmp_path, label.astype(np.float32), label, grid)
    chain = inference_chain(settings_of())
    item = chain(case_item(case))
    labelled = CaseChain(load_chain(settings_of(), TABLE))(case_item(case))

    assert Grid.of(item["image"].shape[1:], item["image"].affine).orientation == "RAS"
    home = to_file_grid(labelled["label"].as_tensor()[0], item, chain)
    assert np.array_equal(home, label)


@rules(max_examples=25)
@given(grid=grids(least=3, most=14))
def test_the_network_grid_lies_where_the_file_does(tmp_path, grid):
    label = np.random.default_rng(0).integers(0, 2, size=grid.shape).astype(np.uint8)
    label[0, 0, 0] = 1
    image = label.astype(np.float32)
    item = CaseChain(load_chain(settings_of(), TABLE))(
        case_item(written(tmp_path, image, label, grid))
    )

    there = centroid_mm(item["label"][0].numpy(), item["label"].affine.numpy())
    assert np.allclose(there, centroid_mm(label, grid.array), atol=1e-3)
    assert tuple(item["image"].shape[1:]) == target_shape(grid, settings_of())


@rules(max_examples=20)
@given(
    grid=grids(least=6, most=20),
    resize=st.one_of(st.none(), st.tuples(*[st.sampled_from([16, 20, 32])] * 3)),
    spacing=st.one_of(st.none(), st.tuples(*[st.sampled_from([0.8, 1.0, 2.5])] * 3)),
)
def test_whatever_the_chain_does_a_class_map_comes_home_to_the_files_shape(
    tmp_path, grid, resize, spacing
):
    chosen = settings_of(
        img_after_resize=[-1] * 3 if resize is None else list(resize),
        spacing=None if spacing is None else list(spacing),
    )
    chain = inference_chain(chosen)
    item = chain(case_item(written(tmp_path, blob_on(grid)[0], grid=grid)))
    class_map = torch.ones(item["image"].shape[1:], dtype=torch.int16)

    home = to_file_grid(class_map, item, chain)

    assert home.shape == grid.shape
    assert home.dtype == np.int16
    assert (home == 1).all()
    assert tuple(class_map.shape) == target_shape(grid, chosen)


RESAMPLING = [
    {"img_after_resize": [48, 48, 48]},  # finer
    {"img_after_resize": [16, 32, 16]},  # coarser
    {"spacing": [0.7, 1.3, 1.0]},
    {"spacing": [1.0, 1.0, 1.0], "img_after_resize": [32, 32, 48]},
]


def coordinates(shape, affine, other_affine):
    """Where the voxels of one volume lie in the voxel coordinates of another, (X, Y, Z, 3)."""
    across = np.linalg.inv(np.asarray(other_affine)) @ np.asarray(affine)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ across[:3, :3].T + across[:3, 3]


def inside(places, shape, margin=0):
    return ((places >= margin) & (places <= np.array(shape) - 1 - margin)).all(axis=-1)


@pytest.mark.parametrize("how", RESAMPLING)
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SRP"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resampling_moves_nothing(tmp_path, how, orientation, axis):
    # Every voxel holds its own place along an axis: wherever it goes, it must still be that place.
    grid = phantom_grid((31, 34, 29), (1.0, 1.1, 0.9), orientation)
    ramp = np.broadcast_to(np.arange(grid.shape[axis]).reshape(np.roll([-1, 1, 1], axis)), grid.shape)  # fmt: skip
    case = written(tmp_path, ramp.astype(np.float32), ramp.astype(np.uint8), grid)
    chosen = settings_of(intensity={"method": "none"}, **how)
    chain = inference_chain(chosen)
    item = chain(case_item(case))
    there = CaseChain(load_chain(chosen, LabelTable.from_values(range(40))))(case_item(case))

    places = coordinates(item["image"].shape[1:], item["image"].affine, grid.array)
    image_error = (item["image"][0].numpy() - places[..., axis])[inside(places, grid.shape, 4)]
    label_error = (there["label"][0].numpy() - places[..., axis])[inside(places, grid.shape)]
    assert np.abs(image_error).max() < 0.01
    steps = len(how)
    assert np.abs(label_error).max() <= 0.51 * steps**2
    assert abs(label_error.mean()) < 0.05 * steps

    size = there["label"].shape[1:]
    class_map = np.broadcast_to(np.arange(size[axis]).reshape(np.roll([-1, 1, 1], axis)), size)
    home = to_file_grid(torch.tensor(class_map), item, chain)
    places = coordinates(grid.shape, grid.array, item["image"].affine)
    home_error = (home - places[..., axis])[inside(places, size)]
    assert np.abs(home_error).max() <= 0.51 * steps**2
    assert abs(home_error.mean()) < 0.05 * steps


def test_image_and_label_map_are_resampled_alike(tmp_path):
    grid = phantom_grid((30, 30, 30), (1.0, 1.0, 2.0))
    label = blob_on(grid)[1]
    case = written(tmp_path, label.astype(np.float32), label, grid)
    chosen = settings_of(spacing=[1.5, 1.0, 1.2], intensity={"method": "none"})

    item = CaseChain(load_chain(chosen, TABLE))(case_item(case))

    assert dice(item["image"].numpy() > 0.5, item["label"].numpy() == 1) > 0.97


def test_a_real_scan_goes_there_and_back(hippocampus):
    image = min((hippocampus / "images").glob("*.nii.gz"))
    label = hippocampus / "labels" / image.name
    case = Case("real", (image,), label)
    chosen = settings_of((40, 56, 40))
    chain = inference_chain(chosen)
    item = chain(case_item(case))
    labelled = CaseChain(load_chain(chosen, TABLE))(case_item(case))["label"].as_tensor()[0]
    home = to_file_grid(labelled, item, chain)
    assert np.array_equal(TABLE.label_values(home), read_label_map(label)[0])


def test_borders_come_home_smoother_than_by_nearest_neighbour(tmp_path):
    """A ball labelled on voxels of 2 mm, on a scan with voxels of 1 mm: distance of its border from the true sphere."""
    grid = phantom_grid((40, 44, 36), (1.0, 1.0, 1.0), "PIR")
    image, _ = blob_on(grid)
    chain = inference_chain(settings_of(spacing=[2.0, 2.0, 2.0]))
    item = chain(case_item(written(tmp_path, image, grid=grid)))
    radius, centre = 11.0, np.array([0.3, -0.2, 0.1])

    def distance(shape, affine):
        return np.linalg.norm(coordinates(shape, affine, np.eye(4)) - centre, axis=-1)

    there = distance(item["image"].shape[1:], item["image"].affine.numpy()) <= radius
    class_map = torch.from_numpy(there.astype(np.uint8))
    of_file = distance(grid.shape, grid.array)

    def error(home):
        inside = np.abs(of_file - radius) < 3
        wrong = (home == 1) != (of_file <= radius)
        return np.abs(of_file - radius)[wrong & inside].sum()

    smooth = to_file_grid(class_map, item, chain)
    blocky = nearest_on_file_grid(class_map, item, chain)
    assert error(smooth) < 0.7 * error(blocky)
    assert abs(smooth.sum() - 4 / 3 * np.pi * radius**3) < 0.04 * smooth.sum()


def test_a_sheared_scan_comes_home_too(tmp_path):
    sheared = phantom_grid((20, 22, 24)).array
    sheared[0, 1] = 0.1
    grid = Grid.of((20, 22, 24), sheared)
    chain = inference_chain(settings_of(spacing=[1.5, 1.0, 1.2]))
    item = chain(case_item(written(tmp_path, blob_on(grid)[0], grid=grid)))

    home = to_file_grid(torch.ones(item["image"].shape[1:], dtype=torch.uint8), item, chain)
    assert home.shape == grid.shape
    assert home.all()
