"""Learning rate: what its settings say, at every step."""

from __future__ import annotations

import itertools

import pytest
import torch
from ignite.engine import Events

from monaiseg.settings.optimisation import OptimSettings
from monaiseg.training.handlers.learning_rate import LearningRate
from plain_trainer import plain_trainer, unet


def test_a_plain_trainers_optimiser_gets_the_rate_of_each_step():
    network = unet()
    optimizer = torch.optim.SGD(network.parameters(), lr=9.0)
    settings = OptimSettings.model_validate({"lr": 1.0, "lr_scheduler": {"type": "cosine"}})
    rate = LearningRate(optimizer, settings, steps_per_epoch=3, epochs=2, warmup_epochs=0)
    seen = []
    engine = plain_trainer([rate], network, optimizer=optimizer)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append(optimizer.param_groups[0]["lr"])
    )

    engine.run()

    assert seen == [rate.at(step) for step in range(1, 7)]
    assert seen[0] == 1.0 > seen[-1]


def rate(kind: str, **schedule: object) -> LearningRate:
    settings = OptimSettings.model_validate({"lr": 1.0, "lr_scheduler": {"type": kind, **schedule}})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return LearningRate(optimizer, settings, steps_per_epoch=10, epochs=10, warmup_epochs=2)


def test_the_warm_up_rises_from_a_tenth_and_ends():
    schedule = rate("constant")

    assert schedule.at(1) == pytest.approx(0.1)
    assert schedule.at(11) == pytest.approx(0.55)
    assert [schedule.at(step) for step in (21, 50, 100)] == [1.0, 1.0, 1.0]


def test_step_falls_at_its_epochs():
    schedule = rate("step", step={"step_size": 3, "gamma": 0.5})

    assert [schedule.at(10 * epoch + 1) for epoch in (2, 3, 5, 6)] == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_poly_and_cosine_fall_from_the_full_rate_to_nothing(kind):
    schedule = rate(kind)
    values = [schedule.at(step) for step in range(21, 101)]

    assert values[0] == pytest.approx(1.0)
    assert values[-1] < 0.03
    assert all(a > b for a, b in itertools.pairwise(values))


def test_plateau_falls_when_dice_stops_rising_and_not_before():
    schedule = rate("plateau", plateau={"patience": 1, "factor": 0.5, "min_lr": 0.3})
    seen = []
    for dice in (0.1, 0.5, 0.8, 0.8, 0.8, 0.9, 0.9, 0.9):
        schedule.validated(dice)
        seen.append(schedule.at(50))

    assert seen == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.3]
