"""Gradient clipping: no step is longer than the norm allows."""

from __future__ import annotations

import pytest
import torch

from monaiseg.training.handlers.gradient_clipping import GradientClipping
from plain_trainer import plain_trainer, unet


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_gradient_that_changes_the_weights_is_no_longer_than_its_norm(accumulated):
    network = unet()
    engine = plain_trainer(
        [GradientClipping(0.01)],
        network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        accumulation_steps=accumulated,
        max_epochs=1,
    )

    engine.run()

    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert norm == pytest.approx(0.01, rel=1e-3)
