"""TensorBoard: losses, scores and pictures of a run."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import Self

from monaiseg.data import LabelTable
from monaiseg.errors import MonaisegWarning
from monaiseg.evaluation import slice_picture
from monaiseg.training.handlers.batches import learning_rate_of, loss_of


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
        self._losses.append(loss_of(engine))
        self._seconds.append(now - self._since)
        self._since = now

    def _write_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        self._scalar("loss/train", sum(self._losses) / len(self._losses), step)
        self._scalar("learning_rate", learning_rate_of(engine), step)
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


def picture_of(state: Any, table: LabelTable) -> NDArray[np.uint8]:
    """Image, reference and prediction of the last case that an evaluator saw, side by side: (rows, columns, 3)."""
    image = state.output["image"][0, 0].cpu().numpy()  # (X, Y, Z) of the first channel
    maps = [state.output[key].reshape(image.shape).cpu().numpy() for key in ("label", "pred")]
    return slice_picture(image, maps, table)
