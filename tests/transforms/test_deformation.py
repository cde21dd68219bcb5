"""Rigid motion, B-spline deformation and bilateral filter: the same meaning and units as ITK's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.transforms.bilateral import bilateral
from monaiseg.transforms.chains import extra_transforms
from monaiseg.transforms.deformation import RandDeformd, spline_field
from monaiseg.transforms.interpolation import cubic, linear, nearest
from monaiseg.transforms.rigid import rigid_warp

SHAPE = (9, 8, 11)


def changing(**augmentation: Any) -> Settings:
    return settings_from_dict({"dataset": {"seg": {"augmentation": augmentation}}})


def item(shape: tuple[int, int, int] = SHAPE, channels: int = 1) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(channels, *shape, generator=random),
        "label": torch.randint(0, 57, (1, *shape), generator=random, dtype=torch.uint8),
        "affine": torch.eye(4, dtype=torch.float64),
        "case_id": "S01",
    }


def changed(settings: Settings, data: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    for transform in extra_transforms(settings):
        transform.set_random_state(seed)
        data = transform(data)
    return data


def still(shape: tuple[int, ...]) -> torch.Tensor:
    """The warp that moves nothing."""
    return rigid_warp(shape, np.zeros(3), np.zeros(3), (1, 1, 1))


EVERYTHING: dict[str, Any] = {
    "rigid": {"probability": 1.0, "rotation": [20, 20, 20]},
    "deformation": {"probability": 1.0, "displacement": 4.0},
    "bilateral": {"probability": 1.0, "domain_sigma": 0.5, "range_sigma": 0.5},
}


def test_nothing_is_added_unless_asked_for():
    assert extra_transforms(Settings()) == []
    assert extra_transforms(changing(enabled=False, **EVERYTHING)) == []


def test_what_is_asked_for_is_added_geometry_first():
    names = [type(transform).__name__ for transform in extra_transforms(changing(**EVERYTHING))]
    assert names == ["RandRigidd", "RandDeformd", "RandBilaterald"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_seed_repeats_a_change_and_another_one_does_not(name):
    settings = changing(**{name: EVERYTHING[name]})
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - global state, which must not matter
    first = changed(settings, item(), seed=5)
    again = changed(settings, item(), seed=5)
    other = changed(settings, item(), seed=6)

    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert name == "bilateral" or not torch.equal(first["image"], other["image"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_probability_is_the_share_of_changed_patches(name):
    (transform,) = extra_transforms(changing(**{name: {**EVERYTHING[name], "probability": 0.25}}))
    transform.set_random_state(0)
    data = item((4, 4, 4))
    num_changed = sum(not torch.equal(transform(data)["image"], data["image"]) for _ in range(400))
    assert 70 <= num_changed <= 130


@pytest.mark.parametrize("name", EVERYTHING)
def test_types_shapes_and_other_keys_stay(name):
    data = item(channels=2)
    after = changed(changing(**{name: EVERYTHING[name]}), data)

    assert after.keys() == data.keys()
    assert after["case_id"] == "S01"
    for key in ("image", "label"):
        assert (after[key].shape, after[key].dtype) == (data[key].shape, data[key].dtype)
    assert not torch.equal(after["image"], data["image"])
    assert torch.equal(data["image"], item(channels=2)["image"])  # the input is left as it was


@pytest.mark.parametrize(
    ("target", "moved"),
    [("both", {"image", "label"}), ("image", {"image"}), ("label", {"label"})],
)
def test_a_rigid_motion_moves_its_target(target, moved):
    data = item()
    after = changed(changing(rigid={**EVERYTHING["rigid"], "target": target}), data)
    assert {key for key in ("image", "label") if not torch.equal(after[key], data[key])} == moved


def test_image_and_label_move_together():
    label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    label[:, 6:15, 5:13, 8:16] = 1
    data = {**item(), "image": label.float(), "label": label}
    geometry = {name: EVERYTHING[name] for name in ("rigid", "deformation")}
    geometry["rigid"] = {**geometry["rigid"], "translation": [6, 6, 6]}

    after = changed(changing(**geometry), data)

    overlap = ((after["image"] > 0.5) & (after["label"] > 0)).sum()
    dice = 2 * overlap / ((after["image"] > 0.5).sum() + after["label"].sum())
    assert dice > 0.9  # a box: nearest and linear reading differ at its edges
    assert not torch.equal(after["label"], label)


def test_two_standard_deviations_are_the_settings_voxels_and_degrees():
    settings = changing(rigid={"probability": 1.0, "translation": [0, 0, 8], "rotation": [0, 0, 0]})
    (transform,) = extra_transforms(settings)
    transform.set_random_state(0)
    ramp = torch.arange(201.0)[:, None, None].expand(1, 201, 3, 3)  # intensity = x
    middle = [transform({**item(), "image": ramp})["image"][0, 100, 1, 1] for _ in range(300)]
    shifts = 100 - torch.stack(middle)

    assert shifts.std() == pytest.approx(4, rel=0.1)  # zyx: the last entry is along X
    assert (shifts.abs() < 8).float().mean() == pytest.approx(0.95, abs=0.03)


def test_a_shift_is_along_the_axis_by_whole_voxels():
    data = item()
    warp = rigid_warp(SHAPE, np.zeros(3), np.array([2, 0, 0]), (1, 1, 1))

    assert torch.equal(nearest(data["label"], warp)[:, 2:], data["label"][:, :-2])
    assert torch.allclose(linear(data["image"], warp)[:, 2:], data["image"][:, :-2], atol=1e-5)
    assert torch.equal(
        nearest(data["label"], warp)[:, 0], data["label"][:, 0]
    )  # the border goes on


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_a_turn_of_the_array(axis):
    label = item((7, 7, 7))["label"]
    degrees = np.zeros(3)
    degrees[axis] = 90
    first, second = (axis + 1) % 3 + 1, (axis + 2) % 3 + 1

    turned = nearest(label, rigid_warp((7, 7, 7), degrees, np.zeros(3), (1, 1, 1)))

    assert torch.equal(turned, label.rot90(1, (first, second)))


def test_turning_is_done_in_millimetres():
    """A voxel of 1 x 1 x 2 mm: four voxels along X turn to two along Z."""
    label = torch.zeros(1, 9, 3, 9, dtype=torch.uint8)
    label[0, 8, 1, 4] = 1  # 4 mm from the centre along X

    turned = nearest(label, rigid_warp((9, 3, 9), np.array([0, -90, 0]), np.zeros(3), (1, 1, 2)))

    assert (4, 1, 6) in [tuple(voxel) for voxel in turned[0].nonzero().tolist()]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equal_points_move_every_voxel_alike(order):
    field = spline_field(torch.full((3, 2 + order, 3 + order, 1 + order), 1.5), SHAPE, order)
    assert field.shape == (*SHAPE, 3)
    assert torch.allclose(field, torch.tensor(1.5))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_field_is_itks(order):
    sitk = pytest.importorskip("SimpleITK")
    mesh = (2, 3, 4)
    points = torch.randn(3, *(n + order for n in mesh), generator=torch.Generator().manual_seed(0))
    reference = sitk.BSplineTransform(3, order)
    reference.SetTransformDomainPhysicalDimensions([n - 1.0 for n in SHAPE])
    reference.SetTransformDomainMeshSize(mesh)
    reference.SetParameters(points.permute(0, 3, 2, 1).flatten().double().tolist())

    field = spline_field(points, SHAPE, order)

    for voxel in ((0, 0, 0), (3, 4, 5), (7, 2, 9), (1, 6, 1)):
        moved = np.array(reference.TransformPoint([float(n) for n in voxel])) - voxel
        assert field[voxel].numpy() == pytest.approx(moved, abs=1e-5)


def test_the_mesh_is_written_in_the_files_order():
    (transform,) = extra_transforms(
        changing(deformation={"probability": 1.0, "mesh_size": [4, 3, 2]})
    )
    assert isinstance(transform, RandDeformd)
    assert transform.mesh == (2, 3, 4)


@pytest.mark.parametrize("read", [linear, cubic])
def test_at_the_voxels_an_image_is_itself(read):
    image = item(channels=2)["image"]
    assert torch.allclose(read(image, still(SHAPE)), image, atol=1e-5)


def test_cubic_reading_is_that_of_64_terms():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = item()["image"]
    random = torch.Generator().manual_seed(1)
    warp = torch.rand(*SHAPE, 3, generator=random) * (torch.tensor(SHAPE) - 1)
    expected = ndimage.map_coordinates(
        image[0].numpy(), warp.movedim(-1, 0).numpy(), order=3, mode="mirror"
    )
    assert cubic(image, warp)[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_a_patch_one_voxel_thick_is_read():
    data = item((8, 8, 1))
    settings = changing(rigid=EVERYTHING["rigid"], deformation=EVERYTHING["deformation"])
    after = changed(settings, data)
    assert after["image"].isfinite().all()


def test_the_bilateral_filter_smooths_and_keeps_an_edge():
    """A step of 1 with noise of 0.01, and a filter to which 0.1 is a small difference."""
    random = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(1, 10, 10, 10, generator=random)
    step = (torch.arange(10) >= 5).float()[:, None, None]

    smooth = bilateral(step + noise, domain_sigma=1.0, range_sigma=0.1)

    assert (smooth - step).std() < 0.3 * noise.std()
    assert ((smooth > 0.5) == (step > 0.5)).all()


@pytest.mark.parametrize(("domain_sigma", "range_sigma"), [(0.2, 0.06), (0.5, 0.3), (1.0, 0.2)])
def test_the_bilateral_filter_is_itks(domain_sigma, range_sigma):
    sitk = pytest.importorskip("SimpleITK")
    image = item()["image"]
    array = sitk.GetImageFromArray(image[0].numpy())
    expected = sitk.GetArrayFromImage(sitk.Bilateral(array, domain_sigma, range_sigma, 400))
    assert bilateral(image, domain_sigma, range_sigma)[0].numpy() == pytest.approx(
        expected, abs=2e-3
    )
