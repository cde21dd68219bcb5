"""Seeded steps: a plain trainer with MONAI's loader draws what its seed says, whatever was drawn before."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from monaiseg.training.handlers.seeded_steps import SeededSteps
from plain_trainer import bits, plain_trainer, unet


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    def trained(seed: int) -> list[bytes]:
        network = unet()
        engine = plain_trainer([SeededSteps(seed)], network)
        torch.manual_seed(torch.seed())  # what was drawn before is not the same
        engine.run()
        return bits(network)

    assert trained(1) == trained(1) != trained(2)


def test_a_gpu_draws_by_the_step_too(monkeypatch):
    """Its random state is set before each step, so that no checkpoint has to hold it."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)

    for step in (1, 2, 1):
        state = SimpleNamespace(iteration=step, device=torch.device("cuda:0"))
        SeededSteps(0)._seed_step(SimpleNamespace(state=state))

    assert seeds[0] == seeds[2] != seeds[1]
