"""Every volume that cannot be trusted is refused, and named for what it is."""

from __future__ import annotations

import contextlib
import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monaiseg.data.volumes import (
    read_header,
    read_volume,
)
from monaiseg.errors import DataError
from scans import OBLIQUE, SHAPE, VOXELS, nifti


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"magic": b"xyz"}, "no NIfTI magic"),
        ({"dim": [0, 4, 5, 6, 1, 1, 1, 1]}, "0 axes"),
        ({"dim": [9, 4, 5, 6, 1, 1, 1, 1]}, "9 axes"),
        ({"dim": [2, 4, 30, 1, 1, 1, 1, 1]}, "2 axes.*stack the slices"),
        ({"dim": [5, 4, 5, 2, 1, 3, 1, 1]}, "5 axes.*split it"),
        ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, "at least one voxel"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "at least one voxel"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, r"ends after 592 of \d+ bytes"),
        ({"dim": [7, *[32767] * 7]}, "7 axes"),
        ({"datatype": 0}, "unknown numbers"),
        ({"datatype": 1}, "1-bit"),
        ({"datatype": 32}, "complex"),
        ({"datatype": 128}, "RGB"),
        ({"datatype": 1536}, "128-bit"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
        ({"vox_offset": 1e30}, "vox_offset is 1e"),
        ({"vox_offset": 351}, "multiple of 16"),
        ({"vox_offset": 353}, "multiple of 16"),
        ({"scl_slope": np.nan}, "scl_slope is nan"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "scl_inter inf"),
        ({"scl_slope": 3e38}, "too large for float32"),
        ({"sform_code": 0, "qform_code": 0}, "has no orientation"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "sform has numbers that are not finite"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}, "spacing"),
        (
            {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]},
            "gives two axes the same direction",
        ),
        ({"srow_x": [3e38, 0, 0, 0]}, "spacing"),
        ({"srow_z": [0, 0, 101, 0]}, "at most 100"),
        ({"qoffset_x": -10.2}, r"disagree: position: .*0.2 mm"),
        ({"quatern_b": 0.5}, "disagree"),
        ({"quatern_b": 2}, "not a rotation"),
        ({"quatern_c": np.nan}, "not a rotation"),
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "pixdim"),
        ({"xyzt_units": 1}, "metres"),
        ({"sform_code": 6}, r"sform_code is 6 .* programs disagree"),
        ({"qform_code": -1}, r"qform_code -1.* programs disagree"),
        ({"xyzt_units": 3}, "micrometres"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(file, fields, found):
    path = file(nifti(**({"qform_code": 0} if "srow_x" in fields else {}), **fields))
    with pytest.raises(DataError, match=found) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ";" in str(caught.value)


def test_a_tenth_of_a_degree_between_sform_and_qform_is_too_much(file):
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.radians(0.2)))
    sform = {f"srow_{axis}": turned[row] for row, axis in enumerate("xyz")}
    with pytest.raises(DataError, match=r"0.20 degrees apart"):
        read_header(file(nifti(affine=np.eye(4), **sform)))


@pytest.mark.parametrize(
    ("content", "name", "found"),
    [
        (b"", "a.nii", "is empty"),
        (b"", "a.nii.gz", "has 0 bytes"),
        (b"\0" * 100, "a.nii", "has 100 bytes"),
        (b"<html>not found</html>" * 30, "a.nii", "is text"),
        (nifti()[:-1], "a.nii", "ends after 591 of 592 bytes"),
        (nifti()[:-1], "a.nii.gz", "ends after 591 of 592 bytes"),
        (nifti(version=2)[:400], "a.nii", "its header has 540"),
        (gzip.compress(nifti()), "a.nii", "is compressed; rename"),
        (nifti(), "a.mgz", "FreeSurfer's format; convert it to NIfTI"),
        (nifti(), "a.nrrd", "NRRD"),
        (nifti(), "a.img", "header/image pair"),
        (nifti(), "a.dcm", "DICOM"),
        (nifti(), "a.nii.bz2", "compressed with bzip2"),
        (nifti(), "a.dat", r"\.nii or \.nii\.gz"),
    ],
)
def test_a_file_that_is_something_else_is_named_for_what_it_is(file, content, name, found):
    with pytest.raises(DataError, match=found):
        read_volume(file(content, name))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (nifti(), "is not compressed; rename"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text, perhaps a web page or a pointer"),
        (b"\0\1\2" * 300, "not gzip"),
        (gzip.compress(nifti())[:-9], "too early"),
        (gzip.compress(nifti())[:-1], "too early"),
        (gzip.compress(nifti())[:-8] + bytes(8), "damaged"),
    ],
)
def test_a_compressed_file_that_is_not_whole_is_refused(tmp_path, content, found):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=found):
        read_volume(path)


def test_nothing_but_regular_files_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    for name, found in [
        ("pipe.nii", "not a regular file"),
        ("folder.nii", "is a folder"),
        ("link.nii", "link that leads nowhere"),
        ("loop.nii", "cannot be read"),
        ("gone.nii", "is not there"),
    ]:
        with pytest.raises(DataError, match=found):
            read_volume(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        read_volume("/dev/zero")


def test_a_volume_over_the_cap_is_refused_before_it_is_allocated(file):
    with pytest.raises(DataError, match=r"takes 0\.0 GiB in memory"):
        read_volume(file(nifti()), cap_bytes=400)
    huge = nifti(np.zeros((1, 1, 1), np.uint8), dim=[3, 1024, 1024, 1024, 1, 1, 1, 1])
    with pytest.raises(DataError, match="compressed bytes cannot hold"):
        read_volume(file(huge, "bomb.nii.gz"))


def test_a_stream_that_goes_on_and_on_is_given_up(tmp_path):
    path = tmp_path / "tail.nii.gz"
    path.write_bytes(gzip.compress(nifti() + bytes(80 << 20), 1))
    with pytest.raises(DataError, match="more than 64 MiB after the voxels"):
        read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_placed(file, value):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = value
    with pytest.raises(
        DataError, match=r"1 values are NaN or infinite \(the first at voxel \(1, 2, 3\)\)"
    ):
        read_volume(file(nifti(voxels)))


def test_numbers_that_float32_cannot_hold_are_refused(file):
    with pytest.raises(DataError, match="120 values are too large for float32"):
        read_volume(file(nifti(np.full(SHAPE, 1e300))))
    with pytest.raises(DataError, match="float32 is exact only up to 16777216"):
        read_volume(file(nifti(np.full(SHAPE, 2**24 + 1, np.int64))))


def test_every_bit_flip_in_a_compressed_file_is_seen_or_harmless(tmp_path):
    """More than two thousand of them: each bit of the file of eight voxels, packed and stored."""
    path, flips = tmp_path / "flipped.nii.gz", 0
    few = VOXELS[:2, :2, 2:4]
    for level in (0, 9):
        whole = gzip.compress(nifti(few), level, mtime=0)
        path.write_bytes(whole)
        with path.open("r+b", buffering=0) as file:
            for bit in range(8 * len(whole)):
                place = bit // 8
                os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit % 8]), place)
                flips += 1
                with contextlib.suppress(DataError):
                    voxels, header = read_volume(path)
                    assert np.array_equal(voxels, few)
                    assert np.allclose(header.grid.array, OBLIQUE, atol=1e-5)
                os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert flips > 2000


@given(at=st.integers(0, 347), value=st.integers(0, 255), version=st.sampled_from([1, 2]))
def test_a_header_with_any_byte_changed_is_read_or_refused(tmp_path_factory, at, value, version):
    raw = bytearray(nifti(version=version))
    raw[at] = value
    path = tmp_path_factory.getbasetemp() / "mutant.nii"
    path.write_bytes(raw)
    try:
        voxels, header = read_volume(path)
    except DataError as error:
        named = str(error).startswith(str(path))
    else:
        named = True
        assert np.isfinite(header.grid.array).all()
        assert voxels.shape[:3] == header.grid.shape
    assert named
