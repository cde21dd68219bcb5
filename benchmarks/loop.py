"""What the training loop adds to computing: seconds of its steps over those of forward, backward and update alone.

Both take the same batches, epoch by epoch in turn, in one process: first the whole loop (workers that cut and augment,
collation, MONAI's engine, handlers, clipping, average of the weights), then the network, loss and optimiser alone.
CPU time of all processes together is shown beside wall time: on a machine that others use as well it is the steadier one.

Usage: python benchmarks/loop.py DATASET [--settings FILE] [--steps 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import machine, prepare
from contest import Spent
from ignite.engine import Events
from monai.engines.trainer import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monaiseg.data.data_tasks import read_data_task
from monaiseg.settings.reading import load_settings
from monaiseg.settings.settings import Settings
from monaiseg.training.devices import choose_device
from monaiseg.training.engines import build_optimizer
from monaiseg.training.recipe import Recipe
from monaiseg.training.run import build_training, fit
from monaiseg.training.run_folder import RunFolder

SETTINGS = Path(__file__).parent.parent / "scripts" / "settings_for_hippocampus" / "seg_train"


class Clock:
    """Times each epoch of a training, and after it the bare computation on the same batches.

    Args:
        trainer: about to run.
        settings: of its optimiser.
    """

    def __init__(self, trainer: SupervisedTrainer, settings: Settings) -> None:
        self.trainer = trainer
        self.network = copy.deepcopy(trainer.network)  # its weights go their own way
        self.optimizer = build_optimizer(self.network, settings.tsk_set.optim)
        self.batches: list[Any] = []
        self.loop: list[Spent] = []
        self.bare: list[Spent] = []
        self.first_step: float | None = None
        self.trainer.add_event_handler(Events.EPOCH_STARTED, self._start)
        self.trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, self._first)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        steps = len(trainer.data_loader)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=steps), self._turn)

    def _start(self) -> None:
        self.started = Spent.by(psutil.Process())

    def _first(self) -> None:
        self.first_step = self.first_step or time.perf_counter()

    def _keep(self) -> None:
        self.batches.append(self.trainer.state.batch)

    def _turn(self) -> None:
        stopped = Spent.by(psutil.Process())
        self.loop.append(stopped.since(self.started, len(self.batches)))
        for batch in self.batches:
            self._step(batch)
        self.bare.append(Spent.by(psutil.Process()).since(stopped, len(self.batches)))
        self.batches.clear()

    def _step(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        logits = self.trainer.inferer(batch["image"], self.network)
        self.trainer.loss_function(logits, batch["label"]).backward()
        self.optimizer.step()


def timed(settings: Settings, task: Path) -> tuple[Clock, float]:
    """The clock of a training by these settings, and the seconds from nothing to the end of its first step."""
    started = time.perf_counter()
    with RunFolder.of(task, "loop").opened(resume=False) as folder:
        recipe = Recipe.of(settings, read_data_task(task), choose_device(-1))
        trainer, state = build_training(recipe, folder)
        clock = Clock(trainer, settings)
        fit(trainer, recipe, state, folder, say=lambda _: None)
    assert clock.first_step is not None
    return clock, clock.first_step - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--settings", type=Path, default=SETTINGS / "curr_task_settings.json")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    settings = load_settings(args.settings)
    changes = {
        "epochs": 1 + args.rounds,  # the first is not counted
        "max_batch_num_per_epoch": (args.steps, 0, 0),
        "val_period": 2 + args.rounds,
        "checkpoint_period": 2 + args.rounds,
    }
    task_settings = settings.tsk_set.model_copy(update=changes)
    settings = settings.model_copy(update={"tsk_set": task_settings})
    with tempfile.TemporaryDirectory() as folder:
        clock, first = timed(settings, prepare(args.dataset, Path(folder)))
    pairs = list(zip(clock.loop, clock.bare, strict=True))[1:]
    print(machine())
    for kind in ("wall", "cpu"):
        times = [(getattr(whole, kind), getattr(part, kind)) for whole, part in pairs]
        loop, bare = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(whole / part for whole, part in times)
        print(
            f"{kind} time a step: loop {loop:.3f} s, computing alone {bare:.3f} s, ratio {ratio:.3f}"
        )
    print(f"from settings to the first step: {first:.1f} s")


if __name__ == "__main__":
    main()
