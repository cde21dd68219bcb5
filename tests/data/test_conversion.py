"""Files whose headers say nothing of orientation, accepted for a whole set by one option."""

from __future__ import annotations

import numpy as np
import pytest

from drawings import LABEL, SHAPE, nifti_bytes, write_case
from monaiseg.data.data_tasks import read_data_task
from monaiseg.data.volumes import read_header, read_label_map, read_volume
from monaiseg.errors import DataError, SettingsError
from monaiseg.preparation import prepare

UNSAID = {"sform_code": 0, "qform_code": 0, "pixdim": [1, 0.5, 0.6, 2, 0, 0, 0, 0]}


@pytest.fixture
def unsaid(tmp_path):
    """Three cases, two of which say nothing of orientation."""
    for n in range(2):
        voxels = np.random.default_rng(n).integers(0, 900, SHAPE, np.int16)
        for kind, values in (("images", voxels), ("labels", LABEL)):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"in/{kind}/s{n}.nii").write_bytes(nifti_bytes(values, **UNSAID))
    write_case(tmp_path / "in/images/s2.nii.gz", tmp_path / "in/labels/s2.nii.gz")
    return tmp_path / "in"


def test_without_the_option_such_files_are_refused_and_it_is_named(unsaid, tmp_path):
    with pytest.raises(DataError, match=r"2 of 3 cases(?s:.*)prepare --assume-orientation"):
        prepare(unsaid, tmp_path / "out", "t")


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASL"])
def test_the_option_says_what_their_axes_run_to(unsaid, tmp_path, orientation):
    before = {path: path.read_bytes() for path in unsaid.rglob("*") if path.is_file()}

    task = prepare(unsaid, tmp_path / "out", "t", assume_orientation=orientation)

    assert {path: path.read_bytes() for path in before} == before
    assert read_data_task(task.folder) == task
    cases = {case.id: case for split in ("train", "val", "test") for case in task.cases[split]}
    assert task.facts["s0"].orientation == orientation
    assert task.facts["s0"].spacing == pytest.approx((0.5, 0.6, 2))
    assert np.array_equal(read_label_map(cases["s0"].label)[0], LABEL)
    wanted = read_volume(unsaid / "images/s0.nii", orientation="RAS")[0]
    assert np.array_equal(read_volume(cases["s0"].images[0])[0], wanted)
    assert cases["s2"].images[0] == unsaid / "images/s2.nii.gz"
    assert any("2 of 3 cases have no orientation" in note for note in task.notes)


def test_the_middle_of_such_a_volume_is_the_origin(unsaid):
    grid = read_header(unsaid / "images/s0.nii", orientation="LAS").grid

    assert grid.orientation == "LAS"
    middle = grid.array @ [*((np.array(SHAPE) - 1) / 2), 1]
    assert np.allclose(middle, [0, 0, 0, 1])


@pytest.mark.parametrize("orientation", ["RAR", "RA", "XYZ", "RASR", ""])
def test_letters_that_are_no_orientation_are_refused(unsaid, tmp_path, orientation):
    with pytest.raises(SettingsError, match="is not an orientation"):
        prepare(unsaid, tmp_path / "out", "t", assume_orientation=orientation)


def test_files_without_voxel_size_are_still_refused(unsaid, tmp_path):
    (unsaid / "images/s0.nii").write_bytes(
        nifti_bytes(LABEL, **UNSAID | {"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]})
    )

    with pytest.raises(DataError, match="case 's0': .*pixdim is"):
        prepare(unsaid, tmp_path / "out", "t", assume_orientation="RAS")
