"""What common writers store: scaling that is not set, decimals under a header for integers, axes in another order."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from drawings import GRID, LABEL, SHAPE, nifti_bytes, write_case
from monaiseg.data.cases import Case
from monaiseg.data.facts import examine_cases
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import read_label_map, read_volume, write_label_map
from monaiseg.errors import DataError

NAN = float("nan")
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, 0.5) @ np.diag([0.8, 1.0, 2.0]), [5, -7, 11]
)
TURNS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def stored(tmp_path, voxels, **fields):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(voxels, **fields))
    return tmp_path / "a.nii"


def test_slope_and_intercept_that_are_not_numbers_mean_no_scaling(tmp_path):
    path = stored(tmp_path, LABEL, scl_slope=NAN, scl_inter=NAN)

    assert np.array_equal(read_label_map(path)[0], LABEL)
    assert np.array_equal(read_volume(path)[0], np.asarray(nib.load(path).dataobj))
    assert read_label_map(path)[1].notes == ()


@pytest.mark.parametrize(
    "fields", [{"scl_slope": NAN, "scl_inter": 3}, {"scl_slope": 1, "scl_inter": NAN}]
)
def test_one_that_is_not_a_number_is_refused(tmp_path, fields):
    with pytest.raises(DataError, match="finite"):
        read_label_map(stored(tmp_path, LABEL, **fields))


@pytest.mark.parametrize(
    ("slope", "numbers"), [(2 / 255, (0, 127, 255)), (2 / 255, (0, 128, 255)), (1 / 256, (0, 255))]
)
def test_labels_saved_as_decimals_under_a_header_for_integers_are_rounded_and_noted(
    tmp_path, slope, numbers
):
    voxels = np.array(numbers, np.uint8)[LABEL // 2 % len(numbers)]
    voxels[0, 0, :2] = numbers[1]

    values, header = read_label_map(stored(tmp_path, voxels, scl_slope=slope))

    assert sorted(np.unique(values)) == list(range(np.unique(voxels).size)) or set(
        np.unique(values)
    ) <= {0, 1, 2}
    assert values[0, 0, 0] == 1
    assert header.notes[0].startswith("label values were rounded by up to 0.0039")


def test_what_nibabel_saves_of_decimals_under_a_header_for_integers_is_read(tmp_path):
    image = nib.Nifti1Image((LABEL // 2).astype(np.float32) + (LABEL == 1), np.eye(4))
    image.set_data_dtype(np.uint8)
    nib.save(image, tmp_path / "a.nii")

    assert np.array_equal(read_label_map(tmp_path / "a.nii")[0], LABEL // 2 + (LABEL == 1))


def test_an_image_in_steps_is_no_label_map(tmp_path):
    voxels = np.arange(60, dtype=np.uint8).reshape(SHAPE)

    with pytest.raises(DataError, match=r"whole numbers in steps of 0.2; save it again"):
        read_label_map(stored(tmp_path, voxels, scl_slope=0.2))
    with pytest.raises(DataError, match=r"whole numbers in steps of 0.81"):
        read_label_map(stored(tmp_path, LABEL, scl_slope=0.81))


@pytest.mark.parametrize("affine", [GRID.array, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("turn", TURNS)
def test_label_axes_in_another_order_over_the_same_voxels_are_read_in_the_images(
    tmp_path, turn, affine
):
    grid = Grid.of(SHAPE, affine)
    values = np.arange(60).reshape(SHAPE)
    turned = nib.orientations.apply_orientation(values, turn)
    there = Grid.of(turned.shape, affine @ nib.orientations.inv_ornt_aff(turn, SHAPE))
    write_label_map(tmp_path / "label.nii", turned, there)

    found, header = read_label_map(tmp_path / "label.nii", like=grid)

    assert np.array_equal(found, values)
    assert header.grid == grid or there.difference(grid) is None
    assert len(header.notes) == (there.difference(grid) is not None)


def test_a_mirrored_label_map_is_examined_with_a_note(tmp_path):
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    plain = examine_cases([case])["image"]
    turn = np.array([[0, -1], [1, -1], [2, 1]])
    mirrored = GRID.array @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    write_label_map(
        tmp_path / "label.nii.gz",
        nib.orientations.apply_orientation(LABEL, turn),
        Grid.of(SHAPE, mirrored),
    )

    found = examine_cases([case])["image"]

    assert found.intensity == plain.intensity
    assert [note for _, note in found.notes] == [
        "its orientation is LPS and that of its image RAS; it is read in the orientation of the image"
    ]


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([-1, 1, 2, 1]),  # mirrored about the corner, not the middle
        np.diag([1, 1, 2.1, 1]),
        nib.affines.from_matvec(np.diag([1, 1, 2]), [1, 0, 0]),
    ],
)
def test_a_label_map_over_other_voxels_is_refused(tmp_path, affine):
    write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    write_label_map(tmp_path / "label.nii.gz", LABEL, Grid.of(SHAPE, affine))

    with pytest.raises(DataError, match="lie on different grids"):
        examine_cases([Case("a", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz")])


def test_a_label_map_in_another_order_trains_and_is_scored_as_its_image_lies(tmp_path, settings):
    from monaiseg.data.labels import LabelTable
    from monaiseg.evaluation.scoring import evaluate
    from monaiseg.transforms import CaseChain, case_item, load_chain

    table = LabelTable.from_values([1, 4])
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    plain = CaseChain(load_chain(settings, table))(case_item(case))["label"].numpy()
    turn = np.array([[1, 1], [2, -1], [0, -1]])
    turned = nib.orientations.apply_orientation(LABEL, turn)
    grid = Grid.of(turned.shape, GRID.array @ nib.orientations.inv_ornt_aff(turn, SHAPE))
    write_label_map(tmp_path / "label.nii.gz", turned, grid)

    assert np.array_equal(
        CaseChain(load_chain(settings, table))(case_item(case))["label"].numpy(), plain
    )

    class Right:
        def __init__(self) -> None:
            self.table = table

        def predict(self, _image):
            return LABEL

    assert evaluate(Right(), [case]).mean_dice == 1.0
