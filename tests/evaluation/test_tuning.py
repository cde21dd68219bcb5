"""Post-processing is chosen where it helps the validation cases, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.data.cases import Case
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.data.volumes import write_image, write_label_map
from monaiseg.errors import SettingsError
from monaiseg.evaluation.tuning import choose_rules

TABLE = LabelTable.from_values([1, 2], {1: "liver", 2: "lesion"})


class Islands:
    """Predicts the references of its cases, with an island of label 1 or a hole in it, and with lesions as they are."""

    table = TABLE

    def __init__(self, fault):
        self.fault, self.references = fault, {}

    def predict(self, image):
        label_map = self.references[image[0]].copy()
        if self.fault == "island":
            label_map[9, 0, :2] = 1
        if self.fault == "hole":
            label_map[3:5, 3:5, 3:5] = 0
        return label_map

    def case(self, folder, number):
        label_map = np.zeros((10, 10, 10), np.uint8)
        label_map[1:8, 1:8, 1:8] = 1
        label_map[9, 9, [0, 4, 8]] = 2  # three lesions of one voxel
        image, label = folder / f"{number}.nii", folder / f"{number}_label.nii"
        write_image(image, label_map.astype(np.float32), phantom_grid(label_map.shape))
        write_label_map(label, label_map, phantom_grid(label_map.shape))
        self.references[image] = label_map
        return Case(str(number), (image,), label)


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("island", lambda rule: rule.least_mm3 > 2 or rule.keep_largest),
        ("hole", lambda rule: rule.fill_holes),
    ],
)
def test_the_rule_that_mends_the_fault_is_chosen_and_lesions_stay(fault, remedy, tmp_path):
    predictor = Islands(fault)
    cases = [predictor.case(tmp_path, number) for number in range(3)]

    (chosen,) = choose_rules(predictor, cases)

    assert chosen.rule.value == 1
    assert remedy(chosen.rule)
    assert chosen.dice_before < chosen.dice_after == 1


def test_nothing_is_chosen_where_nothing_helps(tmp_path):
    predictor = Islands("none")
    cases = [predictor.case(tmp_path, number) for number in range(3)]

    assert choose_rules(predictor, cases) == []


def test_one_case_is_too_few(tmp_path):
    predictor = Islands("island")

    with pytest.raises(SettingsError, match="at least 2 validation cases, and there are 1"):
        choose_rules(predictor, [predictor.case(tmp_path, 0)])
