"""A training of a second, in a forked child that may be killed at any point, and what two equal ones have in common.

The parent imports torch and MONAI once; every child begins with them in memory and with nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimiser imports it: once is enough
from monai.engines.trainer import SupervisedTrainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monaiseg import cli
from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.errors import MonaisegError
from monaiseg.files import sha256_of
from monaiseg.preparation import prepare
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import loaders
from monaiseg.training import run as training
from monaiseg.training.handlers.dice import DiceOfLabels
from monaiseg.training.handlers.history import History
from monaiseg.training.handlers.seeded_steps import SeededSteps

DATA_TASK, TASK = "phantoms", "run"
DONE, REFUSED, FAILED, STOPPED = 0, 2, 1, 130
"""How a child ends: the exit codes of the command line."""


@dataclass(frozen=True)
class Variant:
    """One way to train: all of them have dropout, augmentation, weight averaging and a validation an epoch."""

    workers: int = 0
    persistent: bool = True
    schedule: str = "cosine"
    prefetch: int = 2
    threads: int = 1
    seed: int = 0

    def __str__(self) -> str:
        lasting = " persistent" if self.workers and self.persistent else ""
        ahead = f", {self.prefetch} ahead" if self.prefetch != 2 else ""
        return f"{self.workers}{lasting} workers{ahead}, {self.schedule}"

    @property
    def settings(self) -> Settings:
        """Three epochs of three steps; commits inside the epochs and at their ends; losses shown every other step."""
        return settings_from_dict(
            {
                "dataset": {
                    "cache": {"where": "memory"},
                    "seg": {"patch_size": [16, 16, 16], "augmentation": {"enabled": True}},
                },
                "tsk_set": {
                    "gpu_id": -1,
                    "num_threads": self.threads,
                    "seed": self.seed,
                    "num_workers": self.workers,
                    "batch_size": 2,
                    "epochs": 3,
                    "val_period": 1,
                    "checkpoint_period": 1,
                    "checkpoint_steps": 1,
                    "print_step": [2, 1, 1],
                    "max_batch_num_per_epoch": [3, 1, 1],
                    "weight_averaging": 0.9,
                    "save_fig_on": False,
                    "optim": {
                        "lr": 0.01,
                        "lr_scheduler": {
                            "type": self.schedule,
                            "plateau": {"patience": 0, "factor": 0.5, "threshold": 0.5},
                        },
                    },
                    "network": {
                        "channels": 8,
                        "num_stages": 2,
                        "deep_supervision_heads": 0,
                        "dropout": 0.2,
                    },
                },
            }
        )


VARIANTS = (
    Variant(),
    Variant(workers=2),
    Variant(workers=2, persistent=False),
    Variant(schedule="plateau", seed=2),  # its best epoch is not the last one
)


class Trainings:
    """Trainings of one small data task, each in a child, always in the same folder: its path is in their files."""

    def __init__(self, root: Path) -> None:
        for number in range(4):
            made = make_phantom((16, 18, 16), label_values=(1, 4), seed=number)
            write_phantom(root / "dataset", f"case_{number}", made)
        prepare(root / "dataset", root, DATA_TASK, train_size=75, val_size=25, test_size=0)
        self.root = root
        self.folder = root / DATA_TASK / TASK
        self.log = root / "children.txt"
        """What the children say."""

    def start(
        self,
        variant: Variant,
        prepared: Callable[[], object] = lambda: None,
        *,
        resume: bool = False,
        command_line: bool = False,
    ) -> int:
        """Fork a child that trains; `prepared` is called in it before. Returns its process id."""
        self._wait_for_the_clock()
        child = os.fork()
        if child == 0:
            code = FAILED
            try:
                self._be_alone()
                prepared()
                with _loading_as(variant):
                    train = self._by_command if command_line else self._train
                    code = train(variant, resume=resume)
            except MonaisegError as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
                code = REFUSED
            except BaseException:  # noqa: BLE001 - nothing may leave the child
                traceback.print_exc()
            finally:
                with suppress(OSError):  # whoever reads may have left
                    sys.stderr.flush()
                os._exit(code)
        return child

    def run(
        self,
        variant: Variant,
        prepared: Callable[[], object] = lambda: None,
        *,
        resume: bool = False,
        command_line: bool = False,
    ) -> int:
        """As `start`, and wait for its exit code; -9 where it was killed."""
        return ended(self.start(variant, prepared, resume=resume, command_line=command_line))

    def resumed(self, variant: Variant) -> str:
        """Resume once, to the end; the oracle of what then lies there."""
        code = self.run(variant, resume=True)
        if code != DONE:
            raise AssertionError(f"the resumed training ended with {code}: {self.said()}")
        return oracle(self.folder)

    def whole(self, variant: Variant) -> str:
        """The oracle of a training that nothing disturbs."""
        self.clear()
        if (code := self.run(variant)) != DONE:
            raise AssertionError(f"the undisturbed training ended with {code}: {self.said()}")
        return oracle(self.folder)

    def clear(self) -> None:
        """Forget the training that was there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def said(self) -> str:
        """The end of what the children said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _train(self, variant: Variant, *, resume: bool) -> int:
        result = training.train(
            variant.settings,
            output_root_path=self.root,
            data_task_name=DATA_TASK,
            task_name=TASK,
            resume=resume,
        )
        return STOPPED if result.interrupted else DONE

    def _by_command(self, variant: Variant, *, resume: bool) -> int:
        """As a user types it; returns what the shell would see."""
        file = self.root / "settings.json"
        file.write_text(dump_settings(variant.settings), encoding="utf-8")
        words = ["train", "-ts", file, "-o", self.root, "-dtn", DATA_TASK, "-tn", TASK]
        try:
            cli.app([*map(str, words), *(["--resume"] if resume else [])])
        except SystemExit as end:
            sys.stdout.flush()
            return int(end.code or 0)
        raise AssertionError("a command ends with an exit code")

    def _be_alone(self) -> None:
        """A group of its own, so that workers can be ended with it; what it says goes to the log."""
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background
        for number in (signal.SIGTERM, signal.SIGHUP):  # have some of them ignored
            signal.signal(number, signal.SIG_DFL)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - no path
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        warnings.simplefilter("default")

    def _wait_for_the_clock(self) -> None:
        """TensorBoard orders its files by the second they were opened in, then by process number as text."""
        stamps = [int(path.name.split(".")[3]) for path in self.folder.glob("events.*")]
        while stamps and max(stamps) >= int(time.time()):
            time.sleep(0.02)


def ended(child: int) -> int:
    """Exit code of a child, whose workers are ended too."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return code


@contextmanager
def _loading_as(variant: Variant) -> Iterator[None]:
    """The loader's workers last for the whole training, as in the product, or for an epoch, and work ahead."""
    original = loaders.DataLoader.__init__

    def changed(self: Any, *args: Any, **named: Any) -> None:
        if named.get("num_workers"):
            named["persistent_workers"] = variant.persistent
            named["prefetch_factor"] = variant.prefetch
        original(self, *args, **named)

    loaders.DataLoader.__init__ = changed  # type: ignore[method-assign]
    try:
        yield
    finally:
        loaders.DataLoader.__init__ = original  # type: ignore[method-assign]


# ---------------------------------------------------------------- points where a training can be killed


def at_every_point(act: Callable[[str], object]) -> None:
    """Call `act` with the name of each point that a training comes by, from now on and for good: only for children."""

    def before(owner: Any, name: str, point: str) -> None:
        original = getattr(owner, name)

        def first(*args: Any, **named: Any) -> Any:
            act(point)
            return original(*args, **named)

        setattr(owner, name, first)

    def after(owner: Any, name: str, point: str) -> None:
        original = getattr(owner, name)

        def then(*args: Any, **named: Any) -> Any:
            result = original(*args, **named)
            act(point)
            return result

        setattr(owner, name, then)

    before(SupervisedTrainer, "run", "start of the run")
    before(SeededSteps, "_seed_step", "start of a step")
    before(History, "_note_loss", "after a step")
    before(checkpoints, "_prune", "inside a commit, before older ones go")
    after(checkpoints, "write_atomic", "inside a commit, after a file")
    after(checkpoints, "commit", "after a commit")
    before(DiceOfLabels, "update", "inside a validation")
    after(checkpoints, "save_best", "after the best")
    before(History, "_note_epoch", "before the history")


def kill_at(number: int) -> Callable[[], None]:
    """For a child: it dies at the so-manieth point, counted from 1."""
    count = 0

    def count_and_kill(_: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: at_every_point(count_and_kill)


def points_of(trainings: Trainings, variant: Variant) -> list[str]:
    """Names of the points that an undisturbed training comes by, in order."""
    reading, writing = os.pipe()
    trainings.clear()
    child = trainings.start(
        variant, lambda: at_every_point(lambda point: os.write(writing, f"{point}\n".encode()))
    )
    os.close(writing)
    with os.fdopen(reading) as told:
        names = told.read().splitlines()
    if code := ended(child):
        raise AssertionError(f"the undisturbed training ended with {code}: {trainings.said()}")
    return names


# ---------------------------------------------------------------- the oracle


def oracle(folder: Path) -> str:
    """SHA-256 of everything that two equal trainings have in common, bit for bit."""
    return hashlib.sha256(json.dumps(content(folder), sort_keys=True).encode()).hexdigest()


def content(folder: Path) -> dict[str, Any]:
    """Weights, optimiser, schedule, best pointer, history, the best file's digest and the curves of TensorBoard."""
    saved = checkpoints.newest(folder)
    best = saved.best
    return {
        "place": (saved.step, saved.epoch, saved.epoch_closed),
        "network": exact(saved.network),
        "averaged": exact(saved.averaged),
        "optimizer": exact(saved.optimizer),
        "scheduler": exact(saved.scheduler),
        "best": best and (best.epoch, best.value.hex(), best.file, best.sha256),
        "best file": best and sha256_of(folder / "checkpoints" / best.file),
        "history": exact(saved.history),
        "history.csv": (folder / "history.csv").read_text(),
        "curves": curves(folder),
    }


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """The content without what names the settings: those of trainings that differ in how they load are others."""
    named = {"best", "best file"}
    return {part: it for part, it in found.items() if part not in named}


def exact(value: Any) -> Any:
    """Tensors by digest of their bytes, floats in hexadecimal."""
    if isinstance(value, torch.Tensor):
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), sha256_of(raw)]
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [exact(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def curves(folder: Path) -> dict[str, dict[int, str]]:
    """Every scalar as TensorBoard shows it, without seconds and memory, which are no one's to repeat."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # what is purged is as wanted
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    shown: dict[str, dict[int, str]] = {}
    for tag in events.Tags()["scalars"]:
        points = [(event.step, float(event.value).hex()) for event in events.Scalars(tag)]
        if [step for step, _ in points] != sorted({step for step, _ in points}):
            raise AssertionError(f"{tag}: steps {[step for step, _ in points]}")
        if tag == "seconds_per_iteration" or tag.startswith("memory_gib/"):
            points = [(step, "") for step, _ in points]
        shown[tag] = dict(points)
    return shown
