"""Volumes: every bad file of the catalogue is named, and what is written can be read by anyone."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawings import nifti_bytes
from monaiseg.data.grid import Grid
from monaiseg.data.labels import Label, LabelTable
from monaiseg.data.nifti import file_sha256
from monaiseg.data.volumes import (
    open_image,
    read_header,
    read_label_map,
    read_label_table,
    read_volume,
    write_image,
    write_label_map,
)
from monaiseg.errors import DataError

SHAPE = (4, 5, 6)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1, 1.5, 2.0]), [-10, 20, 30]
)
SHEARED = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
TABLE = LabelTable(
    (
        Label(0, "background"),
        Label(21, "left insula & <co>", (10, 20, 30), 22),
        Label(22, "right Inselcortex ü", (255, 0, 128), 21),
    )
)


def nifti(voxels: Any = VOXELS, affine: Any = OBLIQUE, version: int = 1, **fields: Any) -> bytes:
    return nifti_bytes(voxels, affine, version, **fields)


@pytest.fixture
def file(tmp_path):
    """Writes bytes under a name and gives the path."""

    def write(raw: bytes, name: str = "scan.nii") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


# ---------------------------------------------------------------- what is read


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
        ({"qoffset_x": -10.05}, "sform and qform differ a little"),
    ],
)
def test_what_is_put_up_with_is_noted(file, fields, note):
    voxels, header = read_volume(file(nifti(**fields)))

    assert np.array_equal(voxels, VOXELS)
    assert np.allclose(header.grid.array, OBLIQUE, atol=1e-5)
    assert len(header.notes) == 1
    assert note in header.notes[0]


def test_trailing_bytes_are_noted(file, tmp_path):
    assert read_volume(file(nifti() + b"more"))[1].notes == ("4 bytes follow the voxels; ignored",)
    packed = tmp_path / "after.nii.gz"
    packed.write_bytes(gzip.compress(nifti() + b"abc") + b"junk")
    assert read_volume(packed)[1].notes == ("7 bytes follow the voxels; ignored",)


def test_gzip_of_several_members_is_read(tmp_path):
    raw, path = nifti(), tmp_path / "members.nii.gz"
    path.write_bytes(b"".join(gzip.compress(raw[at : at + 100]) for at in range(0, len(raw), 100)))
    assert np.array_equal(read_volume(path)[0], VOXELS)


def test_a_file_larger_than_a_chunk_is_read_whole(file):
    voxels = np.random.default_rng(0).integers(0, 2000, (96, 96, 100)).astype(np.int16)
    assert np.array_equal(read_volume(file(nifti(voxels), "big.nii.gz"))[0], voxels)
    assert np.array_equal(read_volume(file(nifti(voxels), "big.nii"))[0], voxels)


# ---------------------------------------------------------------- what is refused


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
        ({"sform_code": 0, "qform_code": 0}, "nothing of orientation"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "sform holds numbers that are not finite"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}, "spacing"),
        (
            {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]},
            "on one another",
        ),
        ({"srow_x": [3e38, 0, 0, 0]}, "spacing"),
        ({"srow_z": [0, 0, 101, 0]}, "up to 100"),
        ({"qoffset_x": -10.2}, r"disagree: position: .*0.2 mm"),
        ({"quatern_b": 0.5}, "disagree"),
        ({"quatern_b": 2}, "no rotation"),
        ({"quatern_c": np.nan}, "no rotation"),
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "pixdim"),
        ({"xyzt_units": 1}, "metres"),
        ({"sform_code": 6}, r"sform_code is 6 .* readers differ"),
        ({"qform_code": -1}, r"qform_code -1.* readers differ"),
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
        (nifti(version=2)[:400], "a.nii", "its header 540"),
        (gzip.compress(nifti()), "a.nii", "is gzip; rename"),
        (nifti(), "a.mgz", "FreeSurfer's format; convert it to NIfTI"),
        (nifti(), "a.nrrd", "NRRD"),
        (nifti(), "a.img", "header/image pair"),
        (nifti(), "a.dcm", "DICOM"),
        (nifti(), "a.nii.bz2", "packed otherwise"),
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
    with pytest.raises(DataError, match="float32 is exact up to 16777216"):
        read_volume(file(nifti(np.full(SHAPE, 2**24 + 1, np.int64))))


def test_every_bit_flip_in_a_compressed_file_is_seen_or_harmless(tmp_path):
    """More than two thousand of them: each bit of the file, packed and stored."""
    path, flips = tmp_path / "flipped.nii.gz", 0
    for level in (0, 9):
        whole = gzip.compress(nifti(), level, mtime=0)
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            flips += 1
            try:
                voxels, header = read_volume(path)
            except DataError:
                continue
            assert np.array_equal(voxels, VOXELS)
            assert np.allclose(header.grid.array, OBLIQUE, atol=1e-5)
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


# ---------------------------------------------------------------- label maps


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
def test_a_label_map_is_integers_whatever_its_file_holds(file, dtype):
    values, header = read_label_map(file(nifti((VOXELS % 7 * 30).astype(dtype))))

    assert np.array_equal(values, VOXELS % 7 * 30)
    assert values.dtype.kind in "iu"
    assert values.dtype.itemsize <= 4
    assert header.notes == ()


@pytest.mark.parametrize("more", [{}, {"scl_slope": 1.0, "scl_inter": 4.0}])
def test_large_label_values_stay_apart_whatever_their_file_holds(file, more):
    """Atlases number structures like 312782574; float32 knows every 32nd of those."""
    wanted = 312782574 + VOXELS.astype(np.int64) % 5
    stored = (wanted - more.get("scl_inter", 0)).astype(np.int32 if more else np.float64)

    values, _ = read_label_map(file(nifti(stored, **more)))

    assert np.array_equal(values, wanted)


def test_labels_that_scaling_moved_a_little_are_rounded_and_noted(file):
    values, header = read_label_map(file(nifti((VOXELS % 5).astype(np.int16), scl_slope=0.9999)))

    assert np.array_equal(values, VOXELS % 5)
    assert header.notes[0].startswith("label values rounded")


@pytest.mark.parametrize(
    ("voxels", "found"),
    [
        (VOXELS / 2, r"60 values that are not whole numbers \(0.5, 1.5, 2.5, 3.5, 4.5, ...\)"),
        (VOXELS - 3, r"negative label values \(-3 and more, 3 voxels\)"),
        (np.where(VOXELS == 0, np.nan, 1.0), "NaN"),
        (np.full(SHAPE, 2**31), "2147483648"),
        (np.full(SHAPE, 3e9), "3e\\+09"),
        (np.stack([VOXELS, VOXELS], -1), "2 channels"),
    ],
)
def test_a_label_map_that_is_none_is_refused(file, voxels, found):
    path = file(nifti(voxels))
    with pytest.raises(DataError, match=found) as caught:
        read_label_map(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_image_for_other_readers_has_passed_the_gate(file):
    image = open_image(file(nifti((VOXELS % 5).astype(np.float64))), label_map=True)

    assert np.array_equal(np.asanyarray(image.dataobj), VOXELS % 5)
    assert image.get_data_dtype().kind in "iu"
    assert np.allclose(image.affine, OBLIQUE, atol=1e-5)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize(("sform_code", "qform_code"), [(1, 1), (4, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("version", [1, 2])
def test_a_label_map_lies_on_its_images_grid_with_its_codes(
    file, tmp_path, name, sform_code, qform_code, version
):
    like = file(nifti(version=version, sform_code=sform_code, qform_code=qform_code))
    grid = read_header(like).grid
    values = np.where(VOXELS % 2, 21, 22)

    write_label_map(tmp_path / name, values, grid, like, TABLE)
    read, header = read_label_map(tmp_path / name)
    raw: Any = nib.load(tmp_path / name).header

    assert np.array_equal(read, values)
    assert header.grid == grid
    assert header.dtype == np.uint8
    assert header.notes == ()
    assert (raw["sform_code"], raw["qform_code"]) == (sform_code, qform_code)
    assert raw.get_xyzt_units() == ("mm", "sec")
    assert raw["sizeof_hdr"] == (348 if version == 1 else 540)


def test_no_text_of_the_input_reaches_the_output(file, tmp_path):
    image = nib.Nifti1Image(VOXELS, OBLIQUE)
    image.header["descrip"] = b"Canary, Jane"
    image.header["db_name"] = b"Canary"
    image.header["intent_name"] = b"Canary"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Canary was here"))
    like = file(image.to_bytes())

    write_label_map(tmp_path / "out.nii", VOXELS % 2, read_header(like).grid, like, TABLE)

    assert b"Canary" in like.read_bytes()
    assert b"Canary" not in (tmp_path / "out.nii").read_bytes()


def test_names_colours_and_partners_travel_with_the_label_map(tmp_path):
    path = tmp_path / "out.nii.gz"
    write_label_map(path, np.full(SHAPE, 22), Grid.of(SHAPE, np.eye(4)), table=TABLE)

    assert read_label_table(path) == TABLE
    image: Any = nib.load(path)
    assert image.header.extensions[0].get_code() == 30  # Caret's, which Connectome Workbench reads
    assert image.header.get_intent()[0] == "label"
    assert np.array_equal(np.asanyarray(image.dataobj), np.full(SHAPE, 22))


def test_a_file_without_names_has_no_table(file):
    assert read_label_table(file(nifti())) is None


def test_a_label_table_with_entities_is_refused(file):
    image = nib.Nifti1Image(VOXELS, OBLIQUE)
    lol = b'<!DOCTYPE l [<!ENTITY a "aaaa">]><CaretExtension><Label Key="1">&a;</Label></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", lol))
    with pytest.raises(DataError, match="declares XML entities"):
        read_label_table(file(image.to_bytes()))


@pytest.mark.parametrize(
    ("highest", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.int16), (40_000, np.int32)]
)
def test_label_maps_take_the_smallest_type_that_holds_the_table(tmp_path, highest, dtype):
    table = LabelTable.from_values([highest])
    write_label_map(
        tmp_path / "a.nii", np.zeros(SHAPE, np.int64), Grid.of(SHAPE, np.eye(4)), table=table
    )
    assert read_header(tmp_path / "a.nii").dtype == dtype


def test_equal_label_maps_are_equal_files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, VOXELS, Grid.of(SHAPE, OBLIQUE), table=TABLE)
    assert file_sha256(tmp_path / "a.nii.gz") == file_sha256(tmp_path / "b.nii.gz")
    raw = (tmp_path / "a.nii.gz").read_bytes()
    assert file_sha256(tmp_path / "a.nii.gz") == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("affine", [OBLIQUE, SHEARED])
def test_an_image_comes_back_as_it_was_written(tmp_path, affine):
    grid = Grid.of(SHAPE, affine.astype(np.float32))
    image = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)

    write_image(tmp_path / "a.nii.gz", image, grid)
    voxels, header = read_volume(tmp_path / "a.nii.gz")

    assert np.array_equal(voxels, image)
    assert header.grid == grid
    assert header.num_channels == 2


def test_volumes_are_written_under_names_of_volumes(tmp_path):
    with pytest.raises(DataError, match=r"\.nii or \.nii\.gz"):
        write_label_map(tmp_path / "a.png", VOXELS, Grid.of(SHAPE, OBLIQUE))
    assert not list(tmp_path.iterdir())


def test_a_name_of_255_bytes_is_written_and_read(tmp_path):
    path = tmp_path / ("ü" * 124 + ".nii.gz")
    assert len(path.name.encode()) == 255
    write_label_map(path, VOXELS, Grid.of(SHAPE, OBLIQUE))
    assert np.array_equal(read_label_map(path)[0], VOXELS)
