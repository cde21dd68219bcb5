"""Dice over whole cases, as a metric of MONAI's evaluator."""

from __future__ import annotations

import math

import pytest
import torch
from monai.engines.evaluator import SupervisedEvaluator

from monaiseg.training.handlers.dice import DiceOfLabels


def validated(*cases):
    """MONAI's evaluator over cases of (reference, prediction), each four voxels; its network predicts its image."""
    batches = [
        {
            "image": torch.tensor(prediction).view(1, 1, 2, 2, 1),
            "label": torch.tensor(reference).view(1, 1, 2, 2, 1),
        }
        for reference, prediction in cases
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=torch.nn.Identity(),
        key_val_metric={"dice": DiceOfLabels(4)},
        decollate=False,
    )
    evaluator.run()
    return evaluator


def test_dice_is_the_mean_over_labels_of_their_means_over_cases():
    """Label 1: one of its two voxels found, then both; label 2: missed, then absent; label 3: absent in both."""
    evaluator = validated(([1, 1, 2, 0], [1, 0, 0, 0]), ([1, 1, 0, 0], [1, 1, 0, 0]))

    first, second, third = evaluator.state.metric_details["dice"]
    assert first == pytest.approx((2 / 3 + 1) / 2)
    assert second == 0
    assert math.isnan(third)
    assert evaluator.state.metrics["dice"] == pytest.approx((5 / 6 + 0) / 2)


def test_a_second_validation_starts_from_no_case():
    evaluator = validated(([1, 1, 1, 1], [1, 1, 0, 0]))
    assert evaluator.state.metrics["dice"] == pytest.approx(2 / 3)

    evaluator.data_loader[0]["image"].fill_(1)
    evaluator.run()

    assert evaluator.state.metrics["dice"] == 1
