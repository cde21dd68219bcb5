"""Why monaiseg keeps its own checkpoints: MONAI's documented recipe does not pass the test that ours must pass.

The recipe: CheckpointSaver writes network, optimiser and trainer; a new process builds the same and CheckpointLoader
reads them before it runs on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from monai.utils import set_determinism

EPOCHS = 3


class Killed(BaseException):
    """Stands for a SIGKILL."""


def trained(folder: Path, *, kill_after: int | None = None, resume: bool = False) -> str:
    """Train as a new process would; the digest of the weights at the end."""
    set_determinism(0)
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8, 8)).astype(np.float32)
    chain = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5)])
    items = [{"image": image, "label": image > 0} for image in images]
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 3, padding=1), torch.nn.Dropout(0.2))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=EPOCHS,
        train_data_loader=DataLoader(Dataset(items, chain), batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=lambda output, label: (output - label.float()).square().mean(),
        decollate=False,
    )
    state = {"network": network, "optimizer": optimizer, "trainer": trainer}
    CheckpointSaver(str(folder), state, save_interval=1, epoch_level=False, n_saved=1).attach(
        trainer
    )
    if resume:
        (newest,) = folder.glob("*.pt")
        CheckpointLoader(str(newest), state).attach(trainer)
    if kill_after is not None:

        def kill() -> None:
            raise Killed

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=kill_after), kill)
    try:
        trainer.run()
    finally:
        set_determinism(None)
    weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def test_the_recipe_repeats_while_nothing_disturbs_it(tmp_path):
    assert trained(tmp_path / "a") == trained(tmp_path / "b")


@pytest.mark.parametrize("step", [2, 3, 5])
def test_monais_recipe_ends_otherwise_after_a_kill(tmp_path, step):
    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill_after=step)

    assert trained(tmp_path / "killed", resume=True) != whole
