"""Estimates: the time, memory and disk space of a training with given settings, from one measured step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from monaiseg.data import DataTask, Grid, Shape, index_dtype, median_spacing
from monaiseg.errors import SettingsError
from monaiseg.machine import MOST_READERS, usable_cores
from monaiseg.networks import count_windows
from monaiseg.planning.forecasts import MEMORY_SLACK, WINDOW_SLACK, run_bytes
from monaiseg.planning.probes import DataProbe, StepProbe
from monaiseg.planning.questions import MeasuringProcess
from monaiseg.settings import Settings, changed
from monaiseg.training import (
    POSITION_BYTES,
    cached_bytes,
    device_of,
    memory_allowance,
    network_spacing,
)
from monaiseg.transforms import (
    PREPARING_BYTES,
    RESAMPLING_BYTES,
    sampled_spacing,
    target_shape,
)

PATCH_GROUPS = 2
"""Groups of patch centres that a cached case keeps with the default sampling: foreground and background."""


@dataclass(frozen=True)
class Estimate:
    """The time, memory and disk space that a training is expected to take on this computer."""

    step_seconds: float
    """Seconds per step, including its share of cutting and augmenting patches."""
    steps_per_epoch: int
    epoch_seconds: float
    """Seconds per epoch, without validation."""
    validation_seconds: float
    memory_bytes: int
    """Peak memory of the training process and its workers together."""
    device: str
    device_bytes: int
    """Peak memory on the device that computes; part of `memory_bytes` if that is the CPU."""
    cache: Literal["memory", "disk", "none"]
    """Where prepared cases are kept."""
    cache_bytes: int
    """Size of the prepared cases, also if they are kept nowhere."""

    def in_words(self) -> str:
        """One line that says what to expect.

        >>> Estimate(0.5, 100, 50.0, 9.0, 3 << 30, "cpu", 1 << 30, "disk", 2 << 30).in_words()
        'expected on cpu: 50 s an epoch of 100 steps, 9 s a validation, 3.0 GiB of memory, 2.0 GiB on disk'
        """
        disk = f"{self.cache_bytes / 2**30:.1f} GiB on disk" if self.cache == "disk" else ""
        own = f"{self.device_bytes / 2**30:.1f} GiB on the GPU" if self.device != "cpu" else ""
        parts = (
            f"{self.epoch_seconds:.0f} s an epoch of {self.steps_per_epoch} steps",
            f"{self.validation_seconds:.0f} s a validation",
            f"{self.memory_bytes / 2**30:.1f} GiB of memory",
            own,
            disk,
        )
        return f"expected on {self.device}: {', '.join(filter(None, parts))}"


def estimate_training(
    settings: Settings, train: Sequence[Grid], val: Sequence[Grid], num_classes: int
) -> Estimate | None:
    """Estimate a training by running a few steps in a process of their own, which takes some seconds.

    Args:
        settings: settings of the training.
        train: grids of the training images; at least one.
        val: grids of the validation images.
        num_classes: number of classes, background included.

    Returns:
        None if a single step takes more memory than there is.

    Raises:
        SettingsError: a step cannot be run with these settings.
    """
    device = device_of(settings)
    shapes = {split: [target_shape(grid, settings) for grid in grids] for split, grids in
              (("train", train), ("val", val))}  # fmt: skip
    spacing = median_spacing(sampled_spacing(grid, settings) for grid in train)
    x, y, z = (math.ceil(median(sizes)) for sizes in zip(*shapes["train"], strict=True))
    cores = settings.tsk_set.num_threads or usable_cores()
    with MeasuringProcess() as process:
        (step,), data = process.run(
            [(settings, num_classes)],
            (settings, (x, y, z), num_classes),
            spacing,
            cores=cores,
            device=str(device),
        )
    assert data is not None  # it was asked for
    if step is None:
        return None
    limits = settings.tsk_set.max_batch_num_per_epoch
    steps = len(train) if limits[0] == -1 else limits[0]
    validated = shapes["val"] if limits[1] == -1 else shapes["val"][: limits[1]]
    seconds = _step_seconds(step, data, settings, cores, device)
    cache_bytes = sum(
        cached_bytes(shape, settings.dataset.num_channels, num_classes, PATCH_GROUPS)
        for shape in (*shapes["train"], *validated)
    )
    cache = _cache(settings, cache_bytes)
    resampled = settings.spacing_mm is not None or settings.image_shape is not None
    memory = _memory_bytes(
        step, data, settings, max(math.prod(shape) for shape in shapes["train"]),
        num_classes, resampled=resampled, on_host=device.type == "cpu",
    )  # fmt: skip
    in_memory = cache_bytes if cache == "memory" else 0
    if settings.tsk_set.network.atlas:
        in_memory += sum(POSITION_BYTES * math.prod(shape) for shape in shapes["train"])
    return Estimate(
        seconds,
        steps,
        steps * seconds,
        WINDOW_SLACK * step.window_seconds * _windows(validated, settings),
        round(memory + MEMORY_SLACK * in_memory),
        device.type,
        step.step_bytes,
        cache,
        cache_bytes,
    )


def minutes_on_cpu(settings: Settings, task: DataTask) -> float | None:
    """Minutes that the CPU of this computer needs for all steps of these settings, from one small step.

    A step on a patch of half the size along each axis takes a few seconds where a whole one might take minutes; seconds
    are proportional to the number of voxels. None: it cannot be measured.
    """
    most, small = settings.tsk_set, tuple(size // 2 for size in settings.patch_shape)
    steps = most.epochs * max(most.max_batch_num_per_epoch[0], 1)
    voxels = settings.batch_size * math.prod(settings.patch_shape)
    probed = changed(
        settings,
        {
            "dataset.seg.patch_size": small,
            "tsk_set.batch_size": 1,
            "tsk_set.gpu_id": -1,
        },
    )
    classes, cores = task.label_table(settings).num_classes, most.num_threads or usable_cores()
    try:
        spacing = network_spacing(task, settings)
        with MeasuringProcess() as process:
            (step,), _ = process.run([(probed, classes)], None, spacing, cores=cores)
    except SettingsError:  # such a patch cannot be halved as often
        return None
    return None if step is None else step.step_seconds / step.voxels * voxels * steps / 60


def _step_seconds(
    step: StepProbe, data: DataProbe, settings: Settings, cores: int, device: torch.device
) -> float:
    """Seconds per step with its patches: workers cut them meanwhile, but on a CPU they take cores from the network."""
    cutting = data.patch_seconds_per_voxel * step.voxels
    workers = settings.tsk_set.num_workers
    if not workers:
        return step.step_seconds + cutting
    if device.type != "cpu":
        return max(step.step_seconds, cutting / workers)
    left = max(cores - workers, cores / (1 + workers))
    return max(step.step_seconds * cores / left, cutting / workers)


def _windows(shapes: Sequence[Shape], settings: Settings) -> int:
    """Number of windows in which images are validated."""
    if settings.dataset.seg.use_whole_img_as_input:
        return len(shapes)
    return sum(
        count_windows(shape, settings.patch_shape, settings.window_overlap) for shape in shapes
    )


def _cache(settings: Settings, need: int) -> Literal["memory", "disk", "none"]:
    """Where training will keep the prepared cases; see `monaiseg.training.cache`."""
    wanted = settings.dataset.cache
    if wanted.where != "auto":
        return wanted.where
    return "memory" if need <= memory_allowance(wanted.memory_gb) else "disk"


def _memory_bytes(
    step: StepProbe,
    data: DataProbe,
    settings: Settings,
    largest: int,
    num_classes: int,
    *,
    resampled: bool,
    on_host: bool,
) -> float:
    """Peak memory in bytes without cached cases."""
    channels, workers = settings.dataset.num_channels, settings.tsk_set.num_workers
    of_voxel = 4 * settings.network_channels + index_dtype(num_classes).itemsize
    per_voxel = RESAMPLING_BYTES if resampled else PREPARING_BYTES
    preparing = min(usable_cores(), MOST_READERS) * per_voxel * channels * largest
    computing = step.step_bytes if on_host else 0
    ahead = 2 * of_voxel * step.voxels
    return run_bytes(data.base_bytes, computing, preparing, step.parameters, workers, ahead)
