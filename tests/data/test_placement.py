"""Placement: a label map over a part of its image goes to its own voxels, and nothing else is placed."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawings import GRID, LABEL, SHAPE, write_case
from monaiseg.data.facts import examine_cases
from monaiseg.data.grid import Grid
from monaiseg.data.masks import MaskedCase, merge_order, merged_masks, structure_voxels
from monaiseg.data.placement import Placement
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, 0.5) @ np.diag([0.8, 1.0, 2.0]), [5, -7, 11]
)
TURNS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
BOX = (slice(1, 3), slice(1, 4), slice(2, 5))


def cut(values, grid, box, turn=TURNS[0]):
    """The part of a label map in a box, and its grid, with the axes of another file."""
    part = values[box]
    affine = grid.array @ nib.affines.from_matvec(np.eye(3), [side.start for side in box])
    turned = nib.orientations.apply_orientation(part, turn)
    return turned, Grid.of(turned.shape, affine @ nib.orientations.inv_ornt_aff(turn, part.shape))


sides = [
    st.integers(0, size - 1).flatmap(
        lambda start, size=size: st.integers(start + 1, size).map(lambda end: slice(start, end))
    )
    for size in (7, 6, 5)
]


@given(
    box=st.tuples(*sides), turn=st.sampled_from(TURNS), affine=st.sampled_from([np.eye(4), OBLIQUE])
)
def test_any_part_of_an_image_in_any_axis_order_returns_to_its_voxels(box, turn, affine):
    grid = Grid.of((7, 6, 5), affine)
    values = np.arange(1, 211, dtype=np.uint8).reshape(grid.shape)
    expected = np.zeros_like(values)
    expected[box] = values[box]
    part, there = cut(values, grid, box, turn)

    placement = Placement.of(there, grid)

    assert placement is not None
    assert np.array_equal(placement.apply(part), expected)


@pytest.mark.parametrize(
    ("move", "scale"),
    [((0.5, 0, 0), 1), ((0, 0.11, 0), 1), ((-2, 0, 0), 1), ((0, 3, 0), 1), ((0, 0, 0), 1.1)],
    ids=[
        "half a voxel",
        "more than a tenth",
        "out at the start",
        "out at the end",
        "larger voxels",
    ],
)
def test_a_part_that_is_not_on_the_voxels_of_its_image_is_not_placed(move, scale):
    grid = Grid.of((5, 5, 5), np.eye(4))
    affine = nib.affines.from_matvec(np.eye(3) * scale, np.add((1, 1, 1), move))

    assert Placement.of(Grid.of((3, 3, 3), affine), grid) is None


def test_a_label_map_larger_than_its_image_is_refused(tmp_path):
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    larger = Grid.of((SHAPE[0] + 1, *SHAPE[1:]), GRID.array)
    write_label_map(tmp_path / "label.nii.gz", np.ones(larger.shape, np.uint8), larger)

    with pytest.raises(DataError, match="lie on different grids: shape"):
        examine_cases([case])


def test_a_part_is_examined_as_the_whole_with_a_note(tmp_path):
    """Slicer writes the box around the segments; the voxels outside of it are background."""
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    label = np.zeros_like(LABEL)
    label[1:3, 1:3, 2:4] = 4
    write_label_map(tmp_path / "label.nii.gz", label, GRID)
    whole = examine_cases([case])["image"]
    part, there = cut(label, GRID, (slice(1, 3), slice(1, 3), slice(2, 4)))
    write_label_map(tmp_path / "label.nii.gz", part, there)

    found = examine_cases([case])["image"]

    assert found.label_voxels == whole.label_voxels == {0: LABEL.size - 8, 4: 8}
    assert found.intensity == whole.intensity
    assert [note for _, note in found.notes] == [
        "covers only a part of its image, on the image's voxels; the rest is taken as background"
    ]


def test_a_part_trains_and_is_scored_where_it_lies(tmp_path, settings):
    from monaiseg.data.labels import LabelTable
    from monaiseg.evaluation.scoring import evaluate
    from monaiseg.transforms import CaseChain, case_item, load_chain

    table = LabelTable.from_values([1, 4])
    label = np.zeros_like(LABEL)
    label[1:3, 1:4, 2:5] = 4
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    write_label_map(tmp_path / "label.nii.gz", label, GRID)
    chain = CaseChain(load_chain(settings, table))
    plain = chain(case_item(case))["label"].numpy()
    part, there = cut(label, GRID, BOX, TURNS[17])
    write_label_map(tmp_path / "label.nii.gz", part, there)

    class Right:
        def __init__(self) -> None:
            self.table = table

        def predict(self, _image):
            return label

    assert np.array_equal(chain(case_item(case))["label"].numpy(), plain)
    scores = evaluate(Right(), [case])
    assert scores.mean_dice == 1.0
    assert any("covers only a part of its image" in note for note in scores.notes)


def test_a_mask_over_a_part_becomes_a_label_of_the_whole(tmp_path):
    case = write_case(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    part, there = cut(np.ones(SHAPE, np.uint8), GRID, BOX)
    write_label_map(tmp_path / "liver.nii.gz", part, there)
    masked = MaskedCase("a", case.images, {"liver": tmp_path / "liver.nii.gz"})

    label, grid, _ = merged_masks(masked, merge_order([structure_voxels(masked)], {}, "smaller"))

    assert grid.difference(GRID) is None
    assert label.sum() == part.size
    assert label[BOX].all()


def test_a_part_is_read_without_its_image_as_it_is(tmp_path):
    part, there = cut(LABEL, GRID, BOX)
    write_label_map(tmp_path / "label.nii.gz", part, there)

    assert np.array_equal(read_label_map(tmp_path / "label.nii.gz")[0], part)
