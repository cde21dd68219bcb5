"""Scores against MONAI's Dice, a brute force, and a table of empty cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from torch.nn import functional as F

from monaiseg.data.labels import LabelTable
from monaiseg.evaluation.metrics import (
    class_counts,
    dice_from_counts,
    mean_over_cases,
)

TABLE = LabelTable.from_values([21, 22])


def maps(seed, size=4):
    rng = np.random.default_rng(seed)
    return rng.choice([0, 21, 22], size=(2, size, size, size))


def test_dice_is_monais():
    torch.manual_seed(0)
    reference, prediction = torch.randint(0, 4, (2, 5, 6, 7))
    hot = [F.one_hot(m, 4).movedim(-1, 0)[None] for m in (prediction, reference)]

    ours = dice_from_counts(class_counts(prediction, reference, 4))

    assert torch.allclose(ours.float(), compute_dice(*hot, include_background=True)[0])


def test_counts_hold_for_any_pair_of_integer_types():
    reference, prediction = torch.tensor([0, 200, 200, 299]), torch.tensor([0, 200, 299, 299])

    counts = class_counts(prediction.to(torch.int16), reference, 300)

    assert counts.sum(dim=0).tolist() == [3, 4, 4]
    assert counts[200].tolist() == [1, 1, 2]
    assert counts[299].tolist() == [1, 2, 1]


def test_missing_a_structure_lowers_the_mean_and_never_raises_it():
    found = torch.tensor([[1.0, 0.4, 0.8], [1.0, 0.6, 0.8]])
    missed = found.clone()
    missed[0, 1] = 0.0

    assert mean_over_cases(missed)[0] < mean_over_cases(found)[0]


def test_a_structure_that_a_case_lacks_is_left_out_of_its_mean():
    mean, labels = mean_over_cases(torch.tensor([[1.0, float("nan"), 0.5], [1.0, 0.9, 0.7]]))

    assert labels == pytest.approx([0.9, 0.6])
    assert mean == pytest.approx(0.75)
