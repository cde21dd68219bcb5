"""Losses against MONAI's, which build the one-hot that ours do not."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from torch.nn import functional as F

from monaiseg.errors import SettingsError
from monaiseg.networks import losses
from monaiseg.networks.losses import build_loss
from monaiseg.settings.loss import LossSettings

K = 4
OPTIONS = {"to_onehot_y": True, "softmax": True}


def example(seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(2, K, 6, 5, 4, requires_grad=True)
    return logits, torch.randint(0, K - 1, (2, 1, 6, 5, 4), dtype=torch.uint8)  # class 3 is absent


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize(
    ("kind", "oracle", "batch_dice"),
    [
        ("dice", DiceLoss, True),
        ("dice", DiceLoss, False),
        ("dice_ce", DiceCELoss, True),
        ("dice_ce", DiceCELoss, False),
        ("tversky", TverskyLoss, True),
        ("tversky", TverskyLoss, False),
        ("gdice", GeneralizedDiceLoss, True),
        ("gdice", GeneralizedDiceLoss, False),
    ],
)
def test_overlap_losses_and_their_gradients_are_monais(
    kind, oracle, batch_dice, include_background
):
    logits, target = example()
    settings = LossSettings(type=kind, batch_dice=batch_dice, include_background=include_background)
    loss = build_loss(settings, K)(logits, target)
    (ours,) = torch.autograd.grad(loss, logits)
    expected = oracle(**OPTIONS, batch=batch_dice, include_background=include_background)(
        logits, target
    )
    (theirs,) = torch.autograd.grad(expected, logits)

    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_generalised_dice_weighs_each_class_by_its_inverse_squared_volume():
    logits, target = example()
    settings = LossSettings(type="gdice", include_background=True)
    p, y = logits.softmax(1), F.one_hot(target[:, 0].long(), K).movedim(-1, 1)
    both, predicted, referenced = ((t.sum(dim=(0, 2, 3, 4))) for t in (p * y, p, y.float()))
    weights = 1 / referenced**2
    weights[3] = weights[:3].max()  # absent
    expected = 1 - 2 * (both * weights).sum() / ((predicted + referenced) * weights).sum()

    assert build_loss(settings, K)(logits, target).item() == pytest.approx(
        expected.item(), abs=1e-4
    )


def test_focal_loss_is_monais_per_voxel():
    logits, target = example()
    options = {"to_onehot_y": True, "use_softmax": True, "gamma": 2.0}
    oracle = FocalLoss(**options)(logits, target) * K  # MONAI's mean is over classes too

    assert torch.allclose(
        build_loss(LossSettings(type="focal"), K)(logits, target), oracle, atol=1e-5
    )


def test_focal_loss_gives_easy_voxels_less_weight_than_cross_entropy_does():
    target = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)
    easy, hard = (
        torch.tensor([m, 0.0]).view(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2) for m in (4.0, -4.0)
    )
    focal, ce = (build_loss(LossSettings(type=kind), 2) for kind in ("focal", "ce"))

    assert focal(easy, target) / focal(hard, target) < ce(easy, target) / ce(hard, target)


def test_cross_entropy_without_background_looks_at_foreground_voxels_alone():
    logits, target = example()
    settings = LossSettings.model_validate({"type": "ce", "ce": {"include_background": False}})
    inside = (target[:, 0] > 0).flatten()
    rows = logits.movedim(1, -1).reshape(-1, K)[inside]
    expected = F.cross_entropy(rows, target.flatten()[inside].long())

    assert torch.allclose(build_loss(settings, K)(logits, target), expected, atol=1e-6)


def test_class_weights_count():
    logits, target = example()
    settings = LossSettings.model_validate(
        {"type": "ce", "ce": {"class_weight": (1.0, 2.0, 3.0, 4.0)}}
    )
    expected = F.cross_entropy(
        logits, target[:, 0].long(), weight=torch.tensor([1.0, 2.0, 3.0, 4.0])
    )

    assert torch.allclose(build_loss(settings, K)(logits, target), expected, atol=1e-6)


def test_coarser_outputs_weigh_half_as_much_and_see_every_second_voxel():
    torch.manual_seed(0)
    fine, coarse = torch.randn(1, K, 4, 4, 4), torch.randn(1, K, 2, 2, 2)
    target = torch.randint(0, K, (1, 1, 4, 4, 4))
    loss = build_loss(LossSettings(), K)
    expected = (2 * loss(fine, target) + loss(coarse, target[:, :, ::2, ::2, ::2])) / 3

    assert torch.allclose(loss([fine, coarse], target), expected)


@pytest.mark.parametrize("kind", ["dice_ce", "focal", "gdice", "tversky"])
@pytest.mark.parametrize("classes", [3, 20])
def test_memory_layout_changes_neither_loss_nor_gradient(kind, classes):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 4, 5, 6)
    target = torch.randint(0, classes, (2, 1, 4, 5, 6))
    loss, results = build_loss(LossSettings(type=kind), classes), []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        leaf = logits.clone(memory_format=layout).requires_grad_()
        loss(leaf, target).backward()
        results.append((loss(leaf, target).detach(), leaf.grad))

    for first, second in zip(*results, strict=True):
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_where_the_network_is_certain(gamma):
    target = torch.tensor([0, 1]).view(1, 1, 2, 1, 1)
    logits = torch.tensor([[500.0, 500.0], [-500.0, -500.0]]).view(1, 2, 2, 1, 1).requires_grad_()
    for kind in ("dice_ce", "focal", "gdice", "tversky"):
        loss = build_loss(LossSettings(type=kind, focal_gamma=gamma), 2)(logits, target)
        (gradient,) = torch.autograd.grad(loss, logits)

        assert gradient.isfinite().all()


def test_one_map_of_all_classes_is_kept_for_the_backward_pass():
    logits, target = example()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: sizes.append(saved.numel()) or saved, lambda saved: saved
    ):
        build_loss(LossSettings(), K)(logits, target)

    assert sum(size >= logits.numel() for size in sizes) == 1


def test_a_class_weight_too_few_is_refused_with_the_right_number():
    settings = LossSettings.model_validate({"type": "ce", "ce": {"class_weight": (1.0, 2.0, 3.0)}})

    with pytest.raises(SettingsError, match="3 weights for 4 classes"):
        build_loss(settings, K)


def test_a_patch_without_foreground_costs_no_cross_entropy_where_background_is_left_out():
    settings = LossSettings.model_validate({"type": "ce", "ce": {"include_background": False}})
    logits, _ = example()

    loss = build_loss(settings, K)(logits, torch.zeros(2, 1, 6, 5, 4, dtype=torch.uint8))

    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_a_perfect_prediction_costs_nothing():
    target = torch.randint(0, K, (1, 1, 4, 4, 4))
    logits = 60.0 * F.one_hot(target[:, 0], K).movedim(-1, 1).float()

    assert build_loss(LossSettings(include_background=True), K)(logits, target) < 1e-4


@pytest.mark.parametrize("at_once", [7, 1000])
def test_sums_in_a_fixed_order_are_the_sums_by_class(monkeypatch, at_once):
    """On a GPU classes are summed by products of matrices; here they are compared with the CPU's way."""
    monkeypatch.setattr(losses, "VOXELS_AT_ONCE", at_once)
    torch.manual_seed(0)
    values, classes = torch.randn(2, 120), torch.randint(K, (2, 120))

    ours = losses._class_sums_in_order(values, classes, K + 1)

    assert torch.allclose(ours, losses._class_sums(values, classes, K + 1), atol=1e-12)
    assert ours.dtype == torch.float64


def test_each_value_has_the_gradient_of_the_sum_of_its_class():
    values, classes = torch.randn(1, 6, requires_grad=True), torch.tensor([[0, 2, 1, 1, 2, 0]])
    wanted = torch.tensor([[10.0, 20.0, 30.0]])

    sums, counts = losses._sums_by_class(values, classes, 3)
    (sums * wanted).sum().backward()

    assert counts.tolist() == [[2, 2, 2]]
    assert values.grad.tolist() == [[10, 30, 20, 20, 30, 10]]
