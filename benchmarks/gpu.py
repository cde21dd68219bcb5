"""What is claimed of GPUs: speed, scores, memory, exactness. `gpu.sh` starts it; each result is one line.

Parts, all by default:

card         name, free memory, versions
steps        seconds and memory of a training step: exact, fastest, in bfloat16, and of MONAI's DynUNet with its own loss
windows      a brain of 145 classes from file to file, without start-up, and where its time goes
hippocampus  plan and train for some minutes: seconds of the plan, share of time waiting for data, memory, test Dice
scans        the hippocampus scans through `hippocampus`'s network, without start-up
exact        two equal runs, and runs killed and resumed: how many tensors of their checkpoints differ
tests        `pytest -m gpu`

Usage: python benchmarks/gpu.py DATA OUTPUT [PART ...] [--device cuda] [--minutes 1] [--kills 4] [--small]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import LABELS, MONAISEG, RIVALS, machine
from ignite.engine import Events
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet

from monaiseg.data import LabelTable, read_data_task
from monaiseg.machine import peak_process_memory
from monaiseg.networks import ResidualUNet, build_loss, plan_topology
from monaiseg.prediction import Predictor, predict_files
from monaiseg.settings import (
    NetworkSettings,
    OptimSettings,
    dump_settings,
    load_settings,
    settings_from_dict,
)
from monaiseg.training import (
    Checkpoint,
    Recipe,
    RunFolder,
    build_optimizer,
    build_training,
    compute_exactly,
    device_in_words,
    fit,
    newest,
    opened,
)

GIB = 2**30
REPOSITORY = RIVALS.parents[1]
BEGUN = time.perf_counter()
WARM_UP = 20
"""Steps of a run before its waiting is counted: workers start, and cuDNN chooses."""


def say(what: str) -> None:
    """Print a result with the seconds so far."""
    print(f"[{time.perf_counter() - BEGUN:4.0f} s] {what}", flush=True)


class Bench:
    """What the parts share: where to compute, data, sizes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.data, self.output = args.data, args.output
        self.minutes, self.kills, self.small = args.minutes, args.kills, args.small
        self.on_gpu = self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the GPU has computed all that it was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give back memory of the GPU and forget its peak."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float:
        """Peak memory on the GPU since `forget`; without one, that of this process."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.on_gpu else 0
        return (peak or peak_process_memory()) / GIB

    def monaiseg(self, *words: object, log: str) -> str:
        """Run the program and keep what it says in a log; returns its standard output."""
        command = [*MONAISEG, *map(str, words)]
        with (self.output / f"{log}.log").open("w") as errors:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)  # noqa: S603, PLW1510
        (self.output / f"{log}.out").write_text(done.stdout)
        if done.returncode:
            raise RuntimeError(f"{log}: exit code {done.returncode}, see {errors.name}")
        return done.stdout

    def hippocampus(self) -> Path:
        """The prepared hippocampus dataset."""
        folder = self.output / "work" / "hippocampus"
        if not folder.is_dir():
            scans = self.data / "hippocampus"
            self.monaiseg(
                "prepare", scans, "-o", folder.parent, "--seed", 0, "--label-table", LABELS, log="prepare",
            )  # fmt: skip
        return folder


# ---------------------------------------------------------------- card, steps


def card(bench: Bench) -> None:
    where = device_in_words(bench.device)
    cuda = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    say(f"card: {where}, torch {torch.__version__}, {cuda}; {machine()}")


def steps(bench: Bench) -> None:
    shape, batch, classes = ((32, 32, 32), 2, 5) if bench.small else ((128, 128, 128), 2, 145)
    settings = NetworkSettings(channels=8 if bench.small else 32, deep_supervision_heads=0)
    topology = plan_topology(settings, shape, (1.0, 1.0, 1.0))

    def ours() -> torch.nn.Module:
        return ResidualUNet(settings, topology, 1, classes)

    def theirs() -> torch.nn.Module:
        kernels, strides = [list(map(list, of)) for of in (topology.kernels, topology.strides)]
        return DynUNet(
            3, 1, classes, kernels, strides, strides[1:], filters=topology.channels, res_block=True,
        )  # fmt: skip

    our_loss = build_loss(settings_from_dict({}).tsk_set.loss, classes)
    their_loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    image = torch.randn(batch, 1, *shape)
    label = torch.randint(classes, (batch, 1, *shape), dtype=torch.uint8)
    half = torch.float16 if bench.on_gpu else torch.bfloat16
    found = {}
    for name, make, loss, dtype, exact in (
        ("exact", ours, our_loss, half, True),
        ("fastest", ours, our_loss, half, False),
        ("bfloat16, exact", ours, our_loss, torch.bfloat16, True),
        ("MONAI's DynUNet, fastest", theirs, their_loss, half, False),
    ):
        compute_exactly(bench.device, wanted=exact)
        found[name] = _step_seconds(bench, make(), loss, image, label, dtype)
        say(
            f"step, {name}: {found[name]:.4f} s, {bench.peak_gib():.1f} GiB ({'x'.join(map(str, shape))}, {classes} classes)"
        )
    say(f"price of exactness: {found['exact'] / found['fastest'] - 1:+.1%} of a step")
    compute_exactly(bench.device, wanted=True)


def _step_seconds(
    bench: Bench,
    network: torch.nn.Module,
    loss: torch.nn.Module,
    image: torch.Tensor,
    label: torch.Tensor,
    dtype: torch.dtype,
) -> float:
    """Median of some steps after the first, from a batch on the device to the new weights."""
    bench.forget()
    network, loss = network.to(bench.device).train(), loss.to(bench.device)
    image, label = image.to(bench.device), label.to(bench.device)
    optimizer = build_optimizer(network, OptimSettings())
    scaler = torch.amp.GradScaler(bench.device.type, enabled=dtype == torch.float16)
    seconds = []
    for _ in range(4 if bench.small else 12):
        bench.wait()
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, dtype=dtype):
            value = loss(network(image), label)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        bench.wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[len(seconds) // 3 :])


# ---------------------------------------------------------------- windows


def windows(bench: Bench) -> None:
    scan = min((bench.data / "brain_miccai2012" / "images").glob("*.nii*"))
    predictor = Predictor(_untrained(bench), device=bench.device)
    output = bench.output / "brain_pred.nii.gz"
    if not bench.small:
        predictor.predict_file(scan, output)  # the first is slower
    bench.forget()
    marks = [time.perf_counter()]
    read = predictor.read(scan)
    marks.append(time.perf_counter())
    found = predictor.infer(read)
    bench.wait()
    marks.append(time.perf_counter())
    predictor.write(read, found, output)
    marks.append(time.perf_counter())
    parts = [b - a for a, b in itertools.pairwise(marks)]
    where = ", ".join(f"{n} {s:.2f}" for n, s in zip(("read", "compute", "write"), parts, strict=True))  # fmt: skip
    say(f"brain from file to file: {sum(parts):.2f} s ({where}), {bench.peak_gib():.2f} GiB")


def _untrained(bench: Bench) -> Checkpoint:
    """A network of 145 classes that has learned nothing: what it computes takes as long."""
    channels, patch = (8, [48, 48, 48]) if bench.small else (32, [128, 128, 128])
    settings = settings_from_dict(
        {
            "dataset": {"spacing": [1.0, 1.0, 1.0], "seg": {"patch_size": patch}},
            "tsk_set": {"network": {"channels": channels}},
        }
    )
    table = LabelTable.from_values(range(145))
    topology = plan_topology(settings.tsk_set.network, settings.patch_shape, (1.0, 1.0, 1.0))
    network = ResidualUNet(settings.tsk_set.network, topology, 1, table.num_classes)
    return Checkpoint(
        step=1,
        epoch=1,
        epoch_closed=True,
        network=network.state_dict(),
        settings=dump_settings(settings),
        labels=table.to_records(),
        channels=("image",),
        spacing=(1.0, 1.0, 1.0),
        conditions={},
    )


# ---------------------------------------------------------------- hippocampus, scans


def hippocampus(bench: Bench) -> None:
    task, file = bench.hippocampus(), bench.output / "planned.json"
    started = time.perf_counter()
    text = bench.monaiseg(
        "plan", task, "--minutes", bench.minutes, "--device", bench.device, "-o", file, "--force", "--json", log="plan",
    )  # fmt: skip
    seconds, forecast = time.perf_counter() - started, json.loads(text)["forecast"]
    expected = forecast["device_bytes" if bench.on_gpu else "peak_bytes"] / GIB
    say(f"plan for {bench.minutes:g} minutes: {seconds:.1f} s; expects {expected:.2f} GiB")

    bench.forget()
    run = task / "planned"
    shutil.rmtree(run, ignore_errors=True)
    done, waited, busy = _trained(bench, task, run, file)
    share = waited / max(waited + busy, 1e-9)
    say(f"trained: {done} steps, {share:.1%} of the time waiting for data")
    say(f"memory: {bench.peak_gib():.2f} GiB at most, the plan expected {expected:.2f}")
    bench.monaiseg("evaluate", run, "--device", bench.device, log="evaluate")
    scores = json.loads((run / "records" / "test" / "summary.json").read_text())
    mean = scores["mean_dice"]
    say(
        f"test split after {bench.minutes:g} minutes: mean Dice {mean['value']:.4f} ({mean['low']:.4f} to {mean['high']:.4f}) "
        f"on {mean['cases']} cases"
    )


def _trained(bench: Bench, task: Path, run: Path, file: Path) -> tuple[int, float, float]:
    """Train a planned run here: its steps, and the seconds that they waited for data and computed."""
    marks: list[tuple[str, float]] = []
    begun, folder = time.monotonic(), RunFolder(run)
    with opened(folder, resume=False):
        recipe = Recipe.of(load_settings(file), read_data_task(task), bench.device)
        trainer, state = build_training(recipe, folder, started=begun, show_progress=False)
        for name, event in (
            ("wait", Events.GET_BATCH_STARTED),
            ("go", Events.GET_BATCH_COMPLETED),
            ("end", Events.ITERATION_COMPLETED),
        ):
            trainer.add_event_handler(event, lambda _, n=name: marks.append((n, time.perf_counter())))  # fmt: skip
        fit(trainer, recipe, state, folder, lambda _: None)
    steady = marks[3 * WARM_UP :]
    spans = {"wait": 0.0, "go": 0.0, "end": 0.0}
    for (name, begin), (_, end) in itertools.pairwise(steady):
        spans[name] += end - begin
    return trainer.state.iteration, spans["wait"], spans["go"]


def scans(bench: Bench) -> None:
    model = bench.hippocampus() / "planned"
    if not model.is_dir():
        say("scans: there is no network; run the part hippocampus before")
        return
    files = sorted((bench.data / "hippocampus" / "images").glob("*.nii*"))
    files = files[: 8 if bench.small else 100]
    out = bench.output / "labels"
    shutil.rmtree(out, ignore_errors=True)
    predictor = Predictor(model, device=bench.device)
    predictor.predict(files[0])
    started = time.perf_counter()
    count = sum(1 for _ in predict_files(predictor, [[file] for file in files], out))
    seconds = time.perf_counter() - started
    say(f"{count} hippocampus scans: {seconds:.1f} s, {1000 * seconds / count:.0f} ms each")


# ---------------------------------------------------------------- exact, tests

RUN = {
    "dataset": {"seg": {"patch_size": [32, 48, 32]}},
    "tsk_set": {
        "epochs": 4,
        "max_batch_num_per_epoch": [40, 2, 0],
        "val_period": 2,
        "checkpoint_steps": 5,
        "num_workers": 2,
        "weight_averaging": 0.9,
        "network": {"channels": 16, "dropout": 0.1},
    },
}
"""Everything that has a state or is drawn at random: dropout, augmentation, averaging, the scale of gradients."""


def exact(bench: Bench) -> None:
    task, file = bench.hippocampus(), bench.output / "exact.json"
    document = json.loads(json.dumps(RUN))
    if bench.small:
        document["tsk_set"]["max_batch_num_per_epoch"] = [6, 1, 0]
        document["tsk_set"]["network"]["channels"] = 8
    file.write_text(dump_settings(settings_from_dict(document)))
    words = ["train", task, "--settings", file, "--device", bench.device]
    names = ["one", "two", "killed"]
    for name in names:
        shutil.rmtree(task / name, ignore_errors=True)
    started = time.perf_counter()
    for name in names[:2]:
        bench.monaiseg(*words, "--name", name, log=name)
    usual = (time.perf_counter() - started) / 2
    kills = _killed(bench, [*words, "--name", "killed"], task / "killed", usual)
    one, two, killed = (_tensors(newest(task / name)) for name in names)
    say(f"two equal runs: {_unequal(one, two)} of {len(one)} tensors differ")
    say(f"killed {kills} times and resumed: {_unequal(one, killed)} of {len(one)} tensors differ")


def _killed(bench: Bench, words: list[object], run: Path, seconds: float) -> int:
    """Kill a run by SIGKILL at random moments and resume it until it ends; returns the number of kills."""
    draws, kills, resume = random.Random(0), 0, []  # noqa: S311  moments, no secrets
    while True:
        command = [*MONAISEG, *map(str, [*words, *resume])]
        with (bench.output / "killed.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
            while process.poll() is None and not list((run / "checkpoints").glob("step-*.json")):
                time.sleep(0.05)
            try:
                wait = draws.uniform(0.05, 0.6) * seconds if kills < bench.kills else None
                code = process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills, resume = kills + 1, ["--resume"]
                continue
        if code:
            raise RuntimeError(f"killed: exit code {code}, see {bench.output / 'killed.log'}")
        return kills


def _tensors(saved: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their path."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}/{key}")

    walk({"network": saved.network, "averaged": saved.averaged, "optimizer": saved.optimizer}, "")
    return found


def _unequal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> int:
    return sum(1 for key in a.keys() | b.keys() if not (key in a and key in b and torch.equal(a[key], b[key])))  # fmt: skip


def tests(bench: Bench) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]  # fmt: skip
    env = os.environ if bench.on_gpu else {**os.environ, "MONAISEG_GPU_TESTS_ON": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env)  # noqa: S603, PLW1510
    (bench.output / "tests.log").write_text(done.stdout + done.stderr)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            say(f"tests: {line[:160]}")
    say(f"tests: {(done.stdout.strip().splitlines() or ['nothing was said'])[-1]}")


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (card, steps, windows, hippocampus, scans, exact, tests)
}


def main() -> None:
    """Run the parts; one that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a trial on a CPU")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    for name in args.parts or PARTS:
        try:
            PARTS[name](bench)
        except Exception as error:  # noqa: BLE001  the other parts still say something
            say(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    say("done")


if __name__ == "__main__":
    main()
