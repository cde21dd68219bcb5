"""The chains: to the network grid and home again, one scale of intensities, and patches cut at random."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st
from monai.data.meta_obj import set_track_meta
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd
from monai.transforms.utility.dictionary import EnsureChannelFirstd, FgBgToIndicesd

from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.labels import Label, LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.data.volumes import read_label_map, write_image, write_label_map
from monaiseg.errors import DataError, SettingsError
from monaiseg.settings.augmentation import RotationSettings, ScalingSettings
from monaiseg.settings.dataset import IntensitySettings
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.transforms import crop, intensity
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    cached_chain,
    chain_digest,
    crop_transforms,
    inference_chain,
    load_chain,
    training_chain,
)
from monaiseg.transforms.crop import FindCentresd, SplitCentresd
from monaiseg.transforms.intensity import normalised
from monaiseg.transforms.inverse import to_file_grid
from monaiseg.transforms.items import case_item
from monaiseg.transforms.mirror import RandMirrord
from monaiseg.transforms.network_grid import resize_note, target_shape
from monaiseg.transforms.reader import CheckedReader
from monaiseg.transforms.rigid import turn_matrix
from monaiseg.transforms.rotate_zoom import RandRotateZoomd, turned_patch
from strategies import ORIENTATIONS, grids

TABLE = LabelTable.from_values([1, 2])
FLOOR = -1.0


def settings_of(patch=(16, 16, 16), seg: Any = None, **dataset: Any) -> Settings:
    """Settings with spatial lists along X, Y, Z and no augmentation."""
    seg = {"patch_size": list(patch), "augmentation": {"enabled": False}, **(seg or {})}
    return settings_from_dict({"dataset": {"axis_order": "xyz", "seg": seg, **dataset}})


def written(folder: Path, image, label=None, grid: Grid | None = None, name="case") -> Case:
    """A case of these arrays on disk."""
    grid = grid or phantom_grid(image.shape[:3])
    folder.mkdir(exist_ok=True)
    write_image(folder / f"{name}.nii", image, grid)
    if label is None:
        return Case(name, (folder / f"{name}.nii",))
    write_label_map(folder / f"{name}_label.nii", label, grid)
    return Case(name, (folder / f"{name}.nii",), folder / f"{name}_label.nii")


def blob_on(grid: Grid, share: float = 0.3, shift_mm=(0.0, 0.0, 0.0)):
    """A ball around a point of the world beside the grid's middle, label 1: image and label map."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world = index @ grid.array[:3, :3].T + grid.array[:3, 3]
    middle = grid.array[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.array[:3, 3]
    reach = share * min(n * mm for n, mm in zip(grid.shape, grid.spacing, strict=True))
    distance = np.linalg.norm(world - middle - np.array(shift_mm), axis=-1)
    label = (distance <= reach).astype(np.uint8)
    return (100 * np.exp(-((distance / reach) ** 2))).astype(np.float32), label


def centroid_mm(label, affine):
    return np.argwhere(label).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]


def dice(a, b) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


# ---------------------------------------------------------------- there and back


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


# ---------------------------------------------------------------- sizes


def test_sizes_are_kept_and_padded_alike_on_both_sides():
    grid = phantom_grid((18, 16, 3), orientation="RAS")
    assert target_shape(grid, settings_of()) == (32, 16, 16)
    assert target_shape(phantom_grid((18, 16, 3), orientation="SAR"), settings_of()) == (16, 16, 32)


def test_a_patch_larger_than_the_image_pads_the_image():
    assert target_shape(phantom_grid((35, 51, 35)), settings_of((40, 56, 40))) == (48, 64, 48)
    assert target_shape(phantom_grid((35, 10, 10)), settings_of((40, 56, 40))) == (48, 56, 40)


def test_given_sizes_are_rounded_up_and_the_note_names_both():
    zyx = settings_from_dict({"dataset": {"img_after_resize": [196, 164, 190]}})
    patch = settings_of(img_after_resize=[96, 96, 96])

    assert target_shape(phantom_grid((50, 50, 50)), zyx) == (192, 176, 208)
    assert "[190, 164, 196] is rounded up to [192, 176, 208] (x, y, z)" in str(resize_note(zyx))
    assert resize_note(patch) is None
    assert resize_note(settings_of()) is None


@pytest.mark.parametrize(
    ("mode", "row"),
    [
        ("constant", [-2, -2, 3, -2, 5, -2, -2]),
        ("replicate", [3, 3, 3, -2, 5, 5, 5]),
        ("reflect", [5, -2, 3, -2, 5, -2, 3]),
        ("circular", [-2, 5, 3, -2, 5, 3, -2]),
    ],
)
def test_what_pads_the_image(tmp_path, mode, row):
    image = np.broadcast_to(np.array([3.0, -2.0, 5.0]), (16, 16, 3)).astype(np.float32)
    label = np.full(image.shape, 2, np.uint8)
    chosen = settings_of(intensity={"method": "none"}, seg={"partition": {"padding_mode": mode}})

    item = CaseChain(load_chain(chosen, TABLE))(case_item(written(tmp_path, image, label)))

    assert item["image"].shape == (1, 16, 16, 16)
    assert item["image"][0, 0, 0, 4:11].tolist() == row
    around = 0 if mode == "constant" else 2
    assert item["label"][0, 0, 0].tolist() == [around] * 6 + [2] * 3 + [around] * 7


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_an_image_that_is_continued_has_its_labels_continued(tmp_path, mode):
    """Mirrored tissue under the label of the background would be learned, and counted against the network."""
    label = np.broadcast_to(np.array([1, 2, 0], np.uint8), (16, 16, 3))
    chosen = settings_of(intensity={"method": "none"}, seg={"partition": {"padding_mode": mode}})

    case = written(tmp_path, label.astype(np.float32), np.ascontiguousarray(label))
    item = CaseChain(load_chain(chosen, TABLE))(case_item(case))

    assert torch.equal(item["label"], item["image"].to(torch.uint8))


# ---------------------------------------------------------------- intensities


VALUES = np.array([0, 0, 0, 10, 20, 30, 40, 50], np.float32).reshape(2, 2, 2)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"method": "none"}, [0, 0, 0, 10, 20, 30, 40, 50]),
        ({"method": "minmax"}, [-1, -1, -1, -0.6, -0.2, 0.2, 0.6, 1]),
        (
            {"method": "minmax", "clip_range": (10.0, 30.0)},
            [-1, -1, -1, -1, 0, 1, 1, 1],
        ),
        (
            {"method": "minmax", "region": "foreground"},
            [-1.5, -1.5, -1.5, -1, -0.5, 0, 0.5, 1],
        ),
        (
            {"method": "zscore", "region": "foreground"},
            (np.array([0, 0, 0, 10, 20, 30, 40, 50]) - 30) / np.sqrt(200),
        ),
    ],
)
def test_normalisation_by_hand(chosen, expected):
    scaled = normalised(VALUES, IntensitySettings(**chosen))
    assert scaled.dtype == np.float32
    assert np.allclose(scaled.ravel(), expected, atol=1e-6)


def test_percentile_takes_the_least_to_minus_1_and_the_percentile_to_0_9():
    ramp = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    scaled = normalised(ramp, IntensitySettings(method="percentile", percentile=95.0))

    assert scaled.ravel()[[0, 950]] == pytest.approx([-1, 0.9], abs=1e-6)
    assert scaled.max() == pytest.approx(1.0)  # unclipped


def test_percentile_of_an_image_that_is_nearly_all_background():
    image = np.zeros((10, 10, 10), np.float32)
    image[0, 0, 0] = 5
    scaled = normalised(image, IntensitySettings(method="percentile"))
    assert (scaled.min(), scaled.max()) == (-1, 1)


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile", "none"])
@pytest.mark.parametrize("region", ["image", "foreground"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 3e38])
def test_a_constant_image_stays_constant_and_finite(method, region, value):
    image = np.full((3, 4, 5), value, np.float32)
    scaled = normalised(image, IntensitySettings(method=method, region=region))

    assert np.isfinite(scaled).all()
    assert len(np.unique(scaled)) == 1


@given(
    low=st.floats(-(2.0**127), 2.0**127, width=32),
    high=st.floats(-(2.0**127), 2.0**127, width=32),
    method=st.sampled_from(["zscore", "minmax", "percentile"]),
)
def test_no_range_of_float32_overflows(low, high, method):
    image = np.array([low, high, low, high], np.float32).reshape(1, 2, 2)
    scaled = normalised(image, IntensitySettings(method=method))
    assert np.isfinite(scaled).all()
    assert np.abs(scaled).max() < 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_numbers_in_the_file_do_not_overflow(tmp_path, dtype):
    most = 1 << 20 if dtype == np.float64 else min(np.iinfo(dtype).max, 1 << 24)
    least = 0 if np.dtype(dtype).kind == "u" else -most
    image = np.full((16, 16, 16), least, dtype)
    image[4:] = most
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    nifti = nib.Nifti1Image(image, np.eye(4), header, dtype=dtype)
    nib.save(nifti, tmp_path / "image.nii")
    chosen = settings_of(intensity={"method": "minmax"})

    item = inference_chain(chosen)(case_item(Case("case", (tmp_path / "image.nii",))))

    assert item["image"].dtype == torch.float32
    assert (float(item["image"].min()), float(item["image"].max())) == (-1, 1)


def test_padding_does_not_move_the_statistics(tmp_path):
    image = np.random.default_rng(0).normal(50, 10, size=(5, 6, 7)).astype(np.float32)
    item = inference_chain(settings_of())(case_item(written(tmp_path, image)))
    inside = item["image"].numpy()[0, 5:10, 5:11, 4:11]

    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert item["image"].numpy()[0, 0, 0, 0] == inside.min()


# ---------------------------------------------------------------- channels, labels, faults


def test_two_files_are_the_channels_of_one_4d_file(tmp_path):
    rng = np.random.default_rng(0)
    both = rng.normal([100, -3], [20, 0.1], size=(16, 16, 16, 2)).astype(np.float32)
    parts = [written(tmp_path, both[..., c], name=f"part{c}").images[0] for c in (0, 1)]
    whole = written(tmp_path, both, name="whole", grid=phantom_grid((16, 16, 16))).images
    chain = inference_chain(settings_of(num_channels=2))

    one, two = (chain(case_item(Case("case", tuple(p))))["image"] for p in (whole, parts))

    assert one.shape == (2, 16, 16, 16)
    assert torch.equal(one.as_tensor(), two.as_tensor())
    assert one.as_tensor().std(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_another_number_of_channels_is_refused(tmp_path):
    case = written(tmp_path, np.zeros((4, 4, 4), np.float32))
    with pytest.raises(DataError, match="'case': .*case.nii: 1 channels, but .* is 2; give one"):
        inference_chain(settings_of(num_channels=2))(case_item(case))


def test_files_of_one_case_on_different_grids_are_refused(tmp_path):
    image = np.zeros((4, 4, 4), np.float32)
    case = written(tmp_path, image, image.astype(np.uint8))
    write_image(tmp_path / "other.nii", image, phantom_grid((4, 4, 4), (1.0, 1.0, 1.5)))
    write_label_map(tmp_path / "label.nii", image.astype(np.uint8), phantom_grid((4, 4, 4), orientation="LAS"))  # fmt: skip
    two = Case("two", (case.images[0], tmp_path / "other.nii"))
    flipped = Case("flipped", case.images, tmp_path / "label.nii")

    with pytest.raises(DataError, match="'two': .*other.nii: .*spacing .*resample"):
        inference_chain(settings_of(num_channels=2))(case_item(two))
    with pytest.raises(DataError, match="'flipped': .*label.nii: .*orientation RAS and LAS"):
        CaseChain(load_chain(settings_of(), TABLE))(case_item(flipped))


def test_a_value_that_the_table_does_not_name_is_refused_unless_labels_were_chosen(tmp_path):
    label = np.zeros((16, 16, 16), np.uint8)
    label[:2], label[2:5] = 1, 7
    case = written(tmp_path, label.astype(np.float32), label)
    chosen = settings_of(seg={"interested_label_list": [1, 2]})

    with pytest.raises(DataError, match=r"case 'case': values 7 \(768 voxels\)"):
        CaseChain(load_chain(settings_of(), TABLE))(case_item(case))
    item = CaseChain(load_chain(chosen, TABLE))(case_item(case))
    assert np.bincount(item["label"].numpy().ravel()).tolist() == [14 * 256, 2 * 256]


def test_the_gate_stands_before_the_chain(tmp_path):
    case = written(tmp_path, np.zeros((4, 4, 4), np.float32))
    case.images[0].write_bytes(case.images[0].read_bytes()[:-40])

    with pytest.raises(DataError, match="case 'case': .*ends after"):
        inference_chain(settings_of())(case_item(case))


def test_a_file_that_the_reader_refuses_is_given_to_no_other_reader(tmp_path):
    """MONAI's LoadImage tries its other readers when one raises in `read`: NibabelReader would take this file."""
    image = np.zeros((4, 4, 4), np.float32)
    image[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "image.nii")

    assert LoadImaged("image")({"image": tmp_path / "image.nii"})["image"].shape == (4, 4, 4)
    for reader in (CheckedReader, CheckedReader(), "monaiseg.transforms.CheckedReader"):
        with pytest.raises(DataError, match=r"image.nii: 1 values are NaN or infinite"):
            LoadImaged("image", reader)({"image": tmp_path / "image.nii"})


def test_the_reader_serves_a_chain_of_monais(tmp_path):
    image, label = blob_on(phantom_grid((6, 7, 8), (1.0, 2.0, 3.0), "LPS"))
    case = written(tmp_path, image, label, phantom_grid((6, 7, 8), (1.0, 2.0, 3.0), "LPS"))
    chains = [
        Compose([LoadImaged("image", reader), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None)])
        for reader in (CheckedReader, "NibabelReader")
    ]  # fmt: skip
    ours, theirs = (chain({"image": str(case.images[0])})["image"] for chain in chains)

    assert torch.equal(ours.as_tensor(), theirs.as_tensor())
    assert torch.allclose(ours.affine, theirs.affine)
    assert ours.meta["filename_or_obj"] == theirs.meta["filename_or_obj"]


def test_our_own_mistakes_stay_what_they_are():
    def broken(item):
        return item["nothing"]

    with pytest.raises(RuntimeError) as caught:
        CaseChain([broken])({"case_id": "case"})
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("most", "dtype"), [(3, torch.uint8), (300, torch.int16)])
def test_class_indices_take_the_smallest_type(tmp_path, most, dtype):
    label = np.arange(16**3).reshape(16, 16, 16).astype(np.int16) % (most + 1)
    case = written(tmp_path, label.astype(np.float32), label)
    table = LabelTable.from_values(range(1, most + 1))

    for chosen in (settings_of(), settings_of(img_after_resize=[32, 32, 32])):
        item = cached_chain(chosen, table, for_training=False)(case_item(case))
        assert item["label"].dtype == dtype
        assert int(item["label"].max()) == most


def test_what_is_cached_is_plain(tmp_path):
    grid = phantom_grid((18, 17, 16), (1.0, 2.0, 3.0), "PIR")
    image, label = blob_on(grid)
    case = written(tmp_path, image, label, grid)

    item = cached_chain(settings_of(), TABLE, for_training=True)(case_item(case))

    assert {type(value) for value in item.values()} == {torch.Tensor, str}
    assert item["image"].is_contiguous()
    assert item["label"].is_contiguous()
    assert item["floor"] == item["image"].min()
    assert Grid.of((1, 1, 1), item["affine"]).spacing == pytest.approx((3.0, 1.0, 2.0))


def test_the_chains_digest_changes_with_what_changes_the_chain():
    plain = chain_digest(settings_of(), TABLE, for_training=False)
    others = [
        chain_digest(settings_of(), TABLE, for_training=True),
        chain_digest(settings_of(), LabelTable.from_values([1, 3]), for_training=False),
        chain_digest(settings_of((32, 16, 16)), TABLE, for_training=False),
        chain_digest(settings_of(spacing=[1.0, 1.0, 2.0]), TABLE, for_training=False),
        chain_digest(settings_of(img_after_resize=[32, 32, 32]), TABLE, for_training=False),
        chain_digest(settings_of(intensity={"method": "none"}), TABLE, for_training=False),
        chain_digest(settings_of(seg={"interested_label_list": [1]}), TABLE, for_training=False),
    ]
    same = chain_digest(settings_of(seg={"crops_per_image": 4}), TABLE, for_training=False)

    assert same == plain
    assert len({plain, *others}) == 8


# ---------------------------------------------------------------- patches


def cached(image, label=None, spacing=(1.0, 1.0, 1.0), num_groups=None) -> dict[str, Any]:
    """A cached item of arrays (X, Y, Z)."""
    image = torch.as_tensor(np.asarray(image, np.float32))[None]
    label = torch.as_tensor(np.zeros(image.shape[1:]) if label is None else label)[None]
    item = {
        "image": image,
        "label": label.to(torch.uint8),
        "affine": torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)),
        "floor": torch.tensor([FLOOR]),
        "case_id": "case",
    }
    return item if num_groups is None else FindCentresd(num_groups)(item)


def patches(item, chosen: Settings, count: int, table: LabelTable = TABLE):
    chain = CaseChain(training_chain(chosen, table))
    for seed in range(count):
        chain.set_random_state(seed=seed)
        yield patch_of(chain, item)


def patch_of(chain, item) -> dict[str, Any]:
    """What a chain of plain tensors makes of an item, out of the list that MONAI's crops put it in."""
    set_track_meta(False)
    try:
        made = chain(item)
    finally:
        set_track_meta(True)
    return made[0] if isinstance(made, list) else made


def position_image(shape=(40, 44, 48)):
    """An image whose voxels hold x + 100 y + 10000 z, so that a patch shows where it was cut."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return x + 100.0 * y + 10_000.0 * z


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


def test_patches_reach_the_borders_of_a_volume_that_is_little_larger():
    item = cached(position_image((20, 20, 20)), num_groups=2)
    seg = {"augmentation": {name: {"probability": 0.0} for name in (*QUIET, "scaling")}}
    seg["augmentation"]["rotation"] = {"probability": 1e-9}  # margins, and none is turned
    corners = {int(p["image"][0, 0, 0, 0]) for p in patches(item, settings_of(seg=seg), 200)}
    assert {corner % 100 for corner in corners} == {0, 1, 2, 3, 4}


def test_image_and_label_map_turn_together():
    label = blob_on(phantom_grid((32, 32, 32)), shift_mm=(3.0, -4.0, 5.0))[1]
    item = cached(label, label)
    changes: dict[str, Any] = {name: {"probability": 0.0} for name in QUIET}
    changes |= {"rotation": {"probability": 1.0}, "scaling": {"probability": 1.0}}
    seg = {"augmentation": changes, "sampling": {"method": "uniform"}}

    for patch in patches(item, settings_of((32, 32, 32), seg), 5):
        assert dice(patch["image"].numpy() > 0.5, patch["label"].numpy() == 1) > 0.95


QUIET = ("noise", "smoothing", "bias_field", "contrast", "gamma")


def test_a_patch_that_is_not_turned_is_a_cut():
    volume = position_image()
    item = cached(volume, volume % 2, num_groups=2)

    for patch in patches(item, settings_of((16, 16, 32)), 20):
        corner = int(patch["image"][0, 0, 0, 0])
        x, y, z = corner % 100, corner // 100 % 100, corner // 10_000
        assert np.array_equal(patch["image"][0], volume[x : x + 16, y : y + 16, z : z + 32])
        assert np.array_equal(patch["label"][0], (volume % 2)[x : x + 16, y : y + 16, z : z + 32])


def test_foreground_and_background_are_centred_on_by_their_weights():
    label = np.zeros((48, 48, 48))
    label[20:28, 20:28, 20:28] = 1  # far from the border, so that a patch lies around its centre
    item = cached(position_image(label.shape), label, num_groups=2)
    chosen = settings_of(seg={"sampling": {"pos": 3.0, "neg": 1.0}})

    centred = [bool(patch["label"][0, 8, 8, 8]) for patch in patches(item, chosen, 400)]

    assert np.mean(centred) == pytest.approx(0.75, abs=0.06)


def test_balanced_sampling_takes_each_class_as_often_as_the_next():
    label = np.zeros((48, 48, 48))
    label[16:32, 16:32, 16:31] = 1
    label[20, 20, 31] = 2  # a single voxel
    item = cached(position_image(label.shape), label, num_groups=3)
    chosen = settings_of(seg={"sampling": {"method": "balanced"}})

    centres = [int(patch["label"][0, 8, 8, 8]) for patch in patches(item, chosen, 600)]

    assert np.bincount(centres) / 600 == pytest.approx([1 / 3] * 3, abs=0.06)


@pytest.mark.parametrize("sampling", [{"pos": 1.0, "neg": 0.0}, {"pos": 0.0, "neg": 1.0}])
@pytest.mark.parametrize("value", [0, 1])
def test_a_case_without_the_wanted_voxels_still_gives_patches(sampling, value):
    item = cached(position_image(), np.full((40, 44, 48), value), num_groups=2)
    chosen = settings_of(seg={"sampling": sampling})
    corners = {float(patch["image"][0, 0, 0, 0]) for patch in patches(item, chosen, 10)}
    assert len(corners) == 10


def test_uniform_sampling_reaches_every_corner():
    item = cached(position_image((17, 16, 18)))
    chosen = settings_of(seg={"sampling": {"method": "uniform"}})
    corners = {int(patch["image"][0, 0, 0, 0]) for patch in patches(item, chosen, 60)}
    assert corners == {x + 10_000 * z for x, z in itertools.product((0, 1), (0, 1, 2))}


def test_a_whole_image_is_one_patch():
    item = cached(position_image(), num_groups=2)
    chosen = settings_of(seg={"use_whole_img_as_input": True})
    (patch,) = patches(item, chosen, 1)
    assert torch.equal(patch["image"], item["image"])


def test_centres_are_those_of_monai():
    label = np.random.default_rng(0).integers(0, 3, size=(6, 7, 8))
    item = cached(label, label, num_groups=2)
    ends = item["centre_ends"].tolist()
    # > 0: of uint8 tensors MONAI 1.6.1 takes the bitwise complement, and calls every voxel background
    oracle = FgBgToIndicesd("label")({"label": item["label"] > 0})

    assert item["centres"].dtype == torch.int32
    assert item["centres"][: ends[0]].tolist() == oracle["label_bg_indices"].tolist()
    assert item["centres"][ends[0] : ends[1]].tolist() == oracle["label_fg_indices"].tolist()


def test_centres_of_a_large_group_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(crop, "MAX_CENTRES", 10)
    item = cached(np.zeros((6, 6, 6)), np.zeros((6, 6, 6)), num_groups=3)

    assert item["centre_ends"].tolist() == [10, 10, 10]  # and the empty groups stay empty
    assert item["centres"].tolist() == [10, 32, 54, 75, 97, 118, 140, 162, 183, 205]


def test_of_a_group_of_few_centres_they_are_not_all_at_its_edge():
    label = np.zeros((8, 8, 8))
    label[2:6, 2:6, 2:6] = 1
    item = FindCentresd(2, most=1)(cached(label, label))

    assert item["centre_ends"].tolist() == [1, 2]
    assert item["group_voxels"].tolist() == [448, 64]
    assert item["centres"].tolist() == [256, 4 * 64 + 2 * 8 + 2]  # the middle one of each group


BOX = np.zeros((48, 48, 48))
BOX[10:38, 10:38, 10:38] = 1
BOX[20:22, 20:22, 20:22] = 2
"""A cube of 28 voxels with a small one in it: a patch of 16 holds at most 19 % of the large one."""


@pytest.mark.parametrize("method", ["balanced", "pos_neg"])
def test_a_patch_holds_the_least_share_of_what_it_is_centred_on(method):
    least = {"least_class_share": 0.12, "least_patch_share": [0.5]}
    item = cached(BOX, BOX, num_groups=3 if method == "balanced" else 2)

    def groups(sampling):
        chosen = settings_of(seg={"augmentation": {"enabled": False}, "sampling": sampling})
        for patch in patches(item, chosen, 60):
            label = patch["label"]
            holds = ((label == 0).float().mean() >= 0.5, (label > 0).sum() >= 0.12 * 28**3)
            yield bool(any(holds) or (label == 2).any())

    assert all(groups({"method": method, **least}))
    assert not all(groups({"method": method}))


def test_a_share_that_no_patch_can_hold_ends_with_the_fullest():
    item = cached(BOX, BOX, num_groups=2)
    sampling = {"pos": 1, "neg": 0, "least_class_share": 1.0}
    chosen = settings_of(seg={"augmentation": {"enabled": False}, "sampling": sampling})
    held = [int((patch["label"] > 0).sum()) for patch in patches(item, chosen, 10)]
    assert min(held) > 0.8 * 16**3


def test_what_easyreg_lists_runs_after_the_cut():
    names = ["random_rigid_transform", "bspline_transform", "bilateral_filter"]
    chosen = settings_of(seg={"augmentation": {}, "transform": {"transform_seq": names}})
    chain = [type(transform).__name__ for transform in training_chain(chosen, TABLE)]
    assert chain[2:6] == ["RandRotateZoomd", "RandRigidd", "RandDeformd", "RandBilaterald"]

    item = cached(position_image(), num_groups=2)
    for patch in patches(item, chosen, 3):
        assert patch["image"].shape == (1, 16, 16, 16)


# ---------------------------------------------------------------- augmentation


PAIRS = LabelTable.from_values([1, 2, 3], {1: "left eye", 2: "right eye", 3: "nose"})


def test_a_left_right_mirror_exchanges_partners():
    label = np.zeros((4, 1, 1))
    label[:, 0, 0] = [1, 3, 0, 2]  # left eye, nose, nothing, right eye
    mirror = RandMirrord((1.0, 0.0, 0.0), PAIRS.partner_classes)

    mirrored = mirror(cached(label, label))

    assert mirrored["image"][0, :, 0, 0].tolist() == [2, 0, 3, 1]
    assert mirrored["label"][0, :, 0, 0].tolist() == [1, 0, 3, 2]
    assert mirrored["label"].dtype == torch.uint8


def test_other_mirrors_leave_the_labels_alone():
    label = np.zeros((1, 2, 2))
    label[0] = [[1, 2], [3, 0]]
    mirrored = RandMirrord((0.0, 1.0, 1.0), None)(cached(label, label))
    assert mirrored["label"][0, 0].tolist() == [[0, 3], [2, 1]]


def test_a_left_right_mirror_without_partners_is_refused():
    seg = {"augmentation": {"flip": {"left_right": 0.5}}}
    lone = LabelTable.from_values([1], {1: "left eye"})

    with pytest.raises(SettingsError, match="left eye.* no partner"):
        training_chain(settings_of(seg=seg), lone)
    training_chain(settings_of(seg={"augmentation": {"flip": {"up_down": 0.5}}}), lone)


@pytest.mark.parametrize(
    ("names", "can"),
    [
        ({}, False),
        ({1: "anterior"}, False),
        ({1: "anterior", 2: "posterior"}, True),
        ({1: "left eye", 2: "right eye"}, True),
        ({1: "left eye", 2: "nose"}, False),
        ({1: "LeftKidney", 2: "RightKidney"}, True),
        ({1: "kidneyLeft", 2: "nose"}, False),
        ({1: "lkid", 2: "rkid"}, False),
        ({1: "left ventricle", 2: "right ventricle"}, False),
        ({1: "Left-Lateral-Ventricle", 2: "Right-Lateral-Ventricle"}, True),
        ({1: "vertebra_L1", 2: "vertebra_L2"}, True),
    ],
)
def test_what_mirror_images_are_is_known_where_all_labels_have_names(names, can):
    table = LabelTable.from_values([1, 2], names)

    assert table.can_mirror == can
    assert (table.mirror_note() is None) == (len(names) == 2)


@pytest.mark.parametrize(
    ("names", "partners"),
    [
        (("L hippocampus", "R hippocampus"), (2, 1)),
        (("LeftKidney", "RightKidney"), (2, 1)),
        (("kidneyleft", "kidneyright"), (2, 1)),
        (("bright spot", "cleft"), (None, None)),
        (("heart_atrium_left", "heart_atrium_right"), (None, None)),
        (("Left-Inf-Lat-Vent", "Right-Inf-Lat-Vent"), (2, 1)),
    ],
)
def test_partners_are_read_from_names_that_differ_in_their_side(names, partners):
    table = LabelTable.from_values([1, 2], dict(enumerate(names, start=1)))

    assert tuple(label.partner for label in table.foreground) == partners


def test_partners_tell_what_names_do_not():
    labels = [
        Label(0, "background"),
        Label(1, "label 1", partner=2),
        Label(2, "label 2", partner=1),
    ]

    assert LabelTable(tuple(labels)).can_mirror


def test_a_coil_field_leaves_air_alone():
    image = np.full((16, 16, 16), FLOOR)
    image[4:12] = 3.0
    field = intensity.RandCoilFieldd(1.0, 0.3)
    field.set_random_state(seed=1)

    changed = field(cached(image))["image"][0]

    assert (changed[:4] == FLOOR).all()
    ratio = (changed[4:12] - FLOOR) / (3.0 - FLOOR)
    assert ratio.min() > 0
    assert ratio.std() > 0.01


def test_only_what_can_happen_is_in_the_chain():
    def names(augmentation):
        return [type(t).__name__ for t in training_chain(settings_of(seg={"augmentation": augmentation}), PAIRS)]  # fmt: skip

    turned = ["SplitCentresd", "RandCropByClassesWithMargind", "RandRotateZoomd"]
    assert names({"enabled": False}) == ["SplitCentresd", "RandCropByPosNegLabeld"]
    assert names({name: {"probability": 0.0} for name in QUIET}) == turned
    assert names({"flip": {"left_right": 0.1}}) == [
        *turned,
        "RandMirrord",
        "RandCoilFieldd",
        "RandScaleIntensityFixedMeand",
        "RandAdjustContrastd",
        "RandGaussianSmoothd",
        "RandGaussianNoised",
    ]


EVERYTHING = {
    "augmentation": {
        **{name: {"probability": 1.0} for name in (*QUIET, "rotation", "scaling")},
        "flip": {"left_right": 0.5, "front_back": 0.5, "up_down": 0.5},
    }
}


def digest(patch) -> tuple[bytes, bytes]:
    return patch["image"].numpy().tobytes(), patch["label"].numpy().tobytes()


def test_a_chain_seeded_again_has_the_streams_that_monai_makes_anew():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 24, 24)), rng.integers(0, 4, size=(24, 24, 24)), num_groups=2)  # fmt: skip
    chain = CaseChain(training_chain(settings_of(seg=EVERYTHING), PAIRS))
    chain.set_random_state(seed=0)

    for seed in (1, 2**62 + 1):
        anew = Compose(training_chain(settings_of(seg=EVERYTHING), PAIRS))
        expected = patch_of(anew.set_random_state(seed=seed), dict(item))
        assert digest(patch_of(chain.set_random_state(seed=seed), dict(item))) == digest(expected)


def test_a_seed_repeats_a_patch_whatever_the_global_random_states_are():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 24, 24)), rng.integers(0, 4, size=(24, 24, 24)), num_groups=2)  # fmt: skip
    chosen = settings_of(seg=EVERYTHING)

    def drawn(noise: int):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        torch.manual_seed(noise)
        return [digest(patch) for patch in patches(item, chosen, 6, PAIRS)]

    assert drawn(1) == drawn(2)
    assert len(set(drawn(1))) == 6


def test_the_cached_volume_is_never_written_to():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(16, 16, 16)), rng.integers(0, 4, size=(16, 16, 16)), num_groups=2)  # fmt: skip
    before = digest(item)

    upright = {name: {"probability": 0.0} for name in ("rotation", "scaling")}
    whole = {"use_whole_img_as_input": True}
    for change in (EVERYTHING["augmentation"], EVERYTHING["augmentation"] | upright):
        for shape in ({}, whole):
            chosen = settings_of(seg={"augmentation": change, **shape})
            assert len({digest(patch) for patch in patches(item, chosen, 10, PAIRS)}) == 10

    assert digest(item) == before


def test_intensities_change_and_labels_do_not():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, size=(16, 16, 16))
    item = cached(rng.normal(size=label.shape), label, num_groups=2)
    for name in QUIET:
        quiet = {other: {"probability": 0.0} for other in (*QUIET, "rotation", "scaling")}
        chosen = settings_of(seg={"augmentation": quiet | {name: {"probability": 1.0}}})
        (patch,) = patches(item, chosen, 1, PAIRS)
        assert not torch.equal(patch["image"], item["image"]), name
        assert patch["image"].dtype == torch.float32
        assert np.isfinite(patch["image"]).all()
        assert torch.equal(patch["label"], item["label"]), name


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
