"""Forecasts: seconds and memory that a whole run with an option takes on a measured machine."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from monaiseg.data import Shape
from monaiseg.machine import MOST_READERS
from monaiseg.networks import TILE_SCORES, count_windows
from monaiseg.planning.costs import step_cost
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import Option
from monaiseg.planning.probes import WINDOWS, DataProbe, StepProbe
from monaiseg.settings import PlanningSettings
from monaiseg.training import POSITION_BYTES, UNSTEADY_STEPS, Pace, Rhythm, cached_bytes
from monaiseg.transforms import PREPARING_BYTES, RESAMPLING_BYTES

WORKER_BYTES = 150 << 20
"""Memory of a worker process without its batches."""
WINDOW_SLACK = 1.3
"""Time of a window at validation relative to its forward pass, since scores are also added up and compared."""
ATLAS_OF_SHARE = 0.3
"""Time to place a scan in an atlas, relative to that to learn from it."""
CLOSING_SECONDS = 0.3
"""Seconds at the end of an epoch, with a checkpoint after some epochs."""
BYTES_PER_WEIGHT = 100
"""Memory of a checkpoint while it is written: weights, their average and the optimiser's moments, as tensors and as
bytes, twice."""
MEMORY_SLACK = 1.1
"""Safety factor: a run is assumed to take up to this many times the memory that is expected."""


@dataclass(frozen=True)
class ValidationForecast:
    """How cases are validated during training."""

    overlap: float
    cases: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """The time and memory that a run is expected to take."""

    step_seconds: float
    """Seconds per step, including its share of cutting and augmenting patches."""
    workers: int
    """Processes that cut and augment patches."""
    epoch_seconds: float
    """Seconds per epoch, without validation."""
    start_seconds: float
    """Seconds until the first step."""
    end_seconds: float
    steps: int
    rhythm: Rhythm
    validation: ValidationForecast
    in_memory: bool
    """Whether prepared cases are cached in memory; otherwise on disk."""
    peak_bytes: int
    """Peak memory of the training process and its workers together."""
    preparing_bytes: int
    """Memory that the largest cases take while they are prepared, several at the same time."""
    device: str
    """Device that computes, "cpu" or "cuda"."""
    device_bytes: int
    """Peak memory that a step or a validation takes on it."""
    parameters: int

    def in_words(self) -> str:
        """One line that says what to expect."""
        own = f"{self.device_bytes / 2**30:.1f} GiB on the GPU, " if self.device != "cpu" else ""
        return (
            f"expected: {self.step_seconds:.2g} s per step, {self.epoch_seconds:.0f} s per epoch, at most "
            f"{self.peak_bytes / 2**30:.1f} GiB of memory, {own}{self.end_seconds / 60:.1f} minutes in all"
        )


def forecast(
    option: Option,
    fingerprint: Fingerprint,
    limits: Limits,
    measured: Measurements,
    rules: PlanningSettings,
) -> Forecast:
    """The time and memory that a run with an option is expected to take."""
    cost, data = step_cost(option, fingerprint, measured), measured.data
    cutting = data.patch_seconds_per_voxel * option.patch_voxels * option.batch_size
    step, workers = _beside(cost.step_seconds, cutting, limits, rules.most_workers)
    look = _validation(option, cost, fingerprint, limits, rules)
    start = _start_seconds(step, fingerprint, limits, data, rules)
    left = 60 * limits.minutes - start
    pace = Pace(step, look.seconds, CLOSING_SECONDS)
    rhythm = _rhythm(pace, left, rules)
    steps = rhythm.last_step(pace, 0, left, closed=0)
    computing = max(cost.step_bytes, _validating_bytes(option, cost, fingerprint))
    in_memory, peak, preparing = _memory(
        option,
        cost,
        fingerprint,
        limits,
        rules.cache_share,
        base=data.base_bytes,
        workers=workers,
        computing=computing,
        with_atlas=fingerprint.starts_from_atlas(rules),
    )
    return Forecast(
        step_seconds=step,
        workers=workers,
        epoch_seconds=step * rhythm.steps_per_epoch,
        start_seconds=start,
        end_seconds=start + rhythm.seconds(pace, 0, steps, closed=0),
        steps=steps,
        rhythm=rhythm,
        validation=look,
        in_memory=in_memory,
        peak_bytes=peak,
        preparing_bytes=preparing,
        device=limits.device,
        device_bytes=computing,
        parameters=cost.parameters,
    )


def _start_seconds(
    step_seconds: float,
    fingerprint: Fingerprint,
    limits: Limits,
    data: DataProbe,
    rules: PlanningSettings,
) -> float:
    """Seconds from the start of the process to steady steps: imports, reading all cases, and the first steps."""
    voxels = sum(math.prod(scan.shape) for scan in (*fingerprint.train, *fingerprint.val))
    reading = voxels * data.read_seconds_per_voxel / min(limits.cores, MOST_READERS)
    learning = len(fingerprint.train) * _atlas_seconds(fingerprint, rules)
    return data.start_seconds + reading + learning + UNSTEADY_STEPS * step_seconds


def _atlas_seconds(fingerprint: Fingerprint, rules: PlanningSettings) -> float:
    """Seconds to learn an atlas from a case; 0 without an atlas."""
    position = fingerprint.position
    if position is None or not fingerprint.starts_from_atlas(rules):
        return 0.0
    return position.seconds_per_case


def _rhythm(pace: Pace, left: float, rules: PlanningSettings) -> Rhythm:
    """Steps per epoch and epochs between validations that fit into the seconds that are left."""
    validating = (rules.validations - 1) * pace.validation
    steps = (left - pace.ending - validating) / pace.step
    period = max(rules.epochs // rules.validations, 1)
    return Rhythm(max(math.ceil(steps / rules.epochs), 1), period)


def _beside(
    computing: float, cutting: float, limits: Limits, most_workers: int
) -> tuple[float, int]:
    """Seconds per step and number of workers that cut patches; no worker if cutting between steps is faster.

    A GPU gets as many workers as keep it busy. On a CPU a worker takes a core: one thread that waits for a core makes
    all others wait at the end of each operation (on two cores, one worker with two threads took 1.04 times as long as
    no worker, see benchmarks/RESULTS.md).
    """
    if limits.device != "cpu":
        workers = min(
            max(math.ceil(cutting / computing), 1), max(limits.cores - 1, 1), most_workers
        )
        return max(computing, cutting / workers), workers
    between = computing + cutting
    others = limits.cores - 1
    beside = max(computing * limits.cores / others, cutting) if others else math.inf
    return (beside, 1) if beside < between else (between, 0)


def _validation(
    option: Option,
    cost: StepProbe,
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
) -> ValidationForecast:
    """The fullest validation within its share of the minutes: first the overlap is reduced, then the cases."""
    placing = ATLAS_OF_SHARE * _atlas_seconds(fingerprint, rules)
    allowed = rules.validation_share * 60 * limits.minutes / rules.validations
    for overlap in rules.overlaps:
        seconds = [
            placing
            + WINDOW_SLACK
            * cost.window_seconds
            * count_windows(shape, option.patch_shape, (overlap,) * 3)
            for shape in fingerprint.network_shapes(fingerprint.val, option.patch_shape)
        ]
        if sum(seconds) <= allowed:
            break
    totals = list(itertools.accumulate(seconds))
    cases = max(sum(total <= allowed for total in totals), min(1, len(totals)))
    return ValidationForecast(overlap, cases, totals[cases - 1] if cases else 0.0)


def _validating_bytes(option: Option, cost: StepProbe, fingerprint: Fingerprint) -> int:
    """Memory of validation: the features of a slab, twice while it advances, scores of a tile, and the windows."""
    largest = _largest(option, fingerprint)
    longest = max(largest)
    slab = math.prod(largest) // longest * option.patch_shape[largest.index(longest)]
    windows = WINDOWS * option.patch_voxels
    per_voxel = option.channels / 8 if option.variant == "folded" else option.channels
    sums = round(4 * per_voxel * (2 * slab + 3 * windows)) + 3 * 4 * TILE_SCORES
    # Half of a step's features are kept only for the backward pass.
    features = cost.step_bytes * windows // (2 * cost.voxels)
    return sums + features + _cached_bytes(largest, fingerprint, num_groups=0)


def _memory(
    option: Option,
    cost: StepProbe,
    fingerprint: Fingerprint,
    limits: Limits,
    cache_share: float,
    *,
    base: int,
    workers: int,
    computing: int,
    with_atlas: bool,
) -> tuple[bool, int, int]:
    """Whether prepared cases are cached in memory, the peak memory of the run and its workers, and that of preparing.

    Preparing takes part of the peak: several of the largest cases at the same time. Memory is in bytes.
    """
    scans = fingerprint.network_shapes((*fingerprint.train, *fingerprint.val), option.patch_shape)
    cached = sum(_cached_bytes(shape, fingerprint, num_groups=2) for shape in scans)
    if with_atlas:
        cached += sum(
            POSITION_BYTES * math.prod(shape) for shape in scans[: len(fingerprint.train)]
        )
    resampled = fingerprint.preprocessing is None and not fingerprint.is_uniform
    per_voxel = RESAMPLING_BYTES if resampled else PREPARING_BYTES
    channels = fingerprint.num_channels
    preparing = (
        min(limits.cores, MOST_READERS)
        * per_voxel
        * channels
        * math.prod(max(scans, key=math.prod))
    )
    batch = 4 * (channels + 1) * option.patch_voxels * option.batch_size
    on_host = computing if limits.device == "cpu" else 0
    peak = run_bytes(base, on_host, preparing, cost.parameters, workers, 8 * batch)
    kept = peak + MEMORY_SLACK * cached
    limit = limits.memory_gb * 2**30
    in_memory = cached <= cache_share * limit and kept <= limit
    return in_memory, round(kept if in_memory else peak), preparing


def run_bytes(
    base: int, computing: int, preparing: int, parameters: int, workers: int, ahead: int
) -> float:
    """Peak memory in bytes of a run and its workers, without cached cases.

    Cases are prepared, steps computed and checkpoints written one after the other, so the largest of these counts.

    Args:
        base: memory of a process with everything imported.
        computing: memory that a step takes here, and not on a GPU.
        preparing: memory while cases are prepared.
        parameters: number of weights.
        workers: number of worker processes.
        ahead: memory of the batches that a worker prepares in advance.
    """
    varying = max(computing, preparing, BYTES_PER_WEIGHT * parameters)
    return MEMORY_SLACK * (base + workers * (WORKER_BYTES + ahead) + varying)


def _largest(option: Option, fingerprint: Fingerprint) -> Shape:
    """The shape of the largest case as the network receives it."""
    scans = (*fingerprint.train, *fingerprint.val)
    return max(fingerprint.network_shapes(scans, option.patch_shape), key=math.prod)


def _cached_bytes(shape: Shape, fingerprint: Fingerprint, num_groups: int) -> int:
    return cached_bytes(shape, fingerprint.num_channels, fingerprint.num_classes, num_groups)
