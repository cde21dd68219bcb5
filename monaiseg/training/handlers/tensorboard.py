"""TensorBoard: losses, scores and pictures of a run."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from monaiseg.data import LabelTable
from monaiseg.errors import MonaisegWarning
from monaiseg.evaluation import slice_picture
from monaiseg.training.handlers.batches import case_ids, learning_rate_of, loss_of
from monaiseg.training.handlers.steps import RunEvents, at_the_end, is_broken_off, listen, scores_of


class TensorBoardLog:
    """Writes loss, learning rate, seconds, scores and pictures to a folder as TensorBoard events.

    Unlike MONAI's `TensorBoardStatsHandler`, it removes what a killed run wrote after its last checkpoint, and training
    continues without it if the disk is full.

    Args:
        folder: folder to write to.
        every: steps between two entries; each entry is the mean since the previous one.
        waiting: losses since the last entry; the handler appends to it and clears it. Checkpoints save it.
        done: number of steps before this run. Ignite's own count is 0 if only the end of the last epoch remains.
    """

    def __init__(
        self,
        folder: Path,
        every: int = 1,
        waiting: list[float] | None = None,
        done: int = 0,
    ) -> None:
        self.folder, self.every, self.done = folder, every, done
        self._losses = [] if waiting is None else waiting
        self._writer: SummaryWriter | None = None
        self._seconds: list[float] = []
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Write an entry after every `every` steps, and the scores in `state.metrics` after each epoch."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_clock)  # exclude validation
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._write_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_scores)
        # A resumed run does not write entries up to the step of its checkpoint again, so they must be on disk by then.
        listen(engine, RunEvents.COMMITTING, self._flush)
        at_the_end(engine, self._close)

    def slices(self, case_id: str, picture: NDArray[np.uint8], step: int) -> None:
        """Write a picture of a case, shape (rows, columns, 3)."""
        self._write(
            lambda writer: writer.add_image(f"slices/{case_id}", picture, step, dataformats="HWC")
        )

    def _open(self, engine: Engine) -> None:
        """Open the writer; TensorBoard then drops entries of a killed run for steps that this run repeats."""
        done = max(engine.state.iteration, self.done)
        with self._once_only():
            self._writer = SummaryWriter(str(self.folder), purge_step=done + 1)

    def _close(self) -> None:
        self._write(lambda writer: writer.close())
        self._writer = None

    def _flush(self) -> None:
        self._write(lambda writer: writer.flush())

    def _write_scores(self, engine: Engine) -> None:
        if is_broken_off(engine):
            return
        for name, value in scores_of(engine).items():
            if math.isfinite(value):
                self._scalar(name, value, engine.state.iteration)
        self._flush()

    def _start_clock(self, _: Engine) -> None:
        self._since = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        now = time.perf_counter()
        self._losses.append(loss_of(engine))
        self._seconds.append(now - self._since)
        self._since = now

    def _write_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._scalar("loss/train", sum(self._losses) / len(self._losses), step)
        self._scalar("learning_rate", learning_rate_of(engine), step)
        self._scalar("seconds_per_iteration", sum(self._seconds) / len(self._seconds), step)
        self._losses.clear()
        self._seconds.clear()

    def _scalar(self, name: str, value: float, step: int) -> None:
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
                f"{self.folder}: TensorBoard events cannot be written ({error}); training goes on without them",
                MonaisegWarning,
                stacklevel=2,
            )


class CasePicture:
    """Draws the last validation case, the same one each time.

    Args:
        board: log that receives the picture.
        table: label table of the network.
        evaluator: evaluator of the validation cases.
        every: number of epochs from one picture to the next.
    """

    def __init__(
        self, board: TensorBoardLog, table: LabelTable, evaluator: Engine, every: int = 1
    ) -> None:
        self.board, self.table, self.evaluator, self.every = board, table, evaluator, every

    def attach(self, engine: Engine) -> None:
        """Draw after each validation."""
        listen(engine, RunEvents.VALIDATED, self._draw)

    def _draw(self, engine: Engine) -> None:
        state: Any = self.evaluator.state
        if engine.state.epoch % self.every == 0:
            (case_id,) = case_ids(state.batch)
            self.board.slices(case_id, picture_of(state, self.table), engine.state.iteration)


def picture_of(state: Any, table: LabelTable) -> NDArray[np.uint8]:
    """Image, reference and prediction of an evaluator's last case, side by side: shape (rows, columns, 3)."""
    image = state.output["image"][0, 0].cpu().numpy()  # (X, Y, Z) of the first channel
    maps = [state.output[key].reshape(image.shape).cpu().numpy() for key in ("label", "pred")]
    return slice_picture(image, maps, table)
