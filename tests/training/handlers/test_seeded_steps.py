"""Seeded steps: a plain trainer with MONAI's loader draws what its seed says, whatever was drawn before."""

from __future__ import annotations

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
