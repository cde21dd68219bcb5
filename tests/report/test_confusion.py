"""Confusion between labels by volumes that can be counted."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import write_label_map
from monaiseg.report.confusion import confusion_of

TABLE = LabelTable.from_values([3, 7], {3: "ball", 7: "box"})
GRID = Grid.of((4, 1, 1), np.diag([10.0, 10, 10, 1]))  # a voxel is 1 ml


def pair(folder, name, reference, prediction):
    paths = folder / f"{name}.nii.gz", folder / f"{name}_pred.nii.gz"
    for path, row in zip(paths, (reference, prediction), strict=True):
        write_label_map(path, np.array(row, np.uint8).reshape(4, 1, 1), GRID)
    return paths


def test_volumes_are_per_case_and_shares_of_the_reference(tmp_path):
    pairs = {
        "a": pair(tmp_path, "a", [3, 3, 7, 0], [3, 7, 7, 0]),
        "b": pair(tmp_path, "b", [3, 3, 7, 0], [3, 3, 0, 0]),
    }

    found = confusion_of(pairs, TABLE)

    assert found.ml == pytest.approx(np.array([[1, 0, 0], [0, 1.5, 0.5], [0.5, 0, 0.5]]))
    (between,) = found.largest(5, with_background=False)
    assert (between.reference, between.prediction) == ("ball", "box")
    assert (between.ml, between.share) == pytest.approx((0.5, 0.25))
    assert len(found.largest(5, with_background=True)) == 2
    assert found.share_with_background == pytest.approx(0.5)


def test_ignored_voxels_are_left_out_and_unlisted_values_are_background(tmp_path):
    table = LabelTable.from_values([3], {3: "ball"}, ignored_value=9)
    pairs = {"a": pair(tmp_path, "a", [3, 9, 9, 0], [3, 3, 0, 5])}

    assert confusion_of(pairs, table).ml == pytest.approx(np.eye(2))
