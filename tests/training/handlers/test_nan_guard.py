"""NaN guard: a loss that is no number stops a run before it reaches the weights."""

from __future__ import annotations

import math

import pytest
import torch

from monaiseg.errors import NumericsError
from monaiseg.training.handlers.nan_guard import NanGuard
from plain_trainer import one_weight, plain_trainer, unet


def test_the_weights_stay_when_the_loss_is_no_number():
    network = unet()
    before = [value.clone() for value in network.parameters()]
    engine = plain_trainer(
        [NanGuard()], network, loss_function=lambda out, _: out.mean() * math.nan
    )

    with pytest.raises(NumericsError, match="step 1: the loss is nan"):
        engine.run()

    assert all(map(torch.equal, network.parameters(), before))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_before_the_weights_change(tmp_path, value):
    (tmp_path / "step-000000001.json").touch()
    factors = iter([1.0, value])
    engine = one_weight(
        loss=lambda pred, label: (pred - label).abs().mean() * next(factors), lr=0.25
    )
    NanGuard(tmp_path).attach(engine)

    with pytest.raises(
        NumericsError,
        match=rf"step 2: the loss is {value} on cases S02 at learning rate 0.25; .*step-000000001\.safetensors is not affected",
    ):
        engine.run()
    assert engine.network.weight.item() == 0.25


def test_without_a_commit_the_message_says_so(tmp_path):
    engine = one_weight(loss=lambda pred, label: (pred - label).sum() * math.nan)
    NanGuard(tmp_path).attach(engine)

    with pytest.raises(NumericsError, match="nothing has been saved yet"):
        engine.run()
