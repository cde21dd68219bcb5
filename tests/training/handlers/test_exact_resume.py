"""Exact resume: MONAI's own trainer, network, loss and loader, killed anywhere, end with the same weights."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.losses import DiceCELoss

from monaiseg.training.checkpoint import newest
from monaiseg.training.handlers.exact_resume import ExactResume
from monaiseg.training.handlers.seeded_steps import SeededSteps
from monaiseg.training.state import restored
from plain_trainer import bits, plain_trainer, unet


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


def trained(folder, *, kill_at=None, accumulated=1, amp=False):
    """The weights after two epochs of three steps; it goes on where `folder` holds a checkpoint."""
    folder.mkdir(exist_ok=True)
    network = unet()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    state = restored(newest(folder) if any(folder.iterdir()) else None, network, optimizer)
    handlers = [SeededSteps(0), ExactResume(folder, state, every_steps=1)]
    options = {"optimizer": optimizer, "accumulation_steps": accumulated, "amp": amp}
    if amp:  # a loss so high that its gradients overflow with the first scale
        loss = DiceCELoss(to_onehot_y=True, softmax=True)
        options["loss_function"] = lambda *given: 16 * loss(*given)
    engine = plain_trainer(handlers, network, **options)

    def kill():
        if engine.state.iteration == kill_at:
            raise Killed

    engine.add_event_handler(Events.ITERATION_COMPLETED, kill)
    engine.run()
    return bits(network)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("kill_at", range(1, 7))
def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path, kill_at, accumulated):
    whole = trained(tmp_path / "whole", accumulated=accumulated)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill_at=kill_at, accumulated=accumulated)

    assert trained(tmp_path / "killed", accumulated=accumulated) == whole


def test_a_run_that_is_complete_is_left_alone(tmp_path):
    whole = trained(tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}

    assert trained(tmp_path / "run") == whole
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}


def test_a_run_that_is_told_to_end_goes_on_from_there(tmp_path):
    folder, network = tmp_path, unet()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    resume = ExactResume(folder, restored(None, network, optimizer))
    engine = plain_trainer([SeededSteps(0), resume], network, optimizer=optimizer)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), engine.terminate)

    engine.run()

    assert newest(folder).step == 2
    assert trained(folder) == trained(tmp_path / "whole")


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_the_scale_of_float16_gradients_goes_on_from_the_checkpoint(tmp_path, monkeypatch, kill_at):
    """The scale starts so high that the first steps are skipped: if it started anew, more would be."""

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**127)

    monkeypatch.setattr("torch.cuda.amp.GradScaler", scaler)
    whole = trained(tmp_path / "whole", amp=True)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill_at=kill_at, amp=True)

    assert newest(tmp_path / "killed").scaler["scale"] < 2.0**127
    assert trained(tmp_path / "killed", amp=True) == whole
    assert whole != trained(tmp_path / "without")
