"""Smaller steps: after the memory of a GPU ran out in a run, the largest step that fits, found by trying."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from monai.engines.trainer import SupervisedTrainer

from monaiseg.data import Shape, shape_in_words
from monaiseg.errors import SettingsError, causes, counted
from monaiseg.networks import plan_topology
from monaiseg.training.recipe import Recipe
from monaiseg.training.run_folder import RunFolder

SHORTEST = 16
"""Smallest size of a patch along an axis, in voxels."""

Step = tuple[int, Shape]
"""Number of patches and their shape."""


def way_on(
    error: BaseException, trainer: SupervisedTrainer, recipe: Recipe, folder: RunFolder
) -> str:
    """What to do after memory ran out: the largest step that fits, and the command that goes on with it.

    Call it where nothing else refers to the tensors of the step; those of the engine and of the error are dropped.
    """
    _drop(error, trainer)
    batch, shape = recipe.settings.batch_size, recipe.settings.patch_shape
    for number, patch in smaller_steps(recipe):
        if not _fits(trainer, recipe, number, patch):
            continue
        changes = [f"tsk_set.batch_size from {batch} to {number}"] * (number < batch)
        changes += [f"dataset.seg.patch_size from {list(shape)} to {list(patch)}"] * (
            patch != shape
        )
        return (
            f"a step with {counted(number, 'patch') if number == 1 else f'{number} patches'} of {shape_in_words(patch)} voxels "
            f"fits, as has just been tried. Nothing is lost: in {folder.settings_file} change {' and '.join(changes)}, and go on "
            f"with `monaiseg train {folder.path} --resume --accept-inexact`"
        )
    return (
        "not even the smallest step of this network fits, as has just been tried; end other programs that use this GPU, or "
        "let `monaiseg plan` choose a smaller network"
    )


def smaller_steps(recipe: Recipe) -> Iterator[Step]:
    """Steps for the same network, each smaller than the one before: first fewer patches, then smaller ones.

    The longest axis of the patch is shortened in turn, as far as the stages of the network stay the same.
    """
    settings = recipe.settings
    batch, shape = settings.batch_size, settings.patch_shape
    yield from ((number, shape) for number in range(batch - 1, 0, -1))
    network = settings.tsk_set.network
    topology = plan_topology(network, shape, recipe.spacing)
    sizes = list(shape)
    while True:
        grains = [max(stride, 8) for stride in topology.total_stride]
        able = [axis for axis in range(3) if sizes[axis] - grains[axis] >= SHORTEST]
        if not able:
            return
        longest = max(able, key=lambda axis: sizes[axis])
        sizes[longest] -= grains[longest]
        x, y, z = sizes
        try:
            is_same = plan_topology(network, (x, y, z), recipe.spacing) == topology
        except SettingsError:
            continue
        if is_same:
            yield 1, (x, y, z)


def _fits(trainer: SupervisedTrainer, recipe: Recipe, batch: int, shape: Shape) -> bool:
    """Whether the device holds a forward and a backward pass of such a step beside what the run has there."""
    network, device = trainer.network, recipe.device
    weights = list(network.parameters())
    try:
        # Until the first step is done, the optimiser has none of the two moments that it will keep.
        moments = [] if trainer.optimizer.state else [torch.empty_like(w) for w in weights * 2]
        inputs, target, *more = trainer.prepare_batch(
            _random_batch(recipe, batch, shape), device, non_blocking=False
        )
        options: dict[str, Any] = more[1] if more else {}
        with torch.autocast(device.type, enabled=trainer.amp):
            loss = trainer.loss_function(network(inputs, **options), target)
        loss.backward()
        del moments
    except torch.OutOfMemoryError:
        return False
    finally:
        network.zero_grad(set_to_none=True)
    return True


def _random_batch(recipe: Recipe, batch: int, shape: Shape) -> dict[str, Any]:
    settings = recipe.settings
    made: dict[str, Any] = {
        "image": torch.randn(batch, settings.dataset.num_channels, *shape),
        "label": torch.zeros(batch, 1, *shape, dtype=torch.uint8),
        "case_id": [""] * batch,
    }
    if settings.tsk_set.network.atlas:
        made["positions"] = torch.zeros(batch, 3, *shape)
    return made


def _drop(error: BaseException, trainer: SupervisedTrainer) -> None:
    """Let go of the tensors of the step that failed: those of the engine, and of the functions that were left."""
    state: Any = trainer.state
    state.output = state.batch = None
    for cause in causes(error):
        traceback.clear_frames(cause.__traceback__)
    trainer.network.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
