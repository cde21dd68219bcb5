"""The reader: MONAI's chains with the checks of ours."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from cached_items import TABLE, blob_on, settings_of, written
from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.phantoms import phantom_grid
from monaiseg.data.volumes import write_image, write_label_map
from monaiseg.errors import DataError
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    inference_chain,
    load_chain,
)
from monaiseg.transforms.items import case_item
from monaiseg.transforms.reader import CheckedReader


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
    with pytest.raises(DataError, match="'case': .*case.nii: 1 channel, but .* is 2; give one"):
        inference_chain(settings_of(num_channels=2))(case_item(case))


def test_files_of_one_case_on_different_grids_are_refused(tmp_path):
    image = np.zeros((4, 4, 4), np.float32)
    case = written(tmp_path, image, image.astype(np.uint8))
    write_image(tmp_path / "other.nii", image, phantom_grid((4, 4, 4), (1.0, 1.0, 1.5)))
    write_label_map(
        tmp_path / "label.nii",
        image.astype(np.uint8),
        phantom_grid((4, 4, 4), (1.0, 2.0, 1.0)),
    )
    two = Case("two", (case.images[0], tmp_path / "other.nii"))
    wide = Case("wide", case.images, tmp_path / "label.nii")

    with pytest.raises(DataError, match="'two': .*other.nii lie .*: spacing .*resample"):
        inference_chain(settings_of(num_channels=2))(case_item(two))
    with pytest.raises(DataError, match="'wide': label map .*label.nii and .* lie .*: spacing"):
        CaseChain(load_chain(settings_of(), TABLE))(case_item(wide))


def test_the_gate_stands_before_the_chain(tmp_path):
    case = written(tmp_path, np.zeros((4, 4, 4), np.float32))
    case.images[0].write_bytes(case.images[0].read_bytes()[:-40])

    with pytest.raises(DataError, match="case 'case': .*ends after"):
        inference_chain(settings_of())(case_item(case))


def test_a_label_map_over_the_same_voxels_along_other_axes_is_brought_along_the_images(tmp_path):
    image, label = blob_on(phantom_grid((6, 7, 8)), shift_mm=(1.0, 0.0, 2.0))
    case = written(tmp_path, image, label)
    flipped = phantom_grid((6, 7, 8)).array
    flipped[:, 0] *= -1
    flipped[:3, 3] -= 5 * flipped[:3, 0]
    write_label_map(tmp_path / "flipped.nii", label[::-1], Grid.of((6, 7, 8), flipped))
    turned = Case("turned", case.images, tmp_path / "flipped.nii")

    one, other = (
        CaseChain(load_chain(settings_of(), TABLE))(case_item(each))["label"]
        for each in (case, turned)
    )
    assert torch.equal(one.as_tensor(), other.as_tensor())


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
