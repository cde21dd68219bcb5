"""Validation: what the averaged weights score on whole cases, between two epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator
from torch import nn

from monaiseg.data import Grid, LabelTable, write_label_map
from monaiseg.errors import OutOfMemoryError, lack_of_memory
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.averaging import ModelAverage
from monaiseg.training.handlers.batches import case_ids, in_words
from monaiseg.training.handlers.stop import StopOnSignal
from monaiseg.training.handlers.tensorboard import TensorBoardLog, picture_of
from monaiseg.training.run_folder import RunFolder


class Validation:
    """The cases that a training is judged by, ready to be looked at again and again.

    Args:
        evaluators: for "val" and "debug", as `build_evaluator` makes them.
        network: the network that they look with.
        average: its averaged weights, which take its own's place meanwhile.
        settings: every choice of the training.
        table: the labels of the network.
        folder: of the training; label maps are written into it where the settings ask for them.
        board: TensorBoard's files, for a picture.
        stop: says whether a signal has asked to stop.
    """

    def __init__(
        self,
        evaluators: Mapping[str, SupervisedEvaluator],
        network: nn.Module,
        average: ModelAverage,
        settings: Settings,
        table: LabelTable,
        folder: RunFolder,
        board: TensorBoardLog,
        stop: StopOnSignal,
    ) -> None:
        self.evaluators = dict(evaluators)
        self.network, self.average = network, average
        self.settings, self.table = settings, table
        self.folder, self.board, self.stop = folder, board, stop
        self.is_broken_off = False
        self._step = 0
        for split, evaluator in self.evaluators.items():
            if settings.tsk_set.save_running_resolution_3d_img:
                evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._save_volumes, split)
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._end_case)

    @property
    def case_ids(self) -> list[str]:
        """Ids of the cases that this process looks at."""
        loaders = (evaluator.data_loader for evaluator in self.evaluators.values())
        return [case_id for loader in loaders for case_id in getattr(loader, "ids", ())]

    def scores(self, epoch: int, step: int) -> dict[str, float] | None:
        """Mean scores and those of the labels, as they stand in an epoch's row, after so many steps.

        None where a signal has asked to stop before all cases were scored.

        Raises:
            OutOfMemoryError: a case needs more memory than there is.
        """
        row: dict[str, float] = {}
        self.is_broken_off, self._step = False, step
        # Batch normalisation counts what each process saw; all validate the network that the first one saves.
        distributed.take_from_first([*self.network.buffers(), *self.average.buffers])
        with self.average.swapped_in():
            for split, evaluator in self.evaluators.items():
                if not self.is_broken_off:
                    self._look_at_cases(split, evaluator, epoch)
            if self.is_broken_off:
                return None
            for split, evaluator in self.evaluators.items():
                row |= self._scores_of(evaluator, "dice" if split == "val" else f"dice_{split}")
        if "val" in self.evaluators and self.settings.tsk_set.save_fig_on and self._shows(epoch):
            self._draw(self.evaluators["val"])
        return row

    def _look_at_cases(self, split: str, evaluator: SupervisedEvaluator, epoch: int) -> None:
        try:
            evaluator.run(epoch)
        except (RuntimeError, MemoryError) as error:
            if (lack := lack_of_memory(error)) is None:
                raise
            state = cast(Any, evaluator.state)
            raise OutOfMemoryError.of(
                f"epoch {epoch}, {split}, {in_words(state.batch)}",
                str(state.device),
                lack,
                "lower dataset.seg.patch_size, or end what else takes memory; then resume",
            ) from error

    def _end_case(self, evaluator: Engine) -> None:
        """A validation can take minutes: a signal ends it after a case, and a resume begins it anew."""
        self.is_broken_off = distributed.any_of(self.stop.requested)
        if self.is_broken_off:
            evaluator.terminate()

    def _scores_of(self, evaluator: SupervisedEvaluator, name: str) -> dict[str, float]:
        """The mean and, where the metric has them, the labels' scores."""
        metric = evaluator.state.key_metric_name
        labels = evaluator.state.metric_details.get(metric, [])
        named = zip(self.table.foreground, labels, strict=False)
        return {
            f"{name}/mean": float(evaluator.state.metrics[metric]),
            **{f"{name}/{label.name}": value for label, value in named},
        }

    def _shows(self, epoch: int) -> bool:
        """Whether pictures and volumes are written in this epoch."""
        return epoch % self.settings.tsk_set.save_val_fig_epoch == 0

    def _save_volumes(self, evaluator: Any, split: str) -> None:
        """Predicted and given label map of the case that the evaluator has just seen, under EasyReg's names."""
        if not self._shows(evaluator.state.epoch):
            return
        (case_id,) = case_ids(evaluator.state.batch)
        folder = self.folder.records / "3D"
        folder.mkdir(exist_ok=True)
        for name, key in (("output", "pred"), ("gt", "label")):
            classes = evaluator.state.output[key].cpu().numpy().squeeze((0, 1))  # (X, Y, Z)
            grid = Grid.of(classes.shape, evaluator.state.batch["affine"][0].numpy())
            write_label_map(
                folder / f"{case_id}_{split}_iter_{self._step}_{name}.nii.gz",
                self.table.label_values(classes),
                grid,
                table=self.table,
            )

    def _draw(self, evaluator: SupervisedEvaluator) -> None:
        """A picture of the last validation case, the same one every time."""
        if not distributed.is_first():
            return
        (case_id,) = case_ids(evaluator.state.batch)
        self.board.slices(case_id, picture_of(evaluator.state, self.table), self._step)
