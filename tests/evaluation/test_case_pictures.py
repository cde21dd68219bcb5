"""Pictures of cases: what they show, and where."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import write_image, write_label_map
from monaiseg.evaluation.case_pictures import draw_case, pixels_of, worst_point, write_case_picture

TABLE = LabelTable.from_values([3, 7], {3: "left ball", 7: "right ball"})


def boxes(shift: int = 0) -> np.ndarray:
    """
    z = 2..5:  . 3 3 3 . 7 7 7 .    along x, moved by `shift` voxels
    """
    labels = np.zeros((12, 10, 8), np.int16)
    labels[1 + shift : 4 + shift, 3:7, 2:6] = 3
    labels[6 + shift : 9 + shift, 3:7, 2:6] = 7
    return labels


def test_a_case_is_three_planes_a_row_with_the_names_of_its_labels():
    image = np.random.default_rng(0).normal(size=(12, 10, 8))

    figure = draw_case(image, [("reference", boxes()), ("prediction", boxes(1))], TABLE, (1, 1, 2))

    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == ["sagittal", "coronal", "axial"]
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"left ball", "right ball"}
    letters = [[text.get_text() for text in axes.texts] for axes in figure.axes[:3]]
    assert letters == [["P", "A", "S", "I"], ["L", "R", "S", "I"], ["L", "R", "A", "P"]]


def test_voxels_are_drawn_in_millimetres():
    """8 voxels of 2 mm up, 12 of 1 mm to the right."""
    figure = draw_case(np.ones((12, 10, 8)), [("one", boxes())], TABLE, (1, 1, 2))

    coronal = figure.axes[1]
    assert coronal.get_images()[0].get_extent() == [0, 12, 0, 16]


def test_left_is_drawn_on_the_left():
    labels = np.zeros((12, 10, 8), np.int16)
    labels[:3] = 3  # low x is left in RAS

    figure = draw_case(np.zeros((12, 10, 8)), [("one", labels)], TABLE, (1, 1, 1), point=(1, 5, 4))

    fill = figure.axes[2].get_images()[1].get_array()  # axial: (y, x, RGBA)
    assert fill[5, 1, 3] > 0
    assert fill[5, 11, 3] == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_planes_go_through_the_middle_of_the_largest_error(axis):
    reference = np.zeros((15, 15, 15), np.int16)
    prediction = reference.copy()
    prediction[2:3, 2:3, 2:3] = 3  # a small error
    prediction[6:13, 6:13, 6:13] = 7  # a large one, around (9, 9, 9)

    assert worst_point(reference, prediction)[axis] == 9


def test_without_an_error_the_planes_go_through_the_foreground():
    x, y, z = worst_point(boxes(), boxes())

    assert boxes()[x, y, z] > 0
    assert worst_point(np.zeros((4, 4, 4)), np.zeros((4, 4, 4))) in {(1, 1, 1), (2, 2, 2)}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_case_is_drawn_from_its_files_whatever_their_orientation(tmp_path, suffix):
    grid = Grid.of((12, 10, 8), np.diag([-1.0, 1, 1, 1]))  # LAS
    write_image(tmp_path / "image.nii.gz", np.ones((12, 10, 8)), grid)
    for name, shift in (("reference", 0), ("prediction", 1)):
        write_label_map(tmp_path / f"{name}.nii.gz", boxes(shift), grid)

    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "reference", "prediction")]
    written = write_case_picture(tmp_path / f"case.{suffix}", *paths, TABLE)

    assert written.stat().st_size > 1000


def test_a_picture_has_pixels_for_tensorboard():
    pixels = pixels_of(draw_case(np.ones((12, 10, 8)), [("one", boxes())], TABLE, (1, 1, 1)))

    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
