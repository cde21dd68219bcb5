"""What a GPU computes: the CPU's label maps, networks that learn, the same bits each time, and less memory if need be.

`pytest -m gpu tests/gpu` runs them on the first GPU. MONAISEG_GPU_TESTS_ON=cpu tries the tests themselves without one.
"""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events

from bundles import run_workflow
from monaiseg.bundle import pack_bundle
from monaiseg.errors import MonaisegWarning, OutOfMemoryError
from monaiseg.networks import losses
from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.planning.planner import plan
from monaiseg.prediction import Predictor
from monaiseg.settings.planning import PlanningSettings
from monaiseg.settings.reading import changed
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.devices import choose_device
from monaiseg.training.run import train

WHERE = os.environ.get("MONAISEG_GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        WHERE == "cuda" and not torch.cuda.is_available(), reason="torch sees no GPU"
    ),
]
GPU_ID = -1 if WHERE == "cpu" else 0


@pytest.fixture
def gpu() -> torch.device:
    return choose_device(GPU_ID)


@pytest.fixture
def everything_random(settings):
    """Dropout, augmentation, averaging and float16: all that a resumed run has to draw or restore."""
    return changed(
        settings,
        {
            "tsk_set.gpu_id": GPU_ID,
            "tsk_set.epochs": 3,
            "tsk_set.num_workers": 1,
            "tsk_set.checkpoint_steps": 1,
            "tsk_set.weight_averaging": 0.9,
            "tsk_set.network.dropout": 0.1,
            "dataset.seg.augmentation.enabled": True,
        },
    )


def run(settings, task, name, **options):
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name=name,
        show_progress=False,
        **options,
    )


def tensors(folder) -> dict[str, torch.Tensor]:
    saved = checkpoints.newest(folder)
    moments = {
        f"{number}/{name}": value
        for number, entry in saved.optimizer["state"].items()
        for name, value in entry.items()
    }
    return {**saved.network, **{f"averaged/{k}": v for k, v in saved.averaged.items()}, **moments}


def unequal(a, b) -> list[str]:
    return [key for key in a.keys() | b.keys() if not torch.equal(a[key], b[key])]


def exhaust(device: torch.device) -> None:
    """Ask for more memory than there is: 64 TiB. A CPU's lack of memory has another type."""
    if device.type == "cpu":
        raise torch.OutOfMemoryError("out of memory")
    torch.empty(1 << 46, dtype=torch.uint8, device=device)


def test_label_maps_of_cpu_and_gpu_agree(trained, phantom):
    agreeing = []
    for seed in range(3):
        scan = phantom((40, 36, 32), label_values=(1, 4), seed=seed, case_id=f"s{seed}").image
        here, there = (
            Predictor(trained.run_folder, device=device).predict(scan)
            for device in ("cpu", choose_device(GPU_ID))
        )
        agreeing.append(np.mean(here == there))

    assert min(agreeing) >= 0.9999


@pytest.mark.parametrize("variant", ["standard", "folded"])
def test_a_network_learns_phantoms(settings, data_task, variant):
    changes = {
        "tsk_set.gpu_id": GPU_ID,
        "tsk_set.network.variant": variant,
        "tsk_set.network.num_stages": 2,
        "dataset.seg.patch_size": [32, 32, 32],
        "tsk_set.optim.lr": 0.03,
        "tsk_set.epochs": 30,
        "tsk_set.max_batch_num_per_epoch": [6, -1, 0],
        "tsk_set.val_period": 30,
    }

    result = run(changed(settings, changes), data_task, variant)

    assert result.best.value > 0.8


def test_two_equal_runs_have_equal_bits(everything_random, data_task):
    for name in ("one", "two"):
        run(everything_random, data_task, name)

    assert unequal(*(tensors(data_task.folder / name) for name in ("one", "two"))) == []


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_a_killed_and_resumed_run_has_the_bits_of_an_undisturbed_one(
    everything_random, data_task, monkeypatch, step
):
    run(everything_random, data_task, "whole")

    def kill(engine):
        if engine.state.iteration == step:
            raise Killed

    from monaiseg.training import run as module

    build = module.build_training

    def deadly(*args, **options):
        trainer, state = build(*args, **options)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, kill)
        return trainer, state

    with monkeypatch.context() as patched:
        patched.setattr(module, "build_training", deadly)
        with pytest.raises(Killed):
            run(everything_random, data_task, "killed")
    run(everything_random, data_task, "killed", resume=True)

    assert unequal(*(tensors(data_task.folder / name) for name in ("whole", "killed"))) == []


@pytest.mark.parametrize("kind", ["dice", "dice_ce", "focal", "tversky", "gdice", "ce"])
def test_losses_and_gradients_are_those_of_the_cpu_and_repeat_exactly(gpu, kind):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 24, 20, 16), torch.randint(5, (2, 1, 24, 20, 16))
    loss = losses.build_loss(losses.LossSettings(type=kind), 5)

    def value_and_gradient(device):
        inputs = logits.to(device).requires_grad_()
        value = loss.to(device)(inputs, target.to(device))
        value.backward()
        return value.detach().cpu(), inputs.grad.cpu()

    here, there, again = (value_and_gradient(place) for place in ("cpu", gpu, gpu))

    assert torch.allclose(here[0], there[0], atol=1e-5)
    assert torch.allclose(here[1], there[1], atol=1e-7, rtol=1e-3)
    assert torch.equal(there[1], again[1])


def test_a_plan_for_this_gpu_trains_on_it_within_its_minutes(data_task, tmp_path):
    rules = PlanningSettings(least_steps=1)
    place = {"output_root_path": data_task.folder.parent, "data_task_name": data_task.folder.name}

    planned, measured = plan(**place, minutes=0.5, device=GPU_ID, memory_gb=8, rules=rules)
    result = run(planned.settings, data_task, "planned")

    assert measured.device == WHERE
    assert planned.settings.tsk_set.gpu_id == GPU_ID
    assert result.seconds < 40


def test_memory_that_runs_out_in_a_prediction_takes_another_way(trained, phantom, gpu, monkeypatch):
    """The network refuses two windows at a time."""
    scan = phantom((40, 40, 32), label_values=(1, 4)).image
    usual = Predictor(trained.run_folder, device=gpu).predict(scan)
    features = ResidualUNet.features

    def limited(self, windows):
        if len(windows) > 1:
            exhaust(gpu)
        return features(self, windows)

    monkeypatch.setattr(ResidualUNet, "features", limited)

    with pytest.warns(MonaisegWarning, match="ran out; predicting with one window at a time"):
        assert np.mean(Predictor(trained.run_folder, device=gpu).predict(scan) == usual) > 0.9999


def test_memory_that_runs_out_in_a_step_names_the_largest_that_fits(
    settings, data_task, gpu, monkeypatch
):
    forward = ResidualUNet.forward

    def limited(self, image, **options):
        if self.training and len(image) > 2:
            exhaust(gpu)
        return forward(self, image, **options)

    monkeypatch.setattr(ResidualUNet, "forward", limited)
    large = changed(settings, {"tsk_set.batch_size": 4, "tsk_set.gpu_id": GPU_ID})

    with pytest.raises(OutOfMemoryError, match="batch_size from 4 to 2, and go on with"):
        run(large, data_task, "large")


def test_a_bundle_predicts_on_the_gpu(trained, phantom, gpu, tmp_path):
    scan = phantom(label_values=(1, 4), folder=tmp_path / "scans").image
    bundle = pack_bundle(trained.run_folder, tmp_path / "bundle")

    run_workflow(
        bundle,
        "inference",
        dataset_dir=str(scan.parent),
        output_dir=str(tmp_path / "out"),
        device=str(gpu),
    )

    (label_map,) = (tmp_path / "out").rglob("*_pred.nii.gz")
    direct = Predictor(trained.run_folder, device=gpu).predict(scan)
    assert np.mean(np.asarray(nib.load(label_map).dataobj) == direct) > 0.9999
