"""Voxels that no one has labelled: left out of sampling, loss, mirror images and scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monaiseg.data.labels import LabelTable
from monaiseg.evaluation.metrics import class_counts
from monaiseg.evaluation.scoring import score_case
from monaiseg.networks.losses import build_loss
from monaiseg.settings.loss import LossSettings
from monaiseg.transforms.crop import FindCentresd
from monaiseg.transforms.mirror import RandMirrord

K = 3
KINDS = ("ce", "focal", "dice", "dice_ce", "gdice", "tversky")


@pytest.fixture
def halves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, a whole target, and one whose second half no one has labelled."""
    torch.manual_seed(1)
    logits = torch.randn(2, K, 4, 4, 8)
    target = torch.randint(K, (2, 1, 4, 4, 8))
    ignored = target.clone()
    ignored[..., 4:] = K
    return logits, target, ignored


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_labelled_half(halves, kind):
    logits, target, ignored = halves
    settings = LossSettings(type=kind)
    part = logits[..., :4].clone().requires_grad_()
    whole = logits.clone().requires_grad_()

    wanted = build_loss(settings, K)(part, target[..., :4])
    found = build_loss(settings, K, has_ignored=True)(whole, ignored)
    wanted.backward()
    found.backward()

    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert torch.allclose(whole.grad[..., :4], part.grad, atol=1e-7)
    assert (whole.grad[..., 4:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_no_one_has_labelled_teaches_nothing(halves, kind):
    logits = halves[0].requires_grad_()
    loss = build_loss(LossSettings(type=kind), K, has_ignored=True)(
        logits, torch.full((2, 1, 4, 4, 8), K)
    )
    loss.backward()

    assert torch.isfinite(loss)
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_ignored_voxels_the_loss_is_the_same(halves, kind):
    logits, target, _ = halves
    settings = LossSettings(type=kind)

    assert (
        torch.equal(
            build_loss(settings, K)(logits, target),
            build_loss(settings, K, has_ignored=True)(logits, target),
        )
        or kind == "focal"
    )


@pytest.mark.parametrize(("groups", "wanted"), [(2, [6, 4]), (3, [6, 3, 1])])
def test_patches_are_not_centred_on_ignored_voxels(groups, wanted):
    label = torch.tensor([0] * 6 + [1] * 3 + [2] + [3] * 6, dtype=torch.uint8).view(1, 4, 2, 2)

    item = FindCentresd(groups, ignored=3)({"label": label})

    assert item["group_voxels"].tolist() == wanted
    assert sorted(item["centres"].tolist()) == list(range(10))


def test_ignored_voxels_stay_ignored_in_a_mirror_image():
    label = torch.tensor([1, 2, 3, 0], dtype=torch.uint8).view(1, 4, 1, 1)
    image = torch.zeros(1, 4, 1, 1)

    found = RandMirrord((1.0, 0.0, 0.0), (0, 2, 1))({"image": image, "label": label})

    assert found["label"].flatten().tolist() == [0, 3, 1, 2]


def test_scores_are_those_of_the_labelled_voxels():
    table = LabelTable.from_values([1, 2], ignored_value=9)
    reference = np.array([0, 1, 1, 2, 9, 9]).reshape(6, 1, 1)
    prediction = np.array([0, 1, 2, 2, 1, 2]).reshape(6, 1, 1)

    scores = score_case("S01", reference, prediction, table, (10.0, 10.0, 10.0)).structures

    assert [round(score.dice, 6) for score in scores] == [round(2 / 3, 6), round(2 / 3, 6)]
    assert [score.prediction_ml for score in scores] == [1.0, 2.0]


def test_a_prediction_that_leaves_voxels_unlabelled_says_background_there():
    table = LabelTable.from_values([1], ignored_value=9)
    reference, prediction = np.array([[[1, 1, 0]]]), np.array([[[1, 9, 9]]])

    scores = score_case("S01", reference, prediction, table, (10.0, 10.0, 10.0)).structures

    assert scores[0].recall == 0.5
    assert scores[0].precision == 1.0


def test_counts_leave_ignored_voxels_out():
    counts = class_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), 2)

    assert counts.tolist() == [[1, 1, 1], [1, 1, 1]]
