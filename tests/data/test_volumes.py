"""Volumes: what is read, and that what is written can be read by anyone."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from monaiseg.data.grid import Grid
from monaiseg.data.volumes import (
    read_header,
    read_label_map,
    read_volume,
    write_image,
    write_label_map,
)
from scans import OBLIQUE, SHAPE, VOXELS, nifti

SHEARED = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "Übung, Nr. 1 | left+right.nii.gz", "A.NII"])
@pytest.mark.parametrize("version", [1, 2])
def test_voxels_and_grid_are_those_of_the_file(file, name, version):
    voxels, header = read_volume(file(nifti(version=version), name))

    assert np.array_equal(voxels, VOXELS)
    assert voxels.dtype == np.int16
    assert header.grid.shape == SHAPE
    assert np.allclose(header.grid.array, OBLIQUE, atol=1e-5)
    assert header.grid == read_header(header.path).grid
    assert header.notes == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_all_real_types_in_both_byte_orders_are_read(file, dtype, order):
    image = nib.Nifti1Image(VOXELS.astype(dtype), OBLIQUE, dtype=dtype)
    header = image.header.as_byteswapped(order)
    raw = nib.Nifti1Image(VOXELS.astype(dtype), OBLIQUE, header, dtype=dtype).to_bytes()

    voxels, _ = read_volume(file(raw))

    assert np.array_equal(voxels, VOXELS)
    assert voxels.dtype.isnative
    assert voxels.dtype.itemsize <= 4


def test_scaled_integers_become_float32(file):
    voxels, _ = read_volume(file(nifti(scl_slope=0.5, scl_inter=-3)))

    assert voxels.dtype == np.float32
    assert np.array_equal(voxels, VOXELS * 0.5 - 3)


def test_a_slope_of_0_means_no_scaling(file):
    assert np.array_equal(read_volume(file(nifti(scl_slope=0)))[0], VOXELS)


def test_a_fourth_axis_holds_channels_and_single_ones_are_dropped(file):
    _, header = read_volume(file(nifti(np.stack([VOXELS, VOXELS], axis=-1))))
    assert (header.grid.shape, header.num_channels) == (SHAPE, 2)

    voxels, header = read_volume(file(nifti(VOXELS[..., None])))
    assert (voxels.shape, header.num_channels) == (SHAPE, 1)
    assert header.notes == ("shape (4, 5, 6, 1) is read as (4, 5, 6)",)


def test_an_axis_of_one_voxel_is_fine(file):
    assert read_volume(file(nifti(VOXELS[:, :, :1])))[0].shape == (4, 5, 1)


@pytest.mark.parametrize("affine", [SHEARED, OBLIQUE @ np.diag([-1, 1, 1, 1])])
def test_left_handed_and_sheared_grids_are_read(file, affine):
    raw = nifti(affine=affine, qform_code=0)
    assert np.allclose(read_header(file(raw)).grid.array, affine)


def test_the_qform_serves_where_there_is_no_sform(file):
    mirrored = OBLIQUE @ np.diag([1, 1, -1, 1])
    raw = nifti(affine=mirrored, sform_code=0)
    assert np.allclose(read_header(file(raw)).grid.array, mirrored, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"bitpix": 7}, "bitpix is 7, not 16"),
        ({"sizeof_hdr": 0}, "sizeof_hdr is 0, not 348"),
        ({"magic": b"ni1"}, "header/image pair"),
        ({"pixdim": [1, 0, -1, np.nan, 0, 0, 0, 0]}, "pixdim is (0.0, -1.0, nan)"),
        ({"pixdim": [1, 9, 9, 9, 0, 0, 0, 0], "qform_code": 0}, "the sform is used"),
        ({"qoffset_x": -10.05}, "sform and qform differ slightly"),
    ],
)
def test_what_is_put_up_with_is_noted(file, fields, note):
    voxels, header = read_volume(file(nifti(**fields)))

    assert np.array_equal(voxels, VOXELS)
    assert np.allclose(header.grid.array, OBLIQUE, atol=1e-5)
    assert len(header.notes) == 1
    assert note in header.notes[0]


def test_trailing_bytes_are_noted(file, tmp_path):
    assert read_volume(file(nifti() + b"more"))[1].notes == ("4 bytes after the voxels ignored",)
    packed = tmp_path / "after.nii.gz"
    packed.write_bytes(gzip.compress(nifti() + b"abc") + b"junk")
    assert read_volume(packed)[1].notes == ("7 bytes after the voxels ignored",)


def test_gzip_of_several_members_is_read(tmp_path):
    raw, path = nifti(), tmp_path / "members.nii.gz"
    path.write_bytes(b"".join(gzip.compress(raw[at : at + 100]) for at in range(0, len(raw), 100)))
    assert np.array_equal(read_volume(path)[0], VOXELS)


def test_a_file_larger_than_a_chunk_is_read_whole(file):
    voxels = np.random.default_rng(0).integers(0, 2000, (96, 96, 100)).astype(np.int16)
    assert np.array_equal(read_volume(file(nifti(voxels), "big.nii.gz"))[0], voxels)
    assert np.array_equal(read_volume(file(nifti(voxels), "big.nii"))[0], voxels)


@pytest.mark.parametrize("affine", [OBLIQUE, SHEARED])
def test_an_image_comes_back_as_it_was_written(tmp_path, affine):
    grid = Grid.of(SHAPE, affine.astype(np.float32))
    image = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)

    write_image(tmp_path / "a.nii.gz", image, grid)
    voxels, header = read_volume(tmp_path / "a.nii.gz")

    assert np.array_equal(voxels, image)
    assert header.grid == grid
    assert header.num_channels == 2


def test_a_name_of_255_bytes_is_written_and_read(tmp_path):
    path = tmp_path / ("ü" * 124 + ".nii.gz")
    assert len(path.name.encode()) == 255
    write_label_map(path, VOXELS, Grid.of(SHAPE, OBLIQUE))
    assert np.array_equal(read_label_map(path)[0], VOXELS)
