"""Needs: the memory that a run takes, estimated from shapes before its first step.

The system often kills a process that takes too much memory, without a word. What cannot work is therefore refused in
advance, with the name of the case, its need and what helps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from monaiseg.data import Grid, Shape, shape_in_words
from monaiseg.errors import OutOfMemoryError, listed
from monaiseg.machine import free_memory, gigabytes, reading_threads
from monaiseg.networks import network_of
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.devices import computes_in_bfloat16, free_bytes
from monaiseg.training.recipe import Recipe
from monaiseg.transforms import CERTAIN, preparing_bytes, target_shape

BYTES_PER_WEIGHT = 16
"""A weight, its gradient and the two moments of Adam in float32."""


def preparing_threads(grids: Iterable[Grid], settings: Settings) -> int:
    """Number of cases that may be prepared at the same time within half of the free memory; at least one."""
    largest = max((preparing_bytes(grid, settings) for grid in grids), default=0)
    room = _free_bytes() // 2 // max(largest, 1)
    return max(min(reading_threads(), room), 1)


def check_needs(recipe: Recipe) -> None:
    """Check that memory suffices for the largest cases and for a step.

    Raises:
        OutOfMemoryError: it does not; the message names every case that is too large, or the step, with what it needs.
    """
    check_cases(recipe)
    check_step(recipe)


def check_cases(recipe: Recipe) -> None:
    """Raise OutOfMemoryError if cases take more memory than is free; the message names each with its need."""
    free, settings = _free_bytes(), recipe.reading
    problems = []
    for case in dict.fromkeys(
        case for split in ("train", "val", "debug") for case in recipe.cases(split)
    ):
        grid = recipe.task.facts[case.id].grid
        need = preparing_bytes(grid, settings)
        if CERTAIN * need > free:
            size = f"{shape_in_words(grid.along_ras[0])} voxels, {shape_in_words(target_shape(grid, settings))} for the network"
            problems.append(
                f"case {case.id!r}: takes about {gigabytes(need)} of memory to prepare ({size})"
            )
    if problems:
        raise OutOfMemoryError(
            f"{listed(problems)}\n{gigabytes(free)} are free: crop these scans or leave them out, set dataset.spacing to "
            "larger voxels, or use a computer with more memory. Nothing was trained"
        )


def check_step(recipe: Recipe) -> None:
    """Raise OutOfMemoryError if a training step takes more memory than its device has free."""
    settings, device = recipe.settings, recipe.device
    batch = settings.batch_size // recipe.num_ranks
    shape, whose = settings.patch_shape, ""
    if settings.dataset.seg.use_whole_img_as_input:
        shape, whose = _largest_image(recipe)
    with torch.device("meta"):
        network = network_of(settings, recipe.table, recipe.spacing)
    weights = BYTES_PER_WEIGHT * sum(weight.numel() for weight in network.parameters())
    patch = features_bytes(
        network, (settings.network_channels, *shape), settings.tsk_set.loss.voxels
    )
    if settings.tsk_set.amp and (device.type == "cuda" or computes_in_bfloat16(device)):
        patch //= 2
    free = free_bytes(device) if device.type == "cuda" else _free_bytes()
    need = weights + batch * patch
    if need > free:
        raise OutOfMemoryError(
            f"a step with {batch} patch{'es' * (batch > 1)} of {shape_in_words(shape)} voxels{whose} takes at least {gigabytes(need)} of memory on "
            f"{device}, and {gigabytes(free)} are free; {_smaller(settings, (free - weights) / patch)}, or let "
            "`monaiseg plan` choose for this computer. Nothing was trained"
        )


def features_bytes(network: nn.Module, shape: tuple[int, ...], voxels: int | None = None) -> int:
    """Memory of the features that a forward pass of one image (C, X, Y, Z) keeps for the backward pass.

    Args:
        network: the network on torch's meta device, where nothing is computed.
        shape: channels and voxels of the image.
        voxels: number of voxels that the loss is computed at; None for all.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    image = torch.empty(1, *shape, device="meta")
    some = {}
    if voxels is not None:
        count = max(voxels // math.prod(getattr(network, "block", (1, 1, 1))), 1)
        some["places"] = torch.empty(1, count, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(image, **some)
    return max(sum(storage.nbytes() for storage in kept.values()) - weights, 0)


def _largest_image(recipe: Recipe) -> tuple[Shape, str]:
    """Shape on the network grid of the largest training case, and its name in words."""
    shapes = {
        case.id: target_shape(recipe.task.facts[case.id].grid, recipe.reading)
        for case in recipe.cases("train")
    }
    name = max(shapes, key=lambda case_id: math.prod(shapes[case_id]))
    return shapes[name], f" (case {name!r}, whole)"


def _smaller(settings: Settings, patches: float) -> str:
    """The change of settings after which a step fits, if memory holds this many patches."""
    if patches >= 1:
        return f"lower tsk_set.batch_size from {settings.batch_size} to {int(patches) * distributed.size()}"
    if patches <= 0:
        return "lower tsk_set.network.channels: the weights alone take more"
    if settings.dataset.seg.use_whole_img_as_input:
        return "set dataset.seg.use_whole_img_as_input to false and give a patch_size"
    return f"lower dataset.seg.patch_size to at most {100 * patches:.0f} % of its voxels, or tsk_set.network.channels"


def _free_bytes() -> int:
    """Free memory of this process; processes that train together on one computer share it."""
    return free_memory() // distributed.local_size()
