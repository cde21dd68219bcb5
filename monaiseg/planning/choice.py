"""Choice: the most demanding option that the limits allow.

The choice is the last option that fits into memory and that can make, within the minutes, the minimum number of steps
for its width. More minutes or more memory therefore never give a smaller network.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NoReturn

from monaiseg.data import shape_in_words
from monaiseg.errors import SettingsError
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.forecasts import MEMORY_SLACK, Forecast, forecast
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import Option, option_row
from monaiseg.settings import PlanningSettings


def choose(
    fingerprint: Fingerprint, limits: Limits, measured: Measurements, rules: PlanningSettings
) -> tuple[Option, Forecast]:
    """The most demanding option that the limits allow.

    Raises:
        SettingsError: the limits allow no option; the message names the smallest limit that does.
    """
    fitting: list[tuple[Option, Forecast]] = []
    worth: list[tuple[Option, Forecast]] = []
    for batches in option_row(fingerprint, limits, rules):
        costs = [
            (option, forecast(option, fingerprint, limits, measured, rules)) for option in batches
        ]
        fits = [pair for pair in costs if _fits(pair[1], limits)]
        if fits:
            fitting.append(fits[0])
            preferred, cost = costs[0]  # more steps with fewer patches are not worth more
            seen = cost.steps * preferred.patch_voxels * preferred.batch_size / rules.batch_voxels
            with_atlas = fingerprint.starts_from_atlas(rules)
            wanted = rules.steps_worth(preferred.channels, with_atlas=with_atlas)
            enough = max(cost.steps, seen) >= wanted
            worth += fits[:1] if enough else []
        elif not fitting:
            _refuse_memory(costs[-1], fingerprint, limits)
    option, cost = (worth or fitting[:1])[-1]
    if cost.steps < rules.least_steps:
        _refuse_minutes(option, fingerprint, limits, measured, rules)
    return option, cost


def _fits(cost: Forecast, limits: Limits) -> bool:
    on_gpu = MEMORY_SLACK * cost.device_bytes
    if limits.gpu_memory_gb is not None and on_gpu > limits.gpu_memory_gb * 2**30:
        return False
    return cost.peak_bytes <= limits.memory_gb * 2**30


def _refuse_memory(
    smallest: tuple[Option, Forecast], fingerprint: Fingerprint, limits: Limits
) -> NoReturn:
    """Raise SettingsError with the smallest memory that is enough, and with the case that needs it if it is a case."""
    option, cost = smallest
    name, given, need = "--memory", limits.memory_gb, float(cost.peak_bytes)
    what = "for the smallest network and patch; "
    if limits.gpu_memory_gb is not None and need <= given * 2**30:
        name, given, need = "--gpu-memory", limits.gpu_memory_gb, MEMORY_SLACK * cost.device_bytes
    elif cost.preparing_bytes > need / 2:
        what = f"{_largest_in_words(option, cost, fingerprint)}; crop it or leave it out, or "
    raise SettingsError(
        f"{name}: {given:g} GiB are too little {what}give at least {math.ceil(need / 2**30 * 10) / 10:g}"
    )


def _largest_in_words(option: Option, cost: Forecast, fingerprint: Fingerprint) -> str:
    """The largest case as the network receives it, and the memory that it takes."""
    scans = (*fingerprint.train, *fingerprint.val)
    shapes = fingerprint.network_shapes(scans, option.patch_shape)
    scan, shape = max(zip(scans, shapes, strict=True), key=lambda pair: math.prod(pair[1]))
    sizes = (shape_in_words(each) for each in (scan.shape, shape))
    return (
        f"to prepare cases as large as {scan.case_id!r} ({' voxels, '.join(sizes)} at the network's voxel size), which takes "
        f"{cost.preparing_bytes / 2**30:.1f}"
    )


def _refuse_minutes(
    option: Option,
    fingerprint: Fingerprint,
    limits: Limits,
    measured: Measurements,
    rules: PlanningSettings,
) -> NoReturn:
    enough = limits.minutes
    steps = 0
    while steps < rules.least_steps:
        enough = math.floor(2 * enough + 1) / 2
        longer = replace(limits, minutes=enough)
        steps = forecast(option, fingerprint, longer, measured, rules).steps
    raise SettingsError(
        f"--minutes: {limits.minutes:g} are too few for the {rules.least_steps} steps that a network needs to learn anything; "
        f"use at least {enough:g}"
    )
