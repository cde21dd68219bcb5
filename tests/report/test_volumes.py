"""Volumes inside the page."""

from __future__ import annotations

import base64
import gzip

import nibabel as nib
import numpy as np

from monaiseg.data.labels import LabelTable
from monaiseg.evaluation import CaseVolumes
from monaiseg.report.volumes import embedded

TABLE = LabelTable.from_values([40, 700], {40: "left ball", 700: "right ball"})


def case(shape=(20, 18, 16)) -> CaseVolumes:
    """Two boxes; the prediction lacks a part of the first."""
    image = np.random.default_rng(0).normal(size=shape)
    reference = np.zeros(shape, np.int16)
    reference[2:8, 4:12, 4:12], reference[12:18, 4:12, 4:12] = 40, 700
    prediction = reference.copy()
    prediction[2:5] = 0
    affine = np.diag([1.0, 1, 2, 1])
    affine[:3, 3] = [-90, -120, -60]
    return CaseVolumes(image, reference, prediction, affine)


def unpacked(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_label_maps_are_class_indices_in_the_place_of_the_scan():
    found = embedded(case(), TABLE, 10**6)

    volume = unpacked(found.texts["prediction"])
    assert np.array_equal(volume.get_fdata(), TABLE.class_indices(case().prediction))
    assert np.allclose(volume.affine, case().affine)
    assert volume.get_data_dtype() == np.uint8
    assert found.step == 1


def test_places_are_inside_the_error_of_their_structure():
    found = embedded(case(), TABLE, 10**6)

    (place,) = found.places
    assert place.name == "left ball"
    assert place.voxel[0] in (2, 3, 4)
    assert place.ml == 3 * 8 * 8 * 2 / 1000


def test_a_case_that_finds_no_room_is_shown_with_fewer_voxels_or_not_at_all():
    whole = embedded(case((60, 60, 60)), TABLE, 10**7)

    coarse = embedded(case((60, 60, 60)), TABLE, whole.size // 2)

    assert (whole.step, coarse.step) == (1, 2)
    assert coarse.size <= whole.size // 2
    assert unpacked(coarse.texts["image"]).shape == (30, 30, 30)
    assert embedded(case((60, 60, 60)), TABLE, 100) is None
