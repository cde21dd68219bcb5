"""Planning: from a data task, a machine and a number of minutes to a complete settings file.

A plan depends only on three things: the *fingerprint*, what `dataset.json` says about the scans; the *limits*, the time
and hardware that the user gives; and the *measurements*, what steps cost on this machine. The same three give the same
settings.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monaiseg.data import DataTask, read_data_task, resampling_doubt
from monaiseg.errors import DataError, MonaisegWarning, SettingsError, collecting, listed
from monaiseg.machine import free_memory, usable_cores
from monaiseg.planning.choice import choose
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.forecasts import Forecast
from monaiseg.planning.layout import augmentation, averaging_decay, layout
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements, check_alike
from monaiseg.planning.measuring import NUM_PROBES, measure
from monaiseg.planning.options import Option, patch_ladder
from monaiseg.planning.position import Position, measure_position
from monaiseg.planning.questions import MeasuringProcess
from monaiseg.planning.reasons import Choice, choices, disturbance
from monaiseg.progress import Advance, no_progress
from monaiseg.settings import PlanningSettings, Settings, changed
from monaiseg.training import choose_device, free_bytes


@dataclass(frozen=True)
class Plan:
    """Settings, the time and memory that they are expected to take, and the reasons for them."""

    settings: Settings
    forecast: Forecast
    choices: tuple[Choice, ...]


def plan(
    output_root_path: str | Path,
    data_task_name: str,
    *,
    minutes: float,
    cores: int | None = None,
    memory_gb: float | None = None,
    device: str | int | None = None,
    gpu_memory_gb: float | None = None,
    measurements: Measurements | None = None,
    rules: PlanningSettings | None = None,
    on_progress: Advance = no_progress,
) -> tuple[Plan, Measurements]:
    """Plan a run on a prepared data task.

    Args:
        output_root_path: folder of all data tasks.
        data_task_name: folder of the prepared data task in it.
        minutes: wall-clock minutes of the whole run, from start-up to the last checkpoint.
        cores: CPU cores that the run may use. None: those that this process may use.
        memory_gb: GiB of memory that the run may use. None: the share of the free memory that `rules` allow, by default
            half.
        device: "cpu", "cuda", "cuda:1", or the index of the GPU, -1 for the CPU. None: the device that `measurements` are
            of; without them the first GPU if there is one, else the CPU.
        gpu_memory_gb: GiB of memory of the GPU that the run may use. None: what is free on the GPU now.
        measurements: measurements of a machine like the one that will train. None: measure this machine.
        rules: assumptions and preferences of the plan. None: the defaults.
        on_progress: called after each measurement with the number of measurements done and of all.

    Raises:
        DataError: the data task cannot be used.
        SettingsError: the limits cannot be met; the message names the smallest limit that can.
    """
    rules = rules or PlanningSettings()
    task = read_data_task(Path(output_root_path) / data_task_name)
    fingerprint = Fingerprint.of(task)
    if not fingerprint.train:
        raise SettingsError(
            f"{data_task_name}: has no training cases; prepare the data with a training split"
        )
    check_spacings(fingerprint)
    limits = Limits(
        minutes,
        cores or usable_cores(),
        round(rules.memory_share * free_memory() / 2**30, 1) if memory_gb is None else memory_gb,
        *_gpu(device, gpu_memory_gb, measurements),
    )
    if measurements is None:
        with MeasuringProcess() as process:  # it starts while positions are measured
            position = _position(task, fingerprint, limits, rules)
            fingerprint = replace(fingerprint, position=position)
            on_progress(1, 1 + NUM_PROBES)
            measured = measure(
                fingerprint, limits, rules, process, lambda n, of: on_progress(1 + n, 1 + of)
            )
        measurements = replace(measured, position=position)
    fingerprint = replace(fingerprint, position=measurements.position)
    check_alike(measurements, fingerprint, limits)
    return plan_settings(fingerprint, limits, measurements, rules), measurements


def _gpu(
    device: str | int | None, gpu_memory_gb: float | None, measurements: Measurements | None
) -> tuple[float | None, int]:
    """GiB of memory and index of the GPU to plan for; None and 0 for the CPU.

    A plan from measurements made elsewhere needs no GPU here, only the memory of the one that will train.

    Raises:
        SettingsError: there is no such GPU, or the device has no such memory.
    """
    known = None if measurements is None else measurements.device
    if device is None and (known == "cpu" or (known == "cuda" and gpu_memory_gb is not None)):
        return gpu_memory_gb, 0
    place = choose_device(device)
    if place.type == "cuda":
        free = math.floor(free_bytes(place) / 2**30 * 10) / 10
        return free if gpu_memory_gb is None else gpu_memory_gb, place.index or 0
    if known == "cuda":
        raise SettingsError(
            "--measurements: these are of a GPU, and this computer has none that torch can use; say with --gpu-memory how "
            "many GiB the GPU has that will train"
        )
    if gpu_memory_gb is not None:
        raise SettingsError(
            "--gpu-memory and --device cpu contradict each other; give one of them"
            if device is not None
            else "--gpu-memory: this computer has no GPU that torch can use; plan on the computer that will train, or give "
            "--measurements made there"
        )
    return None, 0


def check_spacings(fingerprint: Fingerprint) -> None:
    """Warn of cases that would be resampled by a large factor to the median voxel size.

    Raises:
        DataError: the factor is so large that nothing useful is left; the message names every such case.
    """
    problems: list[str] = []
    if fingerprint.preprocessing is not None:
        return
    for scan in (*fingerprint.train, *fingerprint.val):
        with collecting(problems):
            doubt = resampling_doubt(f"case {scan.case_id!r}", scan.spacing, fingerprint.spacing)
            if doubt is not None:
                warnings.warn(doubt, MonaisegWarning, stacklevel=3)
    if problems:
        raise DataError(listed(problems))


def plan_settings(
    fingerprint: Fingerprint, limits: Limits, measured: Measurements, rules: PlanningSettings
) -> Plan:
    """The plan for given data, limits and measurements; the same inputs give the same settings.

    Raises:
        SettingsError: the limits allow no run; the message names the smallest limit that does.
    """
    option, cost = choose(fingerprint, limits, measured, rules)
    with_atlas = fingerprint.starts_from_atlas(rules)
    passes = cost.steps * option.batch_size * fingerprint.seen_share(option.patch_shape)
    seg = augmentation(passes, rules, mirror=fingerprint.can_mirror, with_atlas=with_atlas)
    settings = changed(
        layout(option, fingerprint, limits, rules, cost.validation.overlap),
        {
            "dataset.cache.where": "memory" if cost.in_memory else "disk",
            **{f"dataset.seg.{path}": value for path, value in seg.items()},
            **{f"tsk_set.{key}": value for key, value in _course(cost, limits, rules).items()},
        },
    )
    reasons = choices(settings, option, cost, fingerprint, limits, rules, passes)
    if measured.disturbed:
        reasons = (disturbance(measured.disturbed, limits.cores), *reasons)
    return Plan(settings, cost, reasons)


def _position(
    task: DataTask, fingerprint: Fingerprint, limits: Limits, rules: PlanningSettings
) -> Position | None:
    """What positions say about labels, unless each patch will hold a whole scan: the network then sees where it is."""
    smallest = patch_ladder(fingerprint, rules)[0]
    if all(size >= n for size, n in zip(smallest, fingerprint.median_shape, strict=True)):
        return None
    option = Option(rules.network_for(limits.device).variant, rules.widths[0], smallest, 1)
    settings = layout(option, fingerprint, limits, rules)
    return measure_position(task, settings, rules.atlas_cases)


def _course(cost: Forecast, limits: Limits, rules: PlanningSettings) -> dict[str, Any]:
    """Keys of `tsk_set` that depend on how many steps a run makes, and how long they take."""
    rhythm, threads = cost.rhythm, limits.cores
    often = cost.epoch_seconds > rules.commit_seconds
    within = cost.epoch_seconds > rules.loss_seconds
    return {
        "budget_minutes": limits.minutes,
        "num_threads": threads - cost.workers if limits.device == "cpu" else threads,
        "num_workers": cost.workers,
        "epochs": math.ceil(cost.steps / rhythm.steps_per_epoch),
        "max_batch_num_per_epoch": [rhythm.steps_per_epoch, cost.validation.cases, 0],
        "val_period": rhythm.val_period,
        "checkpoint_period": 1 if often else rhythm.val_period,
        "checkpoint_steps": math.ceil(rules.loss_seconds / cost.step_seconds) if within else None,
        "warmup_epochs": rules.warmup_epochs,
        "weight_averaging": averaging_decay(cost.steps, rules),
    }
