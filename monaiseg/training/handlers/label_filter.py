"""Label filter: makes sure that label maps hold only class indices of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monaiseg.data import LabelTable
from monaiseg.errors import DataError
from monaiseg.training.handlers.batches import in_words


class LabelFilter:
    """Makes sure that the label maps of a batch hold only class indices of the network.

    Args:
        table: label table of the network.
        filtered: True if the loader gives class indices, as monaiseg's own loaders do; they are only checked. False if
            it gives label values; they are converted to class indices.
    """

    def __init__(self, table: LabelTable, *, filtered: bool = True) -> None:
        self.table = table
        self.filtered = filtered

    def attach(self, engine: Engine) -> None:
        """Check or convert each batch before its step."""
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
        ignored = self.table.ignored_index is not None
        if least < 0 or greatest >= self.table.num_classes + ignored:
            raise DataError(
                f"class indices {least} to {greatest}, but the network has classes 0 to "
                f"{self.table.num_classes - 1}; give label maps of class indices, or use filtered=False"
            )
