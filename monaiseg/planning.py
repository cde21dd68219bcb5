"""Planning: from a data task, a machine and a number of minutes to a complete settings file.

A *fingerprint* is what `dataset.json` says of the scans, see `monaiseg.fingerprint`. *Limits* are what the user has:
minutes, cores, memory. *Measurements* are what steps cost on this machine, see `monaiseg.probes`. A plan follows from
these three alone: equal ones give equal settings.

An *option* is a patch, a batch and a width of the network. Options stand in one row, each more demanding than the one
before: first the network grows to a sensible width on small patches, then the patch to the whole scan, then the
network further. The last that fits into memory, and of which the minutes hold as many steps as its width is worth, is
taken; so more minutes or more memory never make a smaller network.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from monaiseg.budget import UNSTEADY_STEPS, Pace, Rhythm
from monaiseg.data_tasks import read_data_task
from monaiseg.devices import usable_cores
from monaiseg.errors import SettingsError
from monaiseg.files import read_json_object, write_atomic
from monaiseg.fingerprint import Fingerprint
from monaiseg.geometry import Shape, Spacing
from monaiseg.inference import count_windows
from monaiseg.labels import index_dtype
from monaiseg.loaders import free_memory
from monaiseg.network import plan_topology
from monaiseg.probes import WINDOWS, DataProbe, StepProbe, processor_name, run_probes, step_of
from monaiseg.settings import NetworkSettings, Settings, dump_settings, settings_from_dict
from monaiseg.transforms import MAX_CENTRES

WIDTHS = (16, 24, 32, 48, 64)
"""Channels of the first stage."""
WORTH = {16: 100, 24: 800, 32: 1500, 48: 5000, 64: 15000}
"""Least number of steps at which a width is taken to beat the next narrower one in the same minutes; not tuned."""
SENSIBLE_WIDTH = 32
LEAST_STEPS = 50
"""With fewer, nothing is learned."""
GRAIN = 8
"""Patch sizes are multiples of this: three halvings."""
LEAST_VOXELS, MOST_VOXELS = 48**3, 128**3
"""Of a patch, where scans are larger."""
BATCH_VOXELS = 4 * 48**3
"""A batch has so many voxels at least, or two patches; four patches at most."""
EPOCHS = 20
"""Parts that a training is divided into."""
VALIDATIONS = 5
"""The last one included."""
VALIDATION_SHARE = 0.1
"""Of the minutes, that validations may take in all."""
WORKER_BYTES = 150 << 20
"""What a worker process has for itself."""
CPU_VARIANT: Literal["folded"] = "folded"
LEARNING_RATE = 4e-3
WARMUP_EPOCHS = 0.5
AVERAGED_PARTS = 15
FEW_PASSES, MANY_PASSES = 20, 100
"""Times that each training scan is seen: below the first, augmentation is off; from the second on it is strong, since a
network that sees no more than the default makes of them learns them by heart (benchmarks/RESULTS.md)."""
STRONG = {"rotation": {"degrees": 30.0}, "scaling": {"factor": [0.7, 1.4]}}
"""What strong augmentation has in place of the defaults; it mirrors left to right too, where labels allow it."""
OVERLAPS = (0.5, 0.25)
WINDOW_SLACK = 1.3
"""A window at validation takes so many times its way through the network: scores are added up and compared."""
CLOSING_SECONDS = 0.3
"""End of an epoch, with a checkpoint at some of them."""
BYTES_PER_WEIGHT = 100
"""A checkpoint in memory while it is written: weights, average and optimiser's moments, as tensors and as bytes, twice."""
MEMORY_SLACK = 1.1
PREPARING_BYTES, RESAMPLING_BYTES = 30, 75
"""Of each voxel and channel of a case that is being prepared, and of one that is resampled for it, which MONAI does in
float64: 28 and 74 were measured at 192 x 224 x 192 voxels."""
READERS = 4
"""Threads that prepare cases, as many as there are cores; more gain nothing (`monaiseg.loaders`)."""
MOST_WORKERS = 8
COMMIT_SECONDS, LOSS_SECONDS = 60, 600
"""Epochs that take longer than the first end with a checkpoint each; no more than the second is lost with a power cut."""
CACHE_SHARE = 0.4
"""Of the memory, that prepared cases may take."""
MEASURED_WIDTHS = (16, 32, 64)
ROUNDS = 3
"""Times that a plan is checked by measuring the step it chose."""


@dataclass(frozen=True)
class Limits:
    """What the user has."""

    minutes: float
    """Wall clock of the training."""
    cores: int
    memory_gb: float
    """GiB that the training and its workers may take together."""
    gpu_memory_gb: float | None = None
    """GiB of the GPU that it runs on. None: it runs on the processor."""

    @property
    def device(self) -> str:
        """Where steps are computed, in torch's words."""
        return "cpu" if self.gpu_memory_gb is None else "cuda"


@dataclass(frozen=True)
class Measurements:
    """What was measured on a machine; can be kept as JSON and planned from again."""

    processor: str
    cores: int
    device: str
    data: DataProbe
    steps: tuple[StepProbe, ...]

    @classmethod
    def load(cls, path: str | Path) -> Measurements:
        """From a file that `save` wrote.

        Raises:
            SettingsError: it is none.
        """
        try:
            document = read_json_object(Path(path))
            steps = tuple(step_of(record) for record in document["steps"])
            names = {name: document[name] for name in ("processor", "cores", "device")}
            found = cls(**names, data=DataProbe(**document["data"]), steps=steps)
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"{path}: holds no measurements ({error!r}); give a file that `monaiseg plan` has written"
            ) from error
        if not found.steps:
            raise SettingsError(f"{path}: holds no step; name a new file to measure into")
        return found

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        write_atomic(Path(path), (json.dumps(asdict(self), indent=1) + "\n").encode())


@dataclass(frozen=True)
class Option:
    """One way to train."""

    variant: str
    channels: int
    patch_shape: Shape
    batch_size: int

    @property
    def patch_voxels(self) -> int:
        """Voxels of a patch."""
        return math.prod(self.patch_shape)


@dataclass(frozen=True)
class Validation:
    """How cases are looked at while training."""

    overlap: float
    cases: int
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """What a training is expected to take."""

    step_seconds: float
    """One step, with its share of the cutting and augmenting."""
    workers: int
    """Processes that cut and augment."""
    epoch_seconds: float
    """Without its validation."""
    start_seconds: float
    """Until the first step."""
    end_seconds: float
    steps: int
    rhythm: Rhythm
    validation: Validation
    in_memory: bool
    """Whether prepared cases wait in memory; else on disk."""
    peak_bytes: int
    """Of the training process and its workers together."""
    device_bytes: int
    """On the device that computes, the most that a step or a validation takes."""
    parameters: int

    def in_words(self) -> str:
        """A line that says what to expect."""
        return (
            f"expected: {self.step_seconds:.2f} s a step, {self.epoch_seconds:.0f} s an epoch, at most "
            f"{self.peak_bytes / 2**30:.1f} GiB, done after {self.end_seconds / 60:.1f} minutes"
        )


@dataclass(frozen=True)
class Choice:
    """A choice and its reason."""

    what: str
    why: str


@dataclass(frozen=True)
class Plan:
    """Settings, what they are expected to take, and why they are so."""

    settings: Settings
    prediction: Prediction
    choices: tuple[Choice, ...]


def plan(
    output_root_path: str | Path,
    data_task_name: str,
    *,
    minutes: float,
    cores: int | None = None,
    memory_gb: float | None = None,
    gpu_memory_gb: float | None = None,
    measurements: Measurements | None = None,
) -> tuple[Plan, Measurements]:
    """Plan a training on a prepared data task.

    Args:
        output_root_path: folder of all data tasks.
        data_task_name: folder of the prepared data task in it.
        minutes: wall clock of the training, with everything in it.
        cores: cores of the processor that it may use. None: those that this process may.
        memory_gb: GiB that it may take. None: half of what is free now.
        gpu_memory_gb: GiB of the GPU to train on. None: train on the processor.
        measurements: of a machine like the one that will train. None: this machine is measured.

    Raises:
        DataError: the data task cannot be used.
        SettingsError: the limits cannot be met; the smallest that can is named.
    """
    fingerprint = Fingerprint.of(read_data_task(Path(output_root_path) / data_task_name))
    if not fingerprint.train:
        raise SettingsError(
            f"{data_task_name}: has no training cases; prepare it with a training split"
        )
    limits = Limits(
        minutes,
        cores or usable_cores(),
        round(free_memory() / 2 / 2**30, 1) if memory_gb is None else memory_gb,
        gpu_memory_gb,
    )
    if measurements is None:
        measurements = measure(fingerprint, limits)
    _check_alike(measurements, fingerprint, limits)
    return plan_settings(fingerprint, limits, measurements), measurements


def _check_alike(measured: Measurements, fingerprint: Fingerprint, limits: Limits) -> None:
    """Raises SettingsError where steps were measured on other cores or for other data than are planned for."""
    probe = measured.steps[0]
    then = (measured.device, measured.cores, probe.num_channels, probe.num_classes)
    now = (limits.device, limits.cores, fingerprint.num_channels, fingerprint.num_classes)
    names = ("device", "cores", "channels", "classes")
    if different := [
        f"{name} {a} then, {b} now" for name, a, b in zip(names, then, now, strict=True) if a != b
    ]:
        raise SettingsError(
            f"--measurements: are of something else: {', '.join(different)}; name a new file to measure into"
        )


def measure(fingerprint: Fingerprint, limits: Limits) -> Measurements:
    """Measure this machine: some widths on a small patch, and then the step that the plan chooses by them.

    Raises:
        SettingsError: it cannot be measured here, or the limits cannot be met.
    """
    if limits.device != "cpu" and not torch.cuda.is_available():
        raise SettingsError(
            "--gpu-memory: this computer has no GPU that torch can use; plan on the one that will train, or give its "
            "--measurements"
        )
    small = patch_ladder(fingerprint)[0]
    first = [
        Option(_variant(limits), width, small, batch_sizes(small)[0]) for width in MEASURED_WIDTHS
    ]
    steps, data = _run(fingerprint, limits, first)
    found = Measurements(
        processor_name(), limits.cores, limits.device, data, tuple(filter(None, steps))
    )
    if not found.steps:
        raise SettingsError("no step could be measured: memory ran out at once; free some")
    for _ in range(ROUNDS):
        option, _ = choose(fingerprint, limits, found)
        if _exact(option, fingerprint, found) is not None:
            break
        (step,), _ = _run(fingerprint, limits, [option])
        step = step or _too_large(option, fingerprint, limits, found)
        found = replace(found, steps=(*found.steps, step))
    return found


def _run(
    fingerprint: Fingerprint, limits: Limits, options: Sequence[Option]
) -> tuple[list[StepProbe | None], DataProbe]:
    settings = [_layout(option, fingerprint, limits) for option in options]
    return run_probes(
        [(each, fingerprint.num_classes) for each in settings],
        (settings[0], fingerprint.median_shape, fingerprint.num_classes),
        fingerprint.spacing,
        cores=limits.cores,
        device=limits.device,
    )


def _too_large(
    option: Option, fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> StepProbe:
    """A step that the system ended: it takes more than there is."""
    guess = step_cost(option, fingerprint, measured)
    there = free_memory() if limits.gpu_memory_gb is None else limits.gpu_memory_gb * 2**30
    return replace(guess, step_bytes=max(guess.step_bytes, round(2 * there)))


# ---------------------------------------------------------------- options


def patch_ladder(fingerprint: Fingerprint) -> list[Shape]:
    """Patches along X, Y, Z, smallest first, each at least a seventh larger; the last is the median scan if it may be.

    From the median scan, rounded up to multiples of 8, the axis that is longest in mm is cut again and again.

    >>> from monaiseg.fingerprint import Scan
    >>> patch_ladder(Fingerprint((Scan((36, 50, 35), (1.0, 1.0, 1.0)),), (), 1, 3))
    [(40, 56, 40)]
    """
    size = [max(GRAIN * math.ceil(n / GRAIN), 2 * GRAIN) for n in fingerprint.median_shape]
    rungs: list[Shape] = []
    while True:
        x, y, z = size
        voxels = x * y * z
        grown = not rungs or 8 * voxels <= 7 * math.prod(rungs[-1])
        if voxels <= MOST_VOXELS and grown and _is_plannable((x, y, z), fingerprint.spacing):
            rungs.append((x, y, z))
        axis = max(
            (a for a in range(3) if size[a] > 4 * GRAIN),
            key=lambda a: (size[a] * fingerprint.spacing[a], a),
            default=None,
        )
        if axis is None or (rungs and voxels <= LEAST_VOXELS):
            return rungs[::-1]
        size[axis] -= GRAIN


def _is_plannable(patch: Shape, spacing: Spacing) -> bool:
    try:
        plan_topology(NetworkSettings(variant=CPU_VARIANT), patch, spacing)
    except SettingsError:
        return False
    return True


def batch_sizes(patch: Shape) -> tuple[int, ...]:
    """Patches of a batch, the preferred number first; fewer where memory is short."""
    preferred = min(max(BATCH_VOXELS // math.prod(patch), 2), 4)
    return tuple(dict.fromkeys([preferred, 2, 1]))


def option_row(fingerprint: Fingerprint, limits: Limits) -> Iterator[tuple[Option, ...]]:
    """Options, the least demanding first; each as its batches, the preferred one first."""
    ladder = patch_ladder(fingerprint)
    narrow = [(ladder[0], width) for width in WIDTHS if width < SENSIBLE_WIDTH]
    sensible = [(patch, SENSIBLE_WIDTH) for patch in ladder]
    wide = [(ladder[-1], width) for width in WIDTHS if width > SENSIBLE_WIDTH]
    for patch, width in itertools.chain(narrow, sensible, wide):
        yield tuple(Option(_variant(limits), width, patch, batch) for batch in batch_sizes(patch))


def choose(
    fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> tuple[Option, Prediction]:
    """The most demanding option that the limits allow.

    Raises:
        SettingsError: they allow none; the smallest that do are named.
    """
    fitting: list[tuple[Option, Prediction]] = []
    worth: list[tuple[Option, Prediction]] = []
    for batches in option_row(fingerprint, limits):
        costs = [(option, predict(option, fingerprint, limits, measured)) for option in batches]
        fits = [pair for pair in costs if _fits(pair[1], limits)]
        if fits:
            fitting.append(fits[0])
            preferred, cost = costs[0]  # more steps of fewer patches are not worth more
            worth += fits[:1] if cost.steps >= WORTH[preferred.channels] else []
        elif not fitting:
            _refuse_memory(costs[-1][1], limits)
    option, cost = (worth or fitting[:1])[-1]
    if cost.steps < LEAST_STEPS:
        _refuse_minutes(option, fingerprint, limits, measured)
    return option, cost


def _fits(cost: Prediction, limits: Limits) -> bool:
    on_gpu = MEMORY_SLACK * cost.device_bytes
    if limits.gpu_memory_gb is not None and on_gpu > limits.gpu_memory_gb * 2**30:
        return False
    return cost.peak_bytes <= limits.memory_gb * 2**30


def _refuse_memory(cost: Prediction, limits: Limits) -> NoReturn:
    option, given, need = "--memory", limits.memory_gb, float(cost.peak_bytes)
    if limits.gpu_memory_gb is not None and need <= given * 2**30:
        option, given, need = "--gpu-memory", limits.gpu_memory_gb, MEMORY_SLACK * cost.device_bytes
    raise SettingsError(
        f"{option}: {given:g} GiB are too few for the smallest network on the smallest patch; give at least "
        f"{math.ceil(need / 2**30 * 10) / 10:g}"
    )


def _refuse_minutes(
    option: Option, fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> NoReturn:
    enough = limits.minutes
    steps = 0
    while steps < LEAST_STEPS:
        enough = math.floor(2 * enough + 1) / 2
        longer = replace(limits, minutes=enough)
        steps = predict(option, fingerprint, longer, measured).steps
    raise SettingsError(
        f"--minutes: {limits.minutes:g} are too few for the {LEAST_STEPS} steps that a network needs to learn anything; "
        f"use at least {enough:g}"
    )


# ---------------------------------------------------------------- what an option takes


def step_cost(option: Option, fingerprint: Fingerprint, measured: Measurements) -> StepProbe:
    """The step of an option as measured or, where it was not, from those of other widths and patches.

    Seconds and features go with the voxels; between widths they follow a power of the width.
    """
    if (exact := _exact(option, fingerprint, measured)) is not None:
        return exact
    near: dict[int, StepProbe] = {}  # of each width, the measured one whose batch is most like this
    voxels = option.patch_voxels * option.batch_size
    for probe in measured.steps:
        other = near.get(probe.channels)
        if probe.variant == option.variant and (
            other is None or _distance(probe, voxels) < _distance(other, voxels)
        ):
            near[probe.channels] = probe

    def at(value: Callable[[StepProbe], float]) -> float:
        return _by_power({width: value(probe) for width, probe in near.items()}, option.channels)

    parameters = at(lambda probe: probe.parameters)
    features = at(lambda probe: max(probe.step_bytes - 16 * probe.parameters, 1) / probe.voxels)
    return StepProbe(
        option.variant,
        option.channels,
        option.patch_shape,
        option.batch_size,
        fingerprint.num_channels,
        fingerprint.num_classes,
        step_seconds=at(lambda probe: probe.step_seconds / probe.voxels) * voxels,
        window_seconds=at(lambda probe: probe.window_seconds / math.prod(probe.patch_shape))
        * option.patch_voxels,
        step_bytes=round(features * voxels + 16 * parameters),  # weight, gradient, two moments
        parameters=round(parameters),
    )


def _exact(option: Option, fingerprint: Fingerprint, measured: Measurements) -> StepProbe | None:
    data = (fingerprint.num_channels, fingerprint.num_classes)
    for probe in measured.steps:
        other = Option(probe.variant, probe.channels, probe.patch_shape, probe.batch_size)
        if other == option and (probe.num_channels, probe.num_classes) == data:
            return probe
    return None


def _distance(probe: StepProbe, voxels: int) -> float:
    return abs(math.log(probe.voxels / voxels))


def _by_power(values: Mapping[int, float], width: int) -> float:
    """Between measured widths along the power that joins them, outside along the nearest such power.

    >>> _by_power({16: 1.0, 32: 4.0}, 64)
    16.0
    """
    widths = sorted(values)
    if len(widths) == 1:
        return values[widths[0]] * (width / widths[0]) ** 2
    upper = next((n for n in range(1, len(widths)) if width <= widths[n]), len(widths) - 1)
    a, b = widths[upper - 1], widths[upper]
    power = math.log(values[b] / values[a]) / math.log(b / a)
    return float(values[a] * (width / a) ** power)


def predict(
    option: Option, fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> Prediction:
    """What a training by an option is expected to take."""
    cost, data = step_cost(option, fingerprint, measured), measured.data
    cutting = data.patch_seconds_per_voxel * option.patch_voxels * option.batch_size
    step, workers = _beside(cost.step_seconds, cutting, limits)
    look = _validation(option, fingerprint, limits, measured)
    files = sum(math.prod(scan.shape) for scan in (*fingerprint.train, *fingerprint.val))
    reading = files * data.read_seconds_per_voxel / min(limits.cores, READERS)
    start = data.start_seconds + reading + UNSTEADY_STEPS * step
    pace = Pace(step, look.seconds, CLOSING_SECONDS)
    left = 60 * limits.minutes - start
    rough = (left - pace.ending - (VALIDATIONS - 1) * look.seconds) / step
    rhythm = Rhythm(max(math.ceil(rough / EPOCHS), 1), EPOCHS // VALIDATIONS)
    steps = rhythm.last_step(pace, 0, left, closed=0)
    computing = max(cost.step_bytes, _validating_bytes(option, cost, fingerprint))
    in_memory, peak = _memory(
        option,
        cost,
        fingerprint,
        limits,
        base=data.base_bytes,
        workers=workers,
        computing=computing,
    )
    return Prediction(
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
        device_bytes=computing,
        parameters=cost.parameters,
    )


def _beside(computing: float, cutting: float, limits: Limits) -> tuple[float, int]:
    """Seconds of a step and the workers that cut for it: none, where cutting between steps is quicker.

    A GPU has as many as keep it busy. On a processor a worker takes a core: one thread that waits for a core makes all
    others wait at the end of each operation (two cores: a worker beside two threads took 1.04 of the time of none, see
    benchmarks/RESULTS.md).
    """
    if limits.device != "cpu":
        workers = min(
            max(math.ceil(cutting / computing), 1), max(limits.cores - 1, 1), MOST_WORKERS
        )
        return max(computing, cutting / workers), workers
    between = computing + cutting
    others = limits.cores - 1
    beside = max(computing * limits.cores / others, cutting) if others else math.inf
    return (beside, 1) if beside < between else (between, 0)


def _validation(
    option: Option, fingerprint: Fingerprint, limits: Limits, measured: Measurements
) -> Validation:
    """The fullest validation that stays within its share of the minutes: windows first thin out, then cases."""
    window = step_cost(option, fingerprint, measured).window_seconds
    allowed = VALIDATION_SHARE * 60 * limits.minutes / VALIDATIONS
    for overlap in OVERLAPS:
        seconds = [
            WINDOW_SLACK * window * count_windows(shape, option.patch_shape, (overlap,) * 3)
            for shape in fingerprint.network_shapes(fingerprint.val, option.patch_shape)
        ]
        if sum(seconds) <= allowed:
            break
    totals = list(itertools.accumulate(seconds))
    cases = max(sum(total <= allowed for total in totals), min(1, len(totals)))
    return Validation(overlap, cases, totals[cases - 1] if cases else 0.0)


def _validating_bytes(option: Option, cost: StepProbe, fingerprint: Fingerprint) -> int:
    """What validation takes: scores of a slab, twice while it moves on, and windows on their way."""
    largest = _largest(option, fingerprint)
    longest = max(largest)
    slab = math.prod(largest) // longest * option.patch_shape[largest.index(longest)]
    windows = WINDOWS * option.patch_voxels
    scores = 4 * fingerprint.num_classes * (2 * slab + 3 * windows)
    # Half of a step's features are kept for the way back alone.
    features = cost.step_bytes * windows // (2 * cost.voxels)
    return scores + features + _case_bytes(largest, fingerprint)


def _memory(
    option: Option,
    cost: StepProbe,
    fingerprint: Fingerprint,
    limits: Limits,
    *,
    base: int,
    workers: int,
    computing: int,
) -> tuple[bool, int]:
    """Whether prepared cases wait in memory, and the most that the training and its workers take, in bytes."""
    scans = fingerprint.network_shapes((*fingerprint.train, *fingerprint.val), option.patch_shape)
    centres = 4 * sum(min(2 * MAX_CENTRES, math.prod(shape)) for shape in scans)
    cached = sum(_case_bytes(shape, fingerprint) for shape in scans) + centres
    resampled = fingerprint.prepared is None and not fingerprint.is_uniform
    per_voxel = RESAMPLING_BYTES if resampled else PREPARING_BYTES
    channels = fingerprint.num_channels
    preparing = (
        min(limits.cores, READERS) * per_voxel * channels * math.prod(max(scans, key=math.prod))
    )
    batch = 4 * (channels + 1) * option.patch_voxels * option.batch_size
    on_host = computing if limits.device == "cpu" else 0
    varying = max(on_host, preparing, BYTES_PER_WEIGHT * cost.parameters)
    peak = MEMORY_SLACK * (base + workers * (WORKER_BYTES + 8 * batch) + varying)
    kept = peak + MEMORY_SLACK * cached
    limit = limits.memory_gb * 2**30
    in_memory = cached <= CACHE_SHARE * limit and kept <= limit
    return in_memory, round(kept if in_memory else peak)


def _largest(option: Option, fingerprint: Fingerprint) -> Shape:
    """The shape of the largest case as the network gets it."""
    scans = (*fingerprint.train, *fingerprint.val)
    return max(fingerprint.network_shapes(scans, option.patch_shape), key=math.prod)


def _case_bytes(shape: Shape, fingerprint: Fingerprint) -> int:
    """Of a prepared case: intensities in float32, and class indices."""
    index = index_dtype(fingerprint.num_classes).itemsize
    return (4 * fingerprint.num_channels + index) * math.prod(shape)


# ---------------------------------------------------------------- the settings


def plan_settings(fingerprint: Fingerprint, limits: Limits, measured: Measurements) -> Plan:
    """The plan that follows from data, limits and measurements; equal ones give equal settings.

    Raises:
        SettingsError: the limits allow no training; the smallest that do are named.
    """
    option, cost = choose(fingerprint, limits, measured)
    passes = cost.steps * option.batch_size / len(fingerprint.train)
    document = json.loads(
        dump_settings(_layout(option, fingerprint, limits, cost.validation.overlap))
    )
    document["dataset"]["cache"]["where"] = "memory" if cost.in_memory else "disk"
    _augment(document["dataset"]["seg"], passes, mirror=fingerprint.can_mirror)
    document["tsk_set"] |= {
        "budget_minutes": limits.minutes,
        "num_threads": limits.cores - (cost.workers if limits.device == "cpu" else 0),
        "num_workers": cost.workers,
        "epochs": math.ceil(cost.steps / cost.rhythm.steps_per_epoch),
        "max_batch_num_per_epoch": [cost.rhythm.steps_per_epoch, cost.validation.cases, 0],
        "val_period": cost.rhythm.val_period,
        "checkpoint_period": 1 if cost.epoch_seconds > COMMIT_SECONDS else cost.rhythm.val_period,
        "checkpoint_steps": math.ceil(LOSS_SECONDS / cost.step_seconds)
        if cost.epoch_seconds > LOSS_SECONDS
        else None,
        "warmup_epochs": WARMUP_EPOCHS,
        "weight_averaging": _averaging(cost.steps),
    }
    settings = settings_from_dict(document)
    return Plan(settings, cost, _choices(settings, option, cost, fingerprint, limits, passes))


def _augment(seg: dict[str, Any], passes: float, *, mirror: bool) -> None:
    """Put the augmentation that goes with so many passes into `dataset.seg`."""
    change = seg["augmentation"]
    change["enabled"] = passes >= FEW_PASSES
    if passes >= MANY_PASSES:
        for name, values in STRONG.items():
            change[name] |= values
        if mirror:
            change["flip"]["left_right"] = 0.5
            seg["partition"]["flips"] = ["left_right"]


def _layout(
    option: Option, fingerprint: Fingerprint, limits: Limits, overlap: float = OVERLAPS[0]
) -> Settings:
    """Settings of an option: all that does not depend on how many steps it makes."""
    x, y, z = option.patch_shape
    return settings_from_dict(
        {
            "dataset": {
                "num_channels": fingerprint.num_channels,
                **_reading(fingerprint),
                "seg": {"patch_size": [z, y, x], "partition": {"overlap": overlap}},
            },
            "tsk_set": {
                "gpu_id": -1 if limits.device == "cpu" else 0,
                "batch_size": option.batch_size,
                "optim": {"optim_type": "adamw", "lr": LEARNING_RATE},
                "network": {
                    "variant": option.variant,
                    "channels": option.channels,
                    "norm": "group" if limits.device == "cpu" else "instance",
                    "deep_supervision_heads": 0 if limits.device == "cpu" else 2,
                },
            },
        }
    )


def _reading(fingerprint: Fingerprint) -> dict[str, Any]:
    """What of `dataset` says how volumes are read: by what they were prepared, or else at the median voxel size.

    That stands in the settings even where all scans have it: new ones may have another.
    """
    if fingerprint.prepared is None:
        window = fingerprint.window and {"clip_range": fingerprint.window, "method": "minmax"}
        return {"spacing": fingerprint.spacing[::-1], "intensity": window or {}}
    known = fingerprint.prepared
    return {  # sizes are kept along X, Y, Z
        "spacing": known["spacing"] and known["spacing"][::-1],
        "img_after_resize": (known["img_after_resize"] or (-1, -1, -1))[::-1],
        "intensity": known["intensity"],
    }


def _variant(limits: Limits) -> Literal["standard", "folded"]:
    return CPU_VARIANT if limits.device == "cpu" else "standard"


def _averaging(steps: int) -> float:
    """Decay whose memory is a fifteenth of the training, within 10 and 500 steps."""
    return round(1 - 1 / min(max(steps / AVERAGED_PARTS, 10), 500), 4)


def _choices(
    settings: Settings,
    option: Option,
    cost: Prediction,
    fingerprint: Fingerprint,
    limits: Limits,
    passes: float,
) -> tuple[Choice, ...]:
    """Each choice with its reason, in the order in which they follow from one another."""
    return (
        *_choices_of_network(settings, option, cost, fingerprint),
        *_choices_of_course(settings, cost, limits, passes),
        *_choices_of_machine(settings, cost, limits),
        _choice_of_validation(cost, limits),
    )


def _choices_of_network(
    settings: Settings, option: Option, cost: Prediction, fingerprint: Fingerprint
) -> tuple[Choice, ...]:
    network, patch = settings.tsk_set.network, option.patch_shape
    topology = plan_topology(network, patch, fingerprint.spacing)
    spacing = " x ".join(f"{size:g}" for size in fingerprint.spacing)
    scan, whole = fingerprint.median_shape, patch_ladder(fingerprint)[-1]
    holds_scan = all(p >= n for p, n in zip(patch, scan, strict=True))
    wider = next((width for width in WIDTHS if width > option.channels), None)
    return (
        Choice(
            f"spacing {spacing} mm",
            "the median of the volumes, which are read as they were prepared"
            if fingerprint.prepared is not None
            else "as in the files; new scans of another are resampled"
            if fingerprint.is_uniform
            else "the median of the scans, which differ",
        ),
        _choice_of_intensity(settings, fingerprint),
        Choice(
            f"patch {_times(patch)}",
            f"holds the median scan of {_times(scan)}"
            if holds_scan
            else f"the largest up to {_times(whole)} that memory and minutes allow; the median scan has {_times(scan)}",
        ),
        Choice(
            f"network {network.variant}, {option.channels} channels, {len(topology.strides)} stages, total stride "
            f"{_times(topology.total_stride)}",
            f"{cost.parameters / 1e6:.2f} million weights; "
            + (
                f"{wider} channels would want {WORTH[wider]} steps or more memory"
                if wider
                else "the widest"
            ),
        ),
        Choice(
            f"batch {option.batch_size}",
            f"{option.batch_size * option.patch_voxels / 1e6:.2f} million voxels a step",
        ),
    )


def _choice_of_intensity(settings: Settings, fingerprint: Fingerprint) -> Choice:
    scale = settings.dataset.intensity
    if fingerprint.prepared is not None:
        return Choice(f"intensities by {scale.method}", "as the volumes were prepared")
    if fingerprint.window is None:
        return Choice(f"intensities by {scale.method}", "of each image by itself")
    low, high = fingerprint.window
    return Choice(
        f"intensities clipped to {low:g} and {high:g}",
        "Hounsfield units, three standard deviations about the mean of what is labelled",
    )


def _choices_of_course(
    settings: Settings, cost: Prediction, limits: Limits, passes: float
) -> tuple[Choice, ...]:
    chosen = settings.tsk_set
    averaged = 1 / (1 - chosen.weight_averaging) / cost.steps
    return (
        Choice(
            f"{cost.steps} steps, {chosen.epochs} epochs of {cost.rhythm.steps_per_epoch}",
            f"what {limits.minutes:g} minutes hold; each training scan is seen about {passes:.0f} times",
        ),
        Choice(
            f"learning rate {chosen.optim.lr:g}, falling to nothing",
            f"warm-up of {chosen.warmup_epochs:g} epochs; weights averaged with decay {chosen.weight_averaging:g}, "
            f"{averaged:.0%} of the training",
        ),
        _choice_of_augmentation(settings, passes),
    )


def _choice_of_augmentation(settings: Settings, passes: float) -> Choice:
    if passes < FEW_PASSES:
        return Choice("augmentation off", f"on from {FEW_PASSES} times that a scan is seen")
    if passes < MANY_PASSES:
        return Choice(
            "augmentation default", f"strong from {MANY_PASSES} times that a scan is seen"
        )
    if settings.dataset.seg.partition.flips:
        return Choice(
            "augmentation strong, mirrored left to right",
            "so that scans are not learned by heart; the trained network averages over mirrored windows",
        )
    return Choice(
        "augmentation strong",
        "so that scans are not learned by heart; not mirrored: labels have no names, or a side without partner "
        "(`prepare --label-table`)",
    )


def _choices_of_machine(settings: Settings, cost: Prediction, limits: Limits) -> tuple[Choice, ...]:
    where = "on disk" if settings.dataset.cache.where == "disk" else "in memory"
    return (
        Choice(
            f"cache {where}",
            f"prepared scans may take {CACHE_SHARE:.0%} of {limits.memory_gb:g} GiB",
        ),
        Choice(
            f"{settings.tsk_set.num_threads} threads, {cost.workers} workers",
            "a worker cuts patches beside the step"
            if cost.workers
            else "patches are cut between steps, which a worker would slow down",
        ),
    )


def _choice_of_validation(cost: Prediction, limits: Limits) -> Choice:
    validation, share = cost.validation, VALIDATIONS * cost.validation.seconds / 60 / limits.minutes
    return Choice(
        f"validation every {cost.rhythm.val_period} epochs on {validation.cases} cases, overlap {validation.overlap:g}",
        f"{validation.seconds:.0f} s each, {share:.0%} of the minutes in all",
    )


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))
