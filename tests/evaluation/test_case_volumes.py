"""Volumes of a case for pictures and viewers."""

from __future__ import annotations

import numpy as np

from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import write_image, write_label_map
from monaiseg.evaluation.case_volumes import read_case

TABLE = LabelTable.from_values([3], {3: "ball"}, ignored_value=9)


def written(folder, image_grid):
    """A ball at x = 5 in RAS, in label maps that are stored from right to left."""
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[5, 4:6, 3:5] = 3
    labels[0, 0, 0] = 9
    grid = Grid.of(
        (12, 10, 8), np.array([[-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    for name in ("reference", "prediction"):
        write_label_map(folder / f"{name}.nii.gz", labels[::-1].copy(), grid)
    write_image(folder / "image.nii.gz", np.ones(image_grid.shape), image_grid)
    return [folder / f"{name}.nii.gz" for name in ("image", "reference", "prediction")]


def test_all_volumes_are_turned_to_ras_whatever_their_axes(tmp_path):
    turned = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # z, y, x
    case = read_case(*written(tmp_path, Grid.of((8, 10, 12), turned)), TABLE)

    assert case.image.shape == case.reference.shape == (12, 10, 8)
    assert np.argwhere(case.reference == 3)[0].tolist() == [5, 4, 3]
    assert np.allclose(case.affine, np.eye(4))


def test_unlabelled_voxels_are_no_label(tmp_path):
    case = read_case(*written(tmp_path, Grid.of((12, 10, 8), np.eye(4))), TABLE)

    assert set(np.unique(case.reference)) == {0, 3}


def test_a_crop_keeps_the_place_of_its_voxels(tmp_path):
    case = read_case(*written(tmp_path, Grid.of((12, 10, 8), np.eye(4))), TABLE)

    part = case.cropped(2)

    assert part.reference.shape == (5, 6, 6)
    corner = np.argwhere(part.reference == 3)[0]
    assert (part.affine @ [*corner, 1])[:3].tolist() == [5, 4, 3]


def test_a_case_without_an_image_has_black_voxels(tmp_path):
    _, reference, prediction = written(tmp_path, Grid.of((12, 10, 8), np.eye(4)))

    assert not read_case(None, reference, prediction, TABLE).image.any()
