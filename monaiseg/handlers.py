"""Handlers: what happens around the steps of MONAI's engines.

A *step* is one batch, counted from 1 through the whole training, ignite's `state.iteration`. A handler that writes
(the board, the history, the display) never ends a training: if its disk fails it says so once. One that holds
something (a signal, a file, the screen) does so while a `with` block runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines.utils import IterationEvents
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import Self

from monaiseg import distributed
from monaiseg.errors import DataError, MonaisegWarning, NumericsError
from monaiseg.files import write_atomic
from monaiseg.labels import LabelTable
from monaiseg.metrics import class_counts, dice_from_counts, mean_over_cases
from monaiseg.pictures import slice_picture

log = logging.getLogger("monaiseg")


class LabelFilter:
    """Sees to it that a batch's label maps hold class indices that the network has.

    Args:
        table: the network's classes.
        filtered: whether the loader gives class indices, as monaiseg's own do; then they are only checked. Else it
            gives label values, and these become class indices.
    """

    def __init__(self, table: LabelTable, *, filtered: bool = True) -> None:
        self.table = table
        self.filtered = filtered

    def attach(self, engine: Engine) -> None:
        """Look at every batch before its step."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._look)

    def _look(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        label: Tensor = batch["label"]
        try:
            if self.filtered:
                self._check(label)
            else:
                classes = self.table.class_indices(label.cpu().numpy().astype(np.int64))
                engine.state.batch = batch | {"label": torch.from_numpy(classes).to(label.device)}
        except DataError as error:
            raise DataError(f"step {engine.state.iteration}, {in_words(batch)}: {error}") from error

    def _check(self, label: Tensor) -> None:
        least, greatest = int(label.min()), int(label.max())
        if least < 0 or greatest >= self.table.num_classes:
            raise DataError(
                f"class indices {least} to {greatest}, but the network has classes 0 to "
                f"{self.table.num_classes - 1}; give label maps of class indices, or use filtered=False"
            )


class NanGuard:
    """Stops a training whose loss is not a finite number, before that can reach the weights.

    Args:
        checkpoints: folder of the training's commits.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def attach(self, engine: Engine) -> None:
        """Look at every loss before its gradient is taken."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._look)

    def _look(self, engine: Engine) -> None:
        loss, batch = _loss(engine), cast(Any, engine.state.batch)
        if math.isfinite(loss):
            return
        commits = sorted(self.checkpoints.glob("step-*.json"))
        last = (
            f"{commits[-1].with_suffix('.pt')} is as good as before"
            if commits
            else "nothing is committed yet"
        )
        raise NumericsError(
            f"step {engine.state.iteration}: the loss is {loss} on {in_words(batch)} at learning rate "
            f"{_learning_rate(engine):g}; {last}; look at these cases, or lower tsk_set.optim.lr"
        )


class StopOnSignal:
    """Lets SIGINT, SIGTERM and SIGHUP ask a training to end after its step. A second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs; only the main thread can. A signal that is ignored (nohup) stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        heard = [number for number in numbers if before[number] != signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        # Not by `logging`: its file may be half-way through a line.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C stops at once\n")


class DiceOfLabels(Metric):
    """Dice of each foreground label over whole cases, by counting voxels.

    Attached as "dice" it leaves in `state.metrics` the mean over labels of their means over cases, and in
    `state.metric_details` the list of those, background left out; NaN where no case has the label. Processes that
    validate together have one result; a case that several of them had counts once.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self.cases: list[tuple[str, list[float]]] = []
        self.labels: list[float] = []

    def iteration_completed(self, engine: Engine) -> None:
        """Count the cases of a batch, whether the engine has decollated it or not."""
        batch: Any = engine.state.batch
        for name, maps in itertools.zip_longest(case_ids(batch), _class_maps(engine.state.output)):
            self.update((name or f"{distributed.rank()}/{len(self.cases)}", *maps))

    def update(self, output: tuple[str, Tensor, Tensor]) -> None:
        """Count the voxels of a case: its name, and the class maps (1, X, Y, Z) of prediction and reference."""
        name, prediction, reference = output
        counts = class_counts(prediction, reference.to(prediction.device), self.num_classes)
        self.cases.append((name, dice_from_counts(counts.cpu()).tolist()))

    def compute(self) -> float:
        """Mean Dice."""
        turns = itertools.zip_longest(*distributed.exchanged(self.cases))  # as the cases were dealt
        cases = {name: dice for turn in turns for name, dice in filter(None, turn)}
        mean, self.labels = mean_over_cases(torch.tensor(list(cases.values()), dtype=torch.double))
        return mean

    def completed(self, engine: Engine, name: str) -> None:
        """At the end of a validation: the mean to `metrics`, each label's to `metric_details`."""
        super().completed(engine, name)
        engine.state.metric_details[name] = self.labels  # type: ignore[attr-defined]  # MONAI's


class ModelAverage:
    """Exponential moving average of a network's weights; with decay 0 it keeps none and costs nothing.

    Args:
        network: the network in training.
        decay: share of the average that stays at each change of the weights. Early on it is less,
            (1 + step) / (10 + step), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = _copy(network.state_dict()) if decay else None
        # The network's own tensors stay where they are in memory.
        own = network.state_dict()
        pairs = [(average, own[name]) for name, average in (self.weights or {}).items()]
        self._learned = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as this step has changed them."""
        if self._learned:
            averages, values = zip(*self._learned, strict=True)
            decay = min(self.decay, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(averages, values, step)  # type: ignore[no-untyped-call]  # torch's
        for average, value in self._counted:  # batch normalisation's
            average.copy_(value)

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of the network's buffers, which count and do not learn: batch normalisation's."""
        names = dict(self.network.named_buffers())
        return [average for name, average in (self.weights or {}).items() if name in names]

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The network has the averaged weights while the block runs."""
        if self.weights is None:
            yield
            return
        own = _copy(self.network.state_dict())
        self.network.load_state_dict(self.weights)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor] | None:
        """The averaged weights, for the checkpoint."""
        return self.weights

    def load_state_dict(self, weights: Mapping[str, Tensor] | None) -> None:
        """Go on from these averaged weights or, where there are none, from the network's own."""
        if self.weights is not None:
            for name, value in (weights or self.network.state_dict()).items():
                self.weights[name].copy_(value)


class HistoryCsv:
    """One row an epoch as CSV. The rows live in the commits; the file is written anew from them each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_failed = False

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put all rows into the file; a column is empty where a row lacks it, and `nan` where Dice is undefined."""
        text = io.StringIO()
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        payload = text.getvalue().encode()
        try:
            if not (self.path.is_file() and self.path.read_bytes() == payload):
                write_atomic(self.path, payload)
        except OSError as error:
            if not self._has_failed:
                warnings.warn(
                    f"{error}. Training goes on; the rows are in its checkpoints and are written again after "
                    "every epoch",
                    MonaisegWarning,
                    stacklevel=2,
                )
            self._has_failed = True


class TensorBoardLog:
    """Loss, learning rate, seconds, Dice of each named label and pictures, as TensorBoard events in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._step = 0
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._since = 0.0

    def state_dict(self) -> list[float]:
        """Losses of the steps since the last entry, for the checkpoint."""
        return self._losses

    def stand_at(self, step: int, losses: Sequence[float] = ()) -> None:
        """The training goes on after this step: TensorBoard drops what a killed one had written of later ones.

        `losses` is what `state_dict` gave then.
        """
        self._step, self._losses = step, list(losses)

    def __enter__(self) -> Self:
        with self._once_only():
            self._writer = SummaryWriter(str(self.folder), purge_step=self._step + 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(lambda writer: writer.close())
        self._writer = None

    def attach(self, engine: Engine, every: int) -> None:
        """Write loss, learning rate and seconds of a step at every so-manieth step, as means since the last time."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_clock)  # validation is no step
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=every), self._write_step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the scores in an epoch's row under their names: `dice/mean`, `dice/<label name>`, `dice_debug/...`."""
        for name, value in row.items():
            if name.startswith("dice") and math.isfinite(value):
                self._scalar(name, value, row["step"])
        self.flush()

    def flush(self) -> None:
        """Hand everything to the disk; to be called before a commit, which says that it is there."""
        self._write(lambda writer: writer.flush())

    def slices(self, case_id: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture (rows, columns, 3) of a case."""
        self._write(
            lambda writer: writer.add_image(f"slices/{case_id}", picture, step, dataformats="HWC")
        )

    def _start_clock(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        now = time.perf_counter()
        self._losses.append(_loss(engine))
        self._seconds.append(now - self._since)
        self._since = now

    def _write_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._scalar("loss/train", sum(self._losses) / len(self._losses), step)
        self._scalar("learning_rate", _learning_rate(engine), step)
        self._scalar("seconds_per_iteration", sum(self._seconds) / len(self._seconds), step)
        self._losses, self._seconds = [], []

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._write(lambda writer: writer.add_scalar(name, value, step))

    def _write(self, action: Callable[[SummaryWriter], object]) -> None:
        if self._writer is not None:
            with self._once_only():
                action(self._writer)

    @contextlib.contextmanager
    def _once_only(self) -> Iterator[None]:
        """What the block meets is said once; after it nothing is written any more."""
        try:
            yield
        except Exception as error:
            if "DataLoader worker" in str(error):  # torch says wherever we are that one has died
                raise
            self._writer = None
            warnings.warn(
                f"{self.folder}: TensorBoard events cannot be written ({error}); training goes on without them",
                MonaisegWarning,
                stacklevel=2,
            )


class _Screen(Console):
    """A console whose reader may leave (`| head`): the training that it shows goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(
            OSError
        ):  # what is still in the file's buffer goes nowhere, quietly
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class ProgressDisplay:
    """Epoch, loss, Dice and time left: a live line on a terminal, one plain line an epoch elsewhere and in the log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = _Screen(stderr=True) if console is None else console
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._line = self._bar.add_task("")
        self._first = 0
        self._steps: float = 0
        self._epoch_length = 1
        self._started = 0.0
        self._dice = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The live line stands on the screen while the block runs."""
        with self._bar:
            yield

    def attach(self, engine: Engine) -> None:
        """Follow the steps of a training."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)

    def end_at(self, last_step: float) -> None:
        """The training now ends with this step; infinite where that is not decided yet."""
        self._steps = last_step
        self._bar.update(self._line, total=last_step if math.isfinite(last_step) else None)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Say what an epoch's row holds: epoch, step, loss and, after a validation, `dice/mean`."""
        if "dice/mean" in row:
            self._dice = f", Dice {row['dice/mean']:.4f}"
        line = self._sentence(row["epoch"], row["step"], row["loss"])
        log.info("%s", line)
        if not self.console.is_terminal:
            with contextlib.suppress(OSError):  # sent to a file whose disk is full
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _start(self, engine: Engine) -> None:
        state: Any = engine.state
        self._started, self._first = time.monotonic(), state.iteration
        self._epoch_length = state.epoch_length
        self.end_at(state.max_epochs * state.epoch_length)
        self._bar.update(self._line, completed=state.iteration)

    def _follow(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._bar.update(
            self._line,
            completed=step,
            description=self._sentence(engine.state.epoch, step, _loss(engine)),
        )

    def _sentence(self, epoch: int, step: int, loss: float) -> str:
        if not math.isfinite(self._steps):
            return f"epoch {epoch}, loss {loss:.4f}{self._dice}"
        speed = (time.monotonic() - self._started) / max(step - self._first, 1)
        left = _duration(speed * (self._steps - step))
        epochs = math.ceil(self._steps / self._epoch_length)
        return f"epoch {epoch} of {epochs}, loss {loss:.4f}{self._dice}, {left} left"


def _class_maps(output: Any) -> list[tuple[Tensor, Tensor]]:
    """Prediction and reference of each case, whether the engine has decollated its batch or not."""
    if isinstance(output, Mapping):
        return list(zip(output["pred"], output["label"], strict=True))
    return [(case["pred"], case["label"]) for case in output]


def case_ids(batch: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """The cases that a batch was cut from, each once; none where the loader does not say."""
    if not isinstance(batch, Mapping):
        return [name for item in batch for name in case_ids(item)]
    ids = batch.get("case_id", [])
    return list(dict.fromkeys([ids] if isinstance(ids, str) else map(str, ids)))


def in_words(batch: Mapping[str, Any] | None) -> str:
    """The cases of a batch, to be named in a message; engines have None while they wait for one.

    >>> in_words({"case_id": ["S01", "S07", "S01"]})
    'cases S01, S07'
    """
    ids = case_ids(batch or {})
    return f"cases {', '.join(ids)}" if ids else "cases unknown"


def picture_of(state: Any, table: LabelTable) -> NDArray[np.uint8]:
    """Image, reference and prediction of the last case that an evaluator saw, side by side: (rows, columns, 3)."""
    image = state.output["image"][0, 0].cpu().numpy()  # (X, Y, Z) of the first channel
    maps = [state.output[key].reshape(image.shape).cpu().numpy() for key in ("label", "pred")]
    return slice_picture(image, maps, table)


def _loss(engine: Any) -> float:
    return float(engine.state.output["loss"].detach())


def _learning_rate(engine: Any) -> float:
    """The rate of a SupervisedTrainer's optimiser."""
    return float(engine.optimizer.param_groups[0]["lr"])


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _duration(3723.4)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
