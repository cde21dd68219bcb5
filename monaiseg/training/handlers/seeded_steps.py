"""Seeded steps: everything random follows from a seed and the step, not from what was drawn before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

from monaiseg.training.sampling import derive


class SeededSteps:
    """Seeds dropout before each step and the loader before each epoch, so that a resumed run draws the same.

    `monai.utils.set_determinism` seeds once, at the start: what is drawn after a resume is then something else.
    A loader whose sampler has an `epoch`, as monaiseg's and torch's `DistributedSampler`, is told its number; of any
    other the order and MONAI's transforms are seeded (in the main process: `num_workers=0`).

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed before every epoch and every step."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._seed_step)

    def _seed_epoch(self, engine: Any) -> None:
        sampler: Any = getattr(engine.data_loader, "sampler", None)
        if hasattr(sampler, "epoch"):
            sampler.epoch = engine.state.epoch
            return
        seed = derive(self.seed, "epoch", engine.state.epoch)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  transforms that are not MONAI's may draw from it
        _seed_torch(seed, engine.state.device)
        set_rnd(getattr(engine.data_loader, "dataset", None), seed=seed % 2**32)

    def _seed_step(self, engine: Any) -> None:
        _seed_torch(derive(self.seed, "step", engine.state.iteration), engine.state.device)


def _seed_torch(seed: int, device: torch.device) -> None:
    """Of the devices that compute; `torch.manual_seed` asks all kinds of them, which takes 1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
