"""Label maps: writes the network's predictions for the validation cases to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monaiseg.data import Grid, LabelTable, write_label_map
from monaiseg.training.handlers.batches import case_ids


class SaveLabelMaps:
    """Writes the predicted and the reference label map of each case in an evaluation, with EasyReg's file names.

    Args:
        folder: folder to write to; created if needed.
        table: label table of the network.
        split: "val" or "debug", for the file names.
        every: number of epochs from one set of files to the next.
    """

    def __init__(self, folder: Path, table: LabelTable, split: str, every: int = 1) -> None:
        self.folder, self.table, self.split, self.every = folder, table, split, every

    def attach(self, evaluator: Engine) -> None:
        """Write after each case."""
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def _save(self, evaluator: Any) -> None:
        state = evaluator.state
        if state.epoch % self.every:
            return
        (case_id,) = case_ids(state.batch)
        step = getattr(state, "training_step", 0)
        self.folder.mkdir(exist_ok=True)
        for name, key in (("output", "pred"), ("gt", "label")):
            classes = state.output[key].cpu().numpy().squeeze((0, 1))  # (X, Y, Z)
            grid = Grid.of(classes.shape, state.batch["affine"][0].numpy())
            path = self.folder / f"{case_id}_{self.split}_iter_{step}_{name}.nii.gz"
            write_label_map(path, self.table.label_values(classes), grid, table=self.table)
