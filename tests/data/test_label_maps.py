"""Label maps: whole numbers whatever their file holds, written with names, colours and codes."""

from __future__ import annotations

import hashlib
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monaiseg.data.grid import Grid
from monaiseg.data.labels import Label, LabelTable
from monaiseg.data.nifti import file_sha256
from monaiseg.data.volumes import (
    read_header,
    read_label_map,
    read_label_table,
    write_label_map,
)
from monaiseg.errors import DataError
from scans import OBLIQUE, SHAPE, VOXELS, nifti

TABLE = LabelTable(
    (
        Label(0, "background"),
        Label(21, "left insula & <co>", (10, 20, 30), 22),
        Label(22, "right Inselcortex ü", (255, 0, 128), 21),
    )
)


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
    assert header.notes[0].startswith("label values were rounded")


@pytest.mark.parametrize(
    ("voxels", "found"),
    [
        (VOXELS / 2, r"60 values that are not whole numbers \(0.5, 1.5, 2.5, 3.5, 4.5, ...\)"),
        (VOXELS - 3, r"negative label values \(from -3, in 3 voxels\)"),
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


def test_volumes_are_written_under_names_of_volumes(tmp_path):
    with pytest.raises(DataError, match=r"\.nii or \.nii\.gz"):
        write_label_map(tmp_path / "a.png", VOXELS, Grid.of(SHAPE, OBLIQUE))
    assert not list(tmp_path.iterdir())
