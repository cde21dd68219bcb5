"""Smaller steps: after memory ran out, the message names the largest step that fits and how to go on."""

from __future__ import annotations

import math
import re
import shlex

import pytest
import torch
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.errors import OutOfMemoryError, SettingsError
from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.networks.topology import plan_topology
from monaiseg.settings.reading import changed, load_settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training.recipe import Recipe
from monaiseg.training.run import train
from monaiseg.training.smaller_steps import smaller_steps


@pytest.fixture
def large(settings):
    """Three patches of 32 x 32 x 24 a step, for few steps."""
    return changed(
        settings,
        {
            "dataset.seg.patch_size": [32, 32, 24],
            "tsk_set.batch_size": 3,
            "tsk_set.epochs": 2,
            "tsk_set.max_batch_num_per_epoch": [3, -1, 0],
            "tsk_set.checkpoint_period": 1,
        },
    )


def small_gpu(monkeypatch, voxels, after=0):
    """The network runs out of memory, as on a GPU, with more voxels than this, from some forward pass on."""
    forward, passes = ResidualUNet.forward, []

    def limited(self, image, **options):
        passes.extend([image.shape] * (not image.is_meta))  # where shapes alone are looked at
        too_large = not image.is_meta and image[:, 0].numel() > voxels
        if self.training and len(passes) > after and too_large:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return forward(self, image, **options)

    monkeypatch.setattr(ResidualUNet, "forward", limited)
    return passes


def run(settings, task):
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name="large",
    )


@pytest.mark.parametrize(
    ("fits", "wanted"),
    [
        (2 * 32 * 32 * 24, "tsk_set.batch_size from 3 to 2,"),
        (32 * 32 * 24, "tsk_set.batch_size from 3 to 1,"),
        (32 * 32 * 24 - 1, "tsk_set.batch_size from 3 to 1 and dataset.seg.patch_size from [32, 32, 24] to [24, 32, 24],"),
    ],
)  # fmt: skip
def test_the_largest_step_that_fits_is_named(large, data_task, monkeypatch, fits, wanted):
    small_gpu(monkeypatch, fits)

    with pytest.raises(OutOfMemoryError, match=re.escape(f"change {wanted}")) as raised:
        run(large, data_task)

    assert str(raised.value).startswith("step 1, cases ")


def test_the_command_of_the_message_goes_on_from_the_last_checkpoint(large, data_task, monkeypatch):
    with monkeypatch.context() as patched:
        small_gpu(patched, 32 * 32 * 24, after=4)  # in the second epoch
        with pytest.raises(OutOfMemoryError) as raised:
            run(large, data_task)
    (command,) = re.findall("`monaiseg (.*)`", str(raised.value))
    file = data_task.folder / "large" / "cur_task_setting.json"
    assert str(file) in str(raised.value)
    file.write_text(dump_settings(changed(load_settings(file), {"tsk_set.batch_size": 1})))

    resumed = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)

    assert resumed.exit_code == 0, resumed.output
    assert "best mean Dice" in resumed.output


def test_a_network_of_which_no_step_fits_is_said_so(large, data_task, monkeypatch):
    small_gpu(monkeypatch, 0)

    with pytest.raises(OutOfMemoryError, match="not even the smallest step of this network fits"):
        run(large, data_task)


def test_smaller_steps_are_smaller_and_for_the_same_network(large, data_task):
    recipe = Recipe.of(large, data_task, torch.device("cpu"))
    network = large.tsk_set.network
    topology = plan_topology(network, large.patch_shape, recipe.spacing)

    steps = list(smaller_steps(recipe))

    voxels = [batch * math.prod(shape) for batch, shape in steps]
    assert voxels == sorted(set(voxels), reverse=True)
    assert all(plan_topology(network, shape, recipe.spacing) == topology for _, shape in steps)
    assert steps[:2] == [(2, (32, 32, 24)), (1, (32, 32, 24))]


def test_an_operation_without_an_exact_variant_is_named(large, data_task, monkeypatch):
    said = "foo_backward_cuda does not have a deterministic implementation, but you set ..."

    forward = ResidualUNet.forward

    def refused(self, image, **options):
        if image.is_meta:
            return forward(self, image, **options)
        raise RuntimeError(said)

    monkeypatch.setattr(ResidualUNet, "forward", refused)

    with pytest.raises(SettingsError, match="variant of foo_backward_cuda.*deterministic to false"):
        run(large, data_task)
