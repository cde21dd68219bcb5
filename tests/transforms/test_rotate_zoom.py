"""Rotation and zoom: a patch shows the volume, also in its corners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cached_items import (
    FLOOR,
    QUIET,
    TABLE,
    blob_on,
    cached,
    dice,
    patch_of,
    patches,
    position_image,
    settings_of,
)
from monaiseg.data.phantoms import phantom_grid
from monaiseg.settings.augmentation import RotationSettings, ScalingSettings
from monaiseg.transforms.chains import (
    crop_transforms,
)
from monaiseg.transforms.crop import SplitCentresd
from monaiseg.transforms.rigid import turn_matrix
from monaiseg.transforms.rotate_zoom import RandRotateZoomd, turned_patch

L_SHAPE = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]])


def test_a_quarter_turn_about_z_takes_right_to_front():
    # x runs down the page, y to the right:   1 . .      turned:   1 1 1
    #                                         1 . .                1 . .
    #                                         1 1 .                . . .
    volume = np.zeros((3, 3, 3), np.float32)
    volume[:, :, 1] = L_SHAPE
    item = cached(volume, volume)
    turn = turn_matrix((0, 0, 90), 1.0, (1.0, 1.0, 1.0))

    shape, centre = np.array([3, 3, 3]), np.array([1.0, 1.0, 1.0])
    image, label = turned_patch(item["image"], item["label"], centre, shape, turn, item["floor"])

    expected = np.rot90(L_SHAPE, axes=(0, 1))
    assert np.allclose(image[0, :, :, 1], expected, atol=1e-5)
    assert np.array_equal(label[0, :, :, 1], expected)


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
def test_quarter_turns_about_each_axis(axis, plane):
    volume = np.random.default_rng(0).integers(0, 5, size=(7, 7, 7))
    item = cached(volume, volume)
    degrees = np.zeros(3)
    degrees[axis] = 90

    turn = turn_matrix(degrees, 1.0, (1.0, 1.0, 1.0))
    shape, centre = np.array([5, 5, 5]), np.array([3.0, 3.0, 3.0])
    image, label = turned_patch(item["image"], item["label"], centre, shape, turn, item["floor"])

    expected = np.rot90(volume, axes=plane)[1:6, 1:6, 1:6]
    assert np.array_equal(label[0], expected)
    assert np.allclose(image[0], expected, atol=1e-4)


def test_a_factor_above_1_grows_structures():
    label = blob_on(phantom_grid((40, 40, 40)), share=0.15)[1]
    item = cached(label, label)
    shape, centre = np.array([32, 32, 32]), np.array([19.5, 19.5, 19.5])
    turn = turn_matrix((0, 0, 0), 1.5, (1.0, 1.0, 1.0))

    _, grown = turned_patch(item["image"], item["label"], centre, shape, turn, item["floor"])

    assert grown.sum() / label.sum() == pytest.approx(1.5**3, rel=0.05)


def test_turning_does_not_shear_flat_voxels():
    spacing = (1.0, 1.0, 3.0)
    label = blob_on(phantom_grid((40, 40, 16), spacing))[1]
    item = cached(label, label, spacing)
    shape, centre = np.array([40, 40, 16]), np.array([19.5, 19.5, 7.5])
    turn = turn_matrix((45, 20, -30), 1.0, spacing)

    _, turned = turned_patch(item["image"], item["label"], centre, shape, turn, item["floor"])

    assert dice(turned[0].numpy(), label) > 0.93  # a ball in mm stays one; sheared, 0.5


@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    factor=st.floats(0.7, 1.5),
    centre=st.tuples(*[st.integers(15, 24)] * 3),
)
def test_a_turned_patch_shows_the_volumes_own_neighbours_up_to_its_corners(degrees, factor, centre):
    volume = position_image((40, 40, 40))
    item = cached(volume)
    turn = turn_matrix(degrees, factor, (1.0, 1.0, 1.0))
    shape = np.array([12, 8, 10])

    image, _ = turned_patch(
        item["image"], item["label"], np.array(centre), shape, turn, item["floor"]
    )

    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    source = np.einsum("ab,bxyz->axyz", turn, offsets) + np.reshape(centre, (3, 1, 1, 1))
    expected = np.einsum("a,axyz->xyz", [1, 100, 10_000], source)
    assert np.allclose(image[0], expected, rtol=1e-3, atol=0.5)


def test_beyond_the_volume_lies_the_floor_and_background():
    item = cached(np.full((16, 16, 16), 5.0), np.ones((16, 16, 16)))
    turn = turn_matrix((0, 0, 45), 1.0, (1.0, 1.0, 1.0))
    shape, centre = np.array([16, 16, 16]), np.array([7.5, 7.5, 7.5])

    image, label = turned_patch(item["image"], item["label"], centre, shape, turn, item["floor"])

    assert image[0, 0, 0].unique().tolist() == [FLOOR]
    assert label[0, 0, 0].unique().tolist() == [0]
    assert image[0, 8, 8].numpy() == pytest.approx(5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.8, 3.0)])
@pytest.mark.parametrize("method", ["pos_neg", "uniform"])
@pytest.mark.parametrize("degrees", [0.0, 15.0, 180.0])
def test_a_margin_holds_all_that_a_turned_patch_shows(spacing, method, degrees):
    """Cut out of its margin a patch is what it is cut out of the whole volume."""
    volume = position_image((64, 60, 56))
    item = cached(volume, np.random.default_rng(0).integers(0, 2, volume.shape), spacing, 2)
    still = {name: {"probability": 0.0} for name in QUIET}
    change = still | {
        "rotation": {"probability": 1.0, "degrees": degrees},
        "scaling": {"probability": 1.0, "factor": [0.8, 1.3]},
    }
    seg = {"augmentation": change, "sampling": {"method": method}}
    crop, turn = crop_transforms(settings_of((12, 8, 10), seg), TABLE)[-2:]
    split = SplitCentresd(by_class=True)(item)

    for seed in range(8):
        first = patch_of(crop.set_random_state(seed), split)
        corner = int(first["image"][0, 0, 0, 0])
        start = first["patch_start"] + [corner % 100, corner // 100 % 100, corner // 10_000]
        patch = turn.set_random_state(seed)(first)
        expected = turn.set_random_state(seed)({**item, "patch_start": start})
        assert torch.allclose(patch["image"], expected["image"], rtol=1e-5, atol=0.5)
        assert torch.equal(patch["label"], expected["label"])


def test_rotation_and_zoom_take_the_middle_of_a_crop_that_says_nothing_of_its_patch():
    volume = position_image((20, 22, 24))
    still = RotationSettings(probability=0.0), ScalingSettings(probability=0.0)
    patch = RandRotateZoomd((16, 16, 16), *still)(cached(volume))
    assert np.array_equal(patch["image"][0], volume[2:18, 3:19, 4:20])


def test_image_and_label_map_turn_together():
    label = blob_on(phantom_grid((32, 32, 32)), shift_mm=(3.0, -4.0, 5.0))[1]
    item = cached(label, label)
    changes: dict[str, Any] = {name: {"probability": 0.0} for name in QUIET}
    changes |= {"rotation": {"probability": 1.0}, "scaling": {"probability": 1.0}}
    seg = {"augmentation": changes, "sampling": {"method": "uniform"}}

    for patch in patches(item, settings_of((32, 32, 32), seg), 5):
        assert dice(patch["image"].numpy() > 0.5, patch["label"].numpy() == 1) > 0.95


def test_several_channels_are_cut_and_turned_together():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 24, 24)), rng.integers(0, 4, size=(24, 24, 24)), num_groups=2)  # fmt: skip
    item["image"] = torch.cat([item["image"], item["image"] + 10])
    item["floor"] = torch.tensor([FLOOR, FLOOR + 10])
    turning = {"augmentation": {name: {"probability": 0.0} for name in QUIET}}
    turning["augmentation"] |= {"rotation": {"probability": 1.0, "degrees": 180.0}}

    for patch in patches(item, settings_of((24, 24, 24), turning), 5):
        first, second = patch["image"]
        assert torch.allclose(first + 10, second, atol=1e-4)


def test_a_turn_of_zero_degrees_is_the_cut_itself():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 20, 22)), rng.integers(0, 4, size=(24, 20, 22)))
    shape, centre = np.array([16, 16, 16]), np.array([9.5, 8.5, 11.5])

    image, label = turned_patch(
        item["image"], item["label"], centre, shape, np.eye(3), item["floor"]
    )

    assert torch.equal(label, item["label"][:, 2:18, 1:17, 4:20])
    assert torch.allclose(image, item["image"][:, 2:18, 1:17, 4:20], atol=1e-4)
