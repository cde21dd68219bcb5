"""Weight averaging: an exponential moving average that follows the weights."""

from __future__ import annotations

import contextlib

import pytest
import torch
from ignite.engine import Events

from monaiseg.training.handlers.weight_averaging import WeightAveraging
from plain_trainer import plain_trainer, unet


def test_the_average_moves_only_when_the_weights_do():
    network = unet()
    average = WeightAveraging(network, 0.5)
    seen = []
    engine = plain_trainer([average], network, accumulation_steps=3, max_epochs=1)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: seen.append(average.weights["model.0.conv.bias"].tolist()),
    )

    engine.run()

    assert seen[0] == seen[1] != seen[2]
    assert seen[2] != network.state_dict()["model.0.conv.bias"].tolist()


def weight_of(average):
    return average.state_dict()["weight"].item()


def test_the_average_follows_the_weights_slowly_and_at_the_start_quickly():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = WeightAveraging(network, decay=0.5)

    torch.nn.init.ones_(network.weight)
    average.update(1)
    assert weight_of(average) == pytest.approx(1 - 2 / 11)
    average.update(1000)
    assert weight_of(average) == pytest.approx(1 - 2 / 11 / 2)


def test_the_average_is_in_the_network_for_a_block_only():
    convolution = torch.nn.Conv3d(1, 1, 1)
    network = torch.nn.Sequential(convolution, torch.nn.BatchNorm3d(1))
    average = WeightAveraging(network, decay=0.9)
    network(torch.rand(2, 1, 2, 2, 2))
    torch.nn.init.constant_(convolution.weight, 3.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average.update(5)

    with contextlib.suppress(KeyboardInterrupt), average.swapped_in():
        inside = {name: value.clone() for name, value in network.state_dict().items()}
        raise KeyboardInterrupt

    assert all(torch.equal(value, average.weights[name]) for name, value in inside.items())
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_average_goes_on_exactly_from_what_was_saved():
    network = torch.nn.Linear(2, 2)
    steady, broken = WeightAveraging(network, 0.9), WeightAveraging(network, 0.9)
    for step in range(1, 7):
        torch.nn.init.constant_(network.weight, step)
        steady.update(step)
        broken.update(step)
        saved = {name: value.clone() for name, value in broken.weights.items()}
        broken = WeightAveraging(network, 0.9)
        broken.load_state_dict(saved)

    assert torch.equal(steady.weights["weight"], broken.weights["weight"])
