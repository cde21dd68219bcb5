"""Grids: what counts as the same place."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from monaiseg.data.cases import Case
from monaiseg.data.facts import examine_cases
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import read_header
from monaiseg.errors import DataError


def shifted(spacing: float, voxels: float) -> tuple[Grid, Grid]:
    affine = np.diag([spacing, spacing, 2 * spacing, 1])
    moved = affine.copy()
    moved[0, 3] = voxels * spacing
    return Grid.of((8, 8, 8), affine), Grid.of((8, 8, 8), moved)


@pytest.mark.parametrize("spacing", [0.0025, 0.15, 0.9])
def test_a_tenth_of_a_voxel_is_the_most_that_grids_of_small_voxels_may_differ(spacing):
    one, other = shifted(spacing, 0.09)
    assert one.difference(other) is None
    one, other = shifted(spacing, 0.12)
    assert "position" in str(one.difference(other))


def test_a_tenth_of_a_millimetre_is_the_most_that_grids_of_large_voxels_may_differ():
    one, other = shifted(4.0, 0.02)
    assert one.difference(other) is None
    one, other = shifted(4.0, 0.03)
    assert "0.12 mm (0.03 voxels) apart" in str(one.difference(other))


def test_the_smaller_voxel_of_two_grids_decides():
    coarse, fine = (
        Grid.of((2, 2, 2), np.diag([1, 1, 1, 1])),
        Grid.of((2, 2, 2), np.diag([0.95, 1, 1, 1])),
    )
    assert coarse.difference(fine) == fine.difference(coarse) is None
    fine = Grid.of((2, 2, 2), np.diag([0.9, 1, 1, 1]))
    assert "spacing" in str(coarse.difference(fine))
    assert "spacing" in str(fine.difference(coarse))


def test_spacings_of_micrometres_are_shown_in_digits_that_differ():
    one = Grid.of((80, 8, 8), np.diag([0.0025, 0.0025, 0.0025, 1]))
    other = Grid.of((80, 8, 8), np.diag([0.00252, 0.0025, 0.0025, 1]))
    assert one.difference(other) == "spacing (0.0025, 0.0025, 0.0025) and (0.00252, 0.0025, 0.0025)"


def test_a_label_map_six_small_voxels_away_is_refused(tmp_path):
    voxels = np.zeros((8, 8, 8), np.uint8)
    voxels[2:5, 2:5, 2:5] = 1
    affine = np.diag([0.0025, 0.0025, 0.0025, 1])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "image.nii")
    affine[0, 3] = 6 * 0.0025
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "label.nii")
    with pytest.raises(DataError, match="6 voxels"):
        examine_cases([Case("a", (tmp_path / "image.nii",), tmp_path / "label.nii")])


def test_sform_and_qform_may_differ_by_a_tenth_of_a_small_voxel_at_most(tmp_path):
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([0.01, 0.01, 0.01, 1]))
    affine = np.diag([0.01, 0.01, 0.01, 1])
    affine[1, 3] = 0.02
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="sform and qform disagree"):
        read_header(tmp_path / "a.nii")


@pytest.mark.parametrize("degrees", [0, 90, 179.99, 180])
def test_a_quaternions_rounding_is_no_difference(tmp_path, degrees):
    """The fourth number of a quaternion near half a turn is a root of what rounding leaves."""
    turn = nib.eulerangles.euler2mat(0.001, 0.002, np.radians(degrees))
    image = nib.Nifti1Image(
        np.zeros((900, 1, 900), np.uint8), nib.affines.from_matvec(turn * 0.002, [1, 2, 3])
    )
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nib.save(image, tmp_path / "a.nii")

    assert read_header(tmp_path / "a.nii").notes == ()
