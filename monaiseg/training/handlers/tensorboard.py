"""TensorBoard: losses, scores, settings and pictures of a run."""

from __future__ import annotations

import contextlib
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from monaiseg.data import Grid, LabelTable
from monaiseg.errors import MonaisegWarning
from monaiseg.evaluation import Look, draw_case, middle_point, pixels_of
from monaiseg.machine import process_memory
from monaiseg.training.handlers.batches import case_ids, learning_rate_of, loss_of
from monaiseg.training.handlers.steps import (
    RunEvents,
    at_the_end,
    is_broken_off,
    last_step_of,
    listen,
    scores_of,
    weights_change,
)

LABELS_IN_CHART = 8
"""Curves in one chart of the tab "Custom Scalars": more cannot be told apart."""
MOST_PICTURES = 2
"""Validation cases that are drawn."""
GIB = 2**30


class TensorBoardLog:
    """Writes loss, learning rate, gradient norm, seconds, memory and scores to a folder as TensorBoard events.

    The Dice of each label has the tag `dice_of_labels/<label>`; the tab "Custom Scalars" has charts of a few labels
    each. The lowest and the median Dice are in the group of the mean.

    Unlike MONAI's `TensorBoardStatsHandler`, it removes what a killed run wrote after its last checkpoint, and training
    continues without it if the disk is full.

    Args:
        folder: folder to write to.
        every: steps between two entries; each entry is the mean since the previous one.
        waiting: losses since the last entry; the handler appends to it and clears it. Checkpoints save it.
        done: number of steps before this run. Ignite's own count is 0 if only the end of the last epoch remains.
        labels: names of the labels, for the charts.
        settings: text of the settings, for the tab "Text".
        choices: settings by name, for the tab "HParams"; with the final scores they are written when a run is complete.
    """

    def __init__(
        self,
        folder: Path,
        every: int = 1,
        waiting: list[float] | None = None,
        done: int = 0,
        *,
        labels: Sequence[str] = (),
        settings: str = "",
        choices: Mapping[str, float | str] | None = None,
    ) -> None:
        self.folder, self.every, self.done = folder, every, done
        self.labels, self.settings, self.choices = labels, settings, dict(choices or {})
        self._losses = [] if waiting is None else waiting
        self._writer: SummaryWriter | None = None
        self._seconds: list[float] = []
        self._since = 0.0
        self._final: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Write an entry after every `every` steps, and the scores in `state.metrics` after each epoch."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_clock)  # exclude validation
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._write_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_scores)
        # A resumed run does not write entries up to the step of its checkpoint again, so they must be on disk by then.
        listen(engine, RunEvents.COMMITTING, self._flush)
        at_the_end(engine, lambda: self._close(engine))

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture, shape (rows, columns, 3)."""
        self._write(lambda writer: writer.add_image(name, picture, step, dataformats="HWC"))

    def _open(self, engine: Engine) -> None:
        """Open the writer; TensorBoard then drops entries of a killed run for steps that this run repeats."""
        done = max(engine.state.iteration, self.done)
        with self._once_only():
            self._writer = SummaryWriter(str(self.folder), purge_step=done + 1)
        if self.labels:
            self._write(lambda writer: writer.add_custom_scalars(charts(self.labels)))
        if self.settings:
            text = "\n".join(f"    {line}" for line in self.settings.splitlines())  # verbatim
            self._write(lambda writer: writer.add_text("settings", text, done))

    def _close(self, engine: Engine) -> None:
        if engine.state.iteration >= last_step_of(engine):
            self._write_choices()
        self._write(lambda writer: writer.close())
        self._writer = None

    def _flush(self) -> None:
        self._write(lambda writer: writer.flush())

    def _write_scores(self, engine: Engine) -> None:
        if is_broken_off(engine):
            return
        for name, value in tagged(scores_of(engine), self.labels).items():
            self._scalar(name, value, engine.state.iteration)
            self._final[name] = value
        self._flush()

    def _write_choices(self) -> None:
        """Write the settings and the final scores for the tab "HParams", which compares runs."""
        if not self.choices:
            return
        finals = {name: value for name, value in self._final.items() if "of_labels" not in name}
        for summary in hparams(self.choices, finals):  # type: ignore[no-untyped-call]  # torch's
            self._write(lambda writer, it=summary: writer._get_file_writer().add_summary(it))  # type: ignore[misc]

    def _start_clock(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        now = time.perf_counter()
        self._losses.append(loss_of(engine))
        self._seconds.append(now - self._since)
        self._since = now

    def _write_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._final["loss/train"] = sum(self._losses) / len(self._losses)
        self._scalar("loss/train", self._final["loss/train"], step)
        self._scalar("learning_rate", learning_rate_of(engine), step)
        if weights_change(engine):
            self._scalar("gradient_norm", gradient_norm(engine), step)
        self._scalar("seconds_per_iteration", sum(self._seconds) / len(self._seconds), step)
        for name, size in memory_gib().items():
            self._scalar(f"memory_gib/{name}", size, step)
        self._losses.clear()
        self._seconds.clear()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            self._write(lambda writer: writer.add_scalar(name, value, step))

    def _write(self, action: Callable[[SummaryWriter], object]) -> None:
        if self._writer is not None:
            with self._once_only():
                action(self._writer)

    @contextlib.contextmanager
    def _once_only(self) -> Iterator[None]:
        """Warn about the first error in the block; nothing is written after it."""
        try:
            yield
        except Exception as error:
            if "DataLoader worker" in str(error):  # the death of a worker is raised anywhere
                raise
            self._writer = None
            warnings.warn(
                f"{self.folder}: TensorBoard events cannot be written ({error}); training continues without them",
                MonaisegWarning,
                stacklevel=2,
            )


def tagged(scores: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Scores under their tags: those of labels in a group of their own, and their lowest and median beside the mean.

    >>> tagged({"dice/mean": 0.6, "dice/liver": 0.5, "dice/spleen": 0.7}, ["liver", "spleen"])["dice/lowest label"]
    0.5
    """
    of_labels = {f"dice/{name}": f"dice_of_labels/{name}" for name in labels}
    found = {
        of_labels.get(name, name): value for name, value in scores.items() if math.isfinite(value)
    }
    values = [found[tag] for tag in of_labels.values() if tag in found]
    if len(values) > 1:
        found |= {"dice/lowest label": min(values), "dice/median label": median(values)}
    return found


def charts(labels: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The layout of the tab "Custom Scalars": charts with the curves of a few labels each, in the order of the table."""
    parts = [labels[at : at + LABELS_IN_CHART] for at in range(0, len(labels), LABELS_IN_CHART)]
    return {
        "Dice of labels": {
            part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}": [
                "Multiline",
                [f"^{re.escape(f'dice_of_labels/{name}')}$" for name in part],
            ]
            for part in parts
        }
    }


def gradient_norm(engine: Any) -> float:
    """Norm of the gradient of the last change of the weights, before clipping."""
    known = getattr(engine.state, "gradient_norm", None)
    if known is not None:
        return float(known)
    gradients = [p.grad for p in engine.network.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def memory_gib() -> dict[str, float]:
    """Memory of this process, and the most that its tensors took on the GPU, in GiB."""
    sizes = {"process": process_memory() / GIB}
    if torch.cuda.is_available():
        sizes["gpu_peak"] = torch.cuda.max_memory_allocated() / GIB
    return sizes


class CasePicture:
    """Draws the first validation cases, the same ones and the same planes each time.

    Args:
        board: log that receives the pictures.
        table: label table of the network.
        evaluator: evaluator of the validation cases.
        every: number of epochs from one picture to the next.
    """

    def __init__(
        self, board: TensorBoardLog, table: LabelTable, evaluator: Engine, every: int = 1
    ) -> None:
        self.board, self.table, self.evaluator, self.every = board, table, evaluator, every

    def attach(self, engine: Engine) -> None:
        """Draw during each validation."""
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._draw, engine)

    def _draw(self, evaluator: Any, trainer: Engine) -> None:
        state = evaluator.state
        number = (state.iteration - 1) % (state.epoch_length or 1)  # counts on over the epochs
        if state.epoch % self.every or number >= MOST_PICTURES:
            return
        (case_id,) = case_ids(state.batch)
        picture = picture_of(state, self.table)
        self.board.picture(f"cases/{case_id}", picture, trainer.state.iteration)


def picture_of(state: Any, table: LabelTable) -> NDArray[np.uint8]:
    """Reference and prediction of an evaluator's last case in three planes: shape (rows, columns, 3).

    The planes pass through the middle of the reference, so that they are the same in each epoch.
    """
    image = state.output["image"][0, 0].float().cpu().numpy()  # (X, Y, Z) of the first channel
    known, found = (
        table.label_values(state.output[key].reshape(image.shape).cpu().numpy().astype(np.int64))
        for key in ("label", "pred")
    )
    spacing = Grid.of(image.shape, state.batch["affine"][0].numpy()).spacing
    rows = (("reference", known), ("prediction", found))
    point = middle_point(known)
    return pixels_of(draw_case(image, rows, table, spacing, point, look=Look(dark=True)))
