"""Probes: seconds and memory that the parts of a run take on this machine, measured.

Each step on a CPU runs in its own process, so that its memory is not mixed up with that of another step. It uses the
same parts as a real run: network, loss, optimiser, chains and loader. `python -m monaiseg.planning.probes` is the entry
point of the measuring process, see `monaiseg.planning.questions`: it reads a question as JSON from each line of standard
input and writes the answer as a line of JSON to standard output.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.trainer import SupervisedTrainer
from monai.utils.type_conversion import dtype_numpy_to_torch
from torch.utils.data import Dataset

from monaiseg.atlas import random_atlas
from monaiseg.data import Case, LabelTable, Shape, Spacing, index_dtype, make_phantom, write_phantom
from monaiseg.errors import lack_of_memory
from monaiseg.machine import all_cores, busy_seconds, peak_process_memory, process_memory
from monaiseg.networks import ResidualUNet, build_loss, network_of
from monaiseg.settings import parse_settings
from monaiseg.training import SeededDataset, build_optimizer, build_trainer, compute_exactly
from monaiseg.transforms import CaseChain, Item, cached_chain, case_item, training_chain

MOST_RUNS = 6
"""Maximum number of steps that are run. The first is a warm-up and is not timed; after `LONG_SECONDS`, two timed steps
are enough."""
LONG_SECONDS = 3.0
LEAST_DISTURBANCE = 0.2
"""Cores that other programs take, on average, from which steps count as disturbed."""
MOST_DELAY = 10.0
"""A computer is not taken to be more than this many times faster than it was seen to be."""
PATCHES = 24
"""Number of patches that are cut and augmented; several, since random changes apply only to some of them."""
WINDOWS = 2
"""Number of windows that go through the network together at validation."""
PROBED = "monaiseg has measured a part"
"""Line by which the measuring process says how far it is."""
ANSWERED = "monaiseg has answered"
"""Line by which it says that the answer to a question is complete."""
MOST_READ = 2_000_000
"""Maximum number of voxels of the scan that is used to measure reading."""


@dataclass(frozen=True)
class StepProbe:
    """The measured cost of a training step."""

    variant: str
    channels: int
    """Channels of the network's first stage."""
    patch_shape: Shape
    batch_size: int
    num_channels: int
    num_classes: int
    step_seconds: float
    """Forward pass, loss, backward pass and update of the weights."""
    window_seconds: float
    """Forward pass of one window at validation."""
    step_bytes: int
    """Memory in addition to that of the process: weights, gradients, optimiser, features."""
    parameters: int
    disturbed: float = 0.0
    """Cores that other programs took meanwhile, on average; 0 if it was too little to matter."""

    @property
    def voxels(self) -> int:
        """Number of voxels in a batch."""
        return math.prod(self.patch_shape) * self.batch_size


@dataclass(frozen=True)
class DataProbe:
    """The measured cost of what surrounds the steps."""

    start_seconds: float
    """Time from the start of a process until everything is imported."""
    base_bytes: int
    """Memory of this process."""
    read_seconds_per_voxel: float
    """Time to read and prepare a case, on one thread."""
    patch_seconds_per_voxel: float
    """Time to cut and augment a patch, on one core."""


def step_of(record: Mapping[str, Any]) -> StepProbe:
    """A step from the output of `dataclasses.asdict`, after it was stored as JSON."""
    x, y, z = record["patch_shape"]
    return StepProbe(**{**record, "patch_shape": (x, y, z)})


def answer_questions(started: float) -> None:
    """Answer the questions on standard input until it is closed; this process was started at `time.time()` `started`."""
    start = {"start_seconds": time.time() - started, "base_bytes": process_memory()}
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer_question(json.loads(line), start)) + "\n")
        sys.stdout.flush()
        _tell(ANSWERED)


def answer_question(question: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """Measure what `MeasuringProcess.run` asks for. `start` has what the start of this process took."""
    spacing, cores = tuple(question["spacing"]), question["cores"]
    data = None
    if question["data"] is not None:
        raw, shape, classes = question["data"]
        found = _apart(_data_costs, raw, shape, classes, spacing)
        if found is None:
            raise MemoryError("preparing one case needs more memory than is free")
        data = {**start, **found}
        _tell(PROBED)
    steps = []
    on_gpu = torch.device(question["device"]).type == "cuda"
    measured = _in_place if on_gpu else _apart
    for raw, classes in question["steps"]:
        steps.append(measured(_step_costs, raw, classes, spacing, cores, question["device"]))
        _tell(PROBED)
    return {"steps": steps, "data": data}


def _tell(what: str) -> None:
    """Tell the asking process, which reads stderr, how far this one is."""
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def _in_place(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | None:
    """Measure in this process; None if the GPU ran out of memory.

    A GPU keeps count of its memory by itself, and to start CUDA in a process for each step would take seconds.
    """
    try:
        return measure(*arguments)
    except (RuntimeError, MemoryError) as error:
        if lack_of_memory(error) is None:
            raise
    finally:
        gc.collect()  # the parts of an engine refer to each other
        torch.cuda.empty_cache()
    return None


def _apart(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | None:
    """Measure in a separate process; None if it ran out of memory or the system killed it."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BrokenProcessPool:
            return None
        except (RuntimeError, MemoryError) as error:
            if lack_of_memory(error) is None:
                raise
            return None


def _step_costs(
    raw: str, num_classes: int, spacing: Spacing, cores: int, device_name: str
) -> dict[str, Any]:
    torch.set_num_threads(cores)
    before = process_memory()
    device = torch.device(device_name)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    settings = parse_settings(raw)
    compute_exactly(device, wanted=settings.tsk_set.deterministic)
    patch, batch_size = settings.patch_shape, settings.batch_size
    network = network_of(settings, LabelTable.from_values(range(num_classes)), spacing).to(device)
    image = torch.randn(batch_size, settings.dataset.num_channels, *patch)
    dtype = dtype_numpy_to_torch(index_dtype(num_classes))
    label = torch.randint(num_classes, (batch_size, 1, *patch), dtype=dtype)
    batch = {"image": image, "label": label}
    if network.prior is not None:
        network.prior.learn(*random_atlas(num_classes, patch, spacing))
        reach = network.prior.template.lattice.half_extent_mm.view(3, 1, 1, 1)
        batch["positions"] = (2 * torch.rand(batch_size, 3, *patch) - 1) * reach
    trainer = build_trainer(
        settings,
        network,
        build_optimizer(network, settings.tsk_set.optim),
        build_loss(settings.tsk_set.loss, num_classes),
        [batch | {"case_id": ["probe"] * batch_size}],  # type: ignore[arg-type]  # what a loader yields
        device,
        max_epochs=MOST_RUNS,
    )
    step_seconds, disturbed = _step_seconds(trainer, cores)
    taken = torch.cuda.max_memory_allocated(device) if on_gpu else peak_process_memory() - before
    network.eval()
    inputs = image if network.prior is None else torch.cat([image, batch["positions"]], dim=1)
    windows = inputs[:1].expand(WINDOWS, -1, -1, -1, -1).contiguous().to(device)
    return {
        "variant": settings.tsk_set.network.variant,
        "channels": settings.tsk_set.network.channels,
        "patch_shape": patch,
        "batch_size": batch_size,
        "num_channels": settings.dataset.num_channels,
        "num_classes": num_classes,
        "step_seconds": step_seconds,
        "window_seconds": _window_seconds(network, windows) / WINDOWS
        + _choosing_seconds(network, windows),
        "disturbed": disturbed,
        "step_bytes": taken,
        "parameters": sum(weight.numel() for weight in network.parameters()),
    }


def _step_seconds(trainer: SupervisedTrainer, cores: int) -> tuple[float, float]:
    """Seconds of the least disturbed of several steps after a warm-up step, and how disturbed the steps were.

    A step is *disturbed* by other programs if it takes longer than its threads compute: while they wait for a core, the
    clock goes on. If all were, the time that they computed is taken, which is what a quiet computer would need.
    """
    marks: list[tuple[float, float]] = []

    def mark(engine: Engine) -> None:
        float(engine.state.output["loss"].detach())  # type: ignore[index]  # MONAI's; waits for a GPU
        marks.append((time.perf_counter(), time.process_time()))
        if len(marks) > 2 and marks[-1][0] - marks[0][0] > LONG_SECONDS:
            engine.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
    before, begun, started = busy_seconds(), time.perf_counter(), time.process_time()
    trainer.run()
    pairs = itertools.pairwise(marks)
    steps = [(b[0] - a[0], (b[1] - a[1]) / cores) for a, b in pairs]
    wall, computing = (min(times) for times in zip(*steps, strict=True))
    own = time.process_time() - started
    others = (busy_seconds() - before - own) / (time.perf_counter() - begun)
    taken = others - (all_cores() - cores)  # other programs may have the cores that are left
    if taken < LEAST_DISTURBANCE:
        return wall, 0.0
    return min(wall, max(computing, wall / MOST_DELAY)), round(taken, 1)


@torch.inference_mode()
def _window_seconds(network: ResidualUNet, windows: torch.Tensor) -> float:
    """Least time of a forward pass as far as the features, after a warm-up pass."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        network.features(windows).sum().cpu()
        times.append(time.perf_counter() - started)
    return min(times[1:])


@torch.inference_mode()
def _choosing_seconds(network: ResidualUNet, windows: torch.Tensor) -> float:
    """Seconds to choose the classes of the voxels of a window, half of which belong to other windows as well."""
    block = torch.Size(network.block)
    shape = [min(n, 16) * step for n, step in zip(windows.shape[2:], block, strict=True)]
    x, y, z = (min(size, n) for size, n in zip(shape, windows.shape[2:], strict=True))
    part = windows[:1, :, :x, :y, :z]
    places = torch.arange(x * y * z // block.numel(), device=windows.device)[None]
    times = []
    for _ in range(2):
        features = network.features(part)
        started = time.perf_counter()
        network.logits_at(features, part, places).argmax(dim=1).cpu()
        times.append(time.perf_counter() - started)
    return min(times) * math.prod(windows.shape[2:]) / (x * y * z) / 2


def _data_costs(raw: str, shape: Shape, num_classes: int, spacing: Spacing) -> dict[str, Any]:
    torch.set_num_threads(1)
    settings, table = parse_settings(raw), LabelTable.from_values(range(num_classes))
    scale = min((MOST_READ / np.prod(shape)) ** (1 / 3), 1.0)
    x, y, z = (max(round(size * scale), 8) for size in shape)
    values = range(1, num_classes)
    with tempfile.TemporaryDirectory() as folder:
        made = make_phantom((x, y, z), spacing, label_values=list(values))
        image, label = write_phantom(folder, "probe", made)
        case = Case("probe", (image,) * settings.dataset.num_channels, label)
        chain = cached_chain(settings, table, for_training=True)
        chain(case_item(case))  # warm-up: loads what is imported on first use
        started = time.perf_counter()
        item = chain(case_item(case))
        read = time.perf_counter() - started
    patches = SeededDataset(_One(item), CaseChain(training_chain(settings, table)), seed=0)
    patches[1, 0, 0]
    started = time.perf_counter()
    for position in range(1, 1 + PATCHES):
        patches[1, position, 0]
    cut = (time.perf_counter() - started) / PATCHES
    return {
        "read_seconds_per_voxel": read / (x * y * z),
        "patch_seconds_per_voxel": cut / int(np.prod(settings.patch_shape)),
    }


class _One(Dataset[Item]):
    """A dataset that returns the same prepared case for every index."""

    def __init__(self, item: Item) -> None:
        self.item = item

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Item:
        return self.item


if __name__ == "__main__":
    answer_questions(float(sys.argv[1]))
