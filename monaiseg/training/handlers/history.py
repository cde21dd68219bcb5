"""History: a CSV file with one row per epoch."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monaiseg.errors import MonaisegWarning
from monaiseg.files import write_atomic
from monaiseg.training import distributed
from monaiseg.training.handlers.batches import learning_rate_of, loss_of
from monaiseg.training.handlers.steps import is_broken_off, scores_of


class History:
    """Writes one row per epoch: step, mean loss, learning rate and the scores in `state.metrics`.

    The checkpoints hold the rows, and the whole file is rewritten from them each time. The mean loss of the epoch is
    also put into `state.metrics`, as "loss".

    Args:
        path: the CSV file.
        rows: rows of the epochs so far; the handler appends to it.
        losses: losses of the current epoch so far; the handler appends to it and clears it after each epoch.
    """

    def __init__(
        self,
        path: Path,
        rows: list[dict[str, Any]] | None = None,
        losses: list[float] | None = None,
    ) -> None:
        self.path = path
        self.rows = [] if rows is None else rows
        self.losses = [] if losses is None else losses
        self._has_failed = False

    def attach(self, engine: Engine) -> None:
        """Record each loss and each epoch. If the file has too few or too many rows after a resume, it is rewritten."""
        if self.rows:
            self.write()
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_epoch)

    def _open(self, engine: Engine) -> None:
        if engine.state.iteration % engine.state.epoch_length == 0:  # type: ignore[operator]  # set by now
            self.losses.clear()

    def _note_loss(self, engine: Engine) -> None:
        self.losses += distributed.means([loss_of(engine)])

    def _note_epoch(self, engine: Engine) -> None:
        if is_broken_off(engine):
            return
        loss = sum(self.losses) / max(len(self.losses), 1)
        state, rate = engine.state, learning_rate_of(engine)
        row = {"epoch": state.epoch, "step": state.iteration, "loss": loss, "learning_rate": rate}
        self.rows.append(row | scores_of(engine))
        state.metrics["loss"] = loss
        self.write()

    def write(self) -> None:
        """Write all rows to the file. A value is empty if the row has none, and `nan` if Dice is undefined."""
        if not distributed.is_first():
            return
        text = io.StringIO()
        columns = dict.fromkeys(name for row in self.rows for name in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        payload = text.getvalue().encode()
        try:
            if not (self.path.is_file() and self.path.read_bytes() == payload):
                write_atomic(self.path, payload)
        except OSError as error:
            if not self._has_failed:
                warnings.warn(
                    f"{error}. Training continues; the rows are in the checkpoints and are written again after "
                    "every epoch",
                    MonaisegWarning,
                    stacklevel=2,
                )
            self._has_failed = True
