"""Measuring: a few steps on this machine, and then the step that the plan chooses from them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from monaiseg.data import shape_in_words
from monaiseg.errors import SettingsError
from monaiseg.machine import free_memory, gigabytes, processor_name
from monaiseg.planning.choice import choose
from monaiseg.planning.costs import exact_cost, step_cost
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.layout import layout
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import Option, batch_sizes, patch_ladder
from monaiseg.planning.probes import DataProbe, StepProbe
from monaiseg.planning.questions import MeasuringProcess
from monaiseg.progress import Advance, no_progress
from monaiseg.settings import PlanningSettings

MEASURED_WIDTHS = (16, 32, 64)
"""Channels of the first stage that are measured; between them costs follow a power of the width."""
NUM_PROBES = 1 + len(MEASURED_WIDTHS) + 1
"""Number of measurements: the data, the widths, and usually one step that the plan chooses."""
ROUNDS = 3
"""Maximum number of times that a plan is checked by measuring the step it chose."""


def measure(
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
    process: MeasuringProcess,
    on_progress: Advance = no_progress,
) -> Measurements:
    """Measure this machine: a few widths on a small patch, and then the step that the plan chooses from them.

    `on_progress` is called after each measurement. The last ones may not be needed; then the end comes sooner.

    Raises:
        SettingsError: the steps cannot be measured here, or the limits cannot be met.
    """
    small = patch_ladder(fingerprint, rules)[0]
    variant = rules.network_for(limits.device).variant
    batch = batch_sizes(small, rules, with_atlas=fingerprint.starts_from_atlas(rules))[0]
    first = [Option(variant, width, small, batch) for width in MEASURED_WIDTHS]
    done = itertools.count(1)

    def advance() -> None:
        on_progress(min(next(done), NUM_PROBES), NUM_PROBES)

    steps, data = _run(process, fingerprint, limits, rules, first, advance)
    assert data is not None
    found = Measurements(
        processor_name(), limits.cores, limits.device, data, tuple(filter(None, steps))
    )
    if not found.steps:
        sizes = shape_in_words(small)
        raise SettingsError(
            f"a step with {batch} patches of {sizes} voxels and {MEASURED_WIDTHS[0]} channels, the smallest of this plan, ran "
            f"out of memory ({gigabytes(free_memory())} are free); close other programs, or use a computer with more "
            "memory"
        )
    for _ in range(ROUNDS):
        option, _ = choose(fingerprint, limits, found, rules)
        if exact_cost(option, fingerprint, found) is not None:
            break
        (step,), _ = _run(process, fingerprint, limits, rules, [option], advance, with_data=False)
        step = step or _too_large(option, fingerprint, limits, found)
        found = replace(found, steps=(*found.steps, step))
    return found


def _run(
    process: MeasuringProcess,
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
    options: Sequence[Option],
    on_probe: Callable[[], object],
    *,
    with_data: bool = True,
) -> tuple[list[StepProbe | None], DataProbe | None]:
    settings = [layout(option, fingerprint, limits, rules) for option in options]
    return process.run(
        [(each, fingerprint.num_classes) for each in settings],
        (settings[0], fingerprint.median_shape, fingerprint.num_classes) if with_data else None,
        fingerprint.spacing,
        cores=limits.cores,
        device=limits.place,
        on_probe=on_probe,
    )


def _too_large(
    option: Option, fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> StepProbe:
    """The cost of a step that ran out of memory: more than the memory that is available."""
    guess = step_cost(option, fingerprint, measured)
    there = free_memory() if limits.gpu_memory_gb is None else limits.gpu_memory_gb * 2**30
    return replace(guess, step_bytes=max(guess.step_bytes, round(2 * there)))
