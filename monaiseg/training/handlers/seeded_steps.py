"""Seeded steps: everything random depends on a seed and the step, not on earlier draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

from monaiseg.training.sampling import derive


class SeededSteps:
    """Seeds dropout before each step and the loader before each epoch, so that a resumed run draws the same numbers.

    `monai.utils.set_determinism` seeds once at the start, so a resumed run would draw other numbers. If the loader's
    sampler has an `epoch`, as monaiseg's sampler and torch's `DistributedSampler` do, it is set to the epoch's number.
    For any other loader, the order and MONAI's transforms are seeded (in the main process: `num_workers=0`).

    Args:
        seed: seed of the run.
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
        np.random.seed(seed % 2**32)  # noqa: NPY002  for transforms other than MONAI's
        _seed_torch(seed, engine.state.device)
        set_rnd(getattr(engine.data_loader, "dataset", None), seed=seed % 2**32)

    def _seed_step(self, engine: Any) -> None:
        _seed_torch(derive(self.seed, "step", engine.state.iteration), engine.state.device)


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed the devices in use. `torch.manual_seed` goes through all kinds of devices, which takes 1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
