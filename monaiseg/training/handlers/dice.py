"""Dice of each label over whole cases, as an ignite metric."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor

from monaiseg.evaluation import class_counts, dice_from_counts, mean_over_cases
from monaiseg.training import distributed
from monaiseg.training.handlers.batches import case_ids


class DiceOfLabels(Metric):
    """Dice of each foreground label over whole cases, from voxel counts.

    For each foreground label, Dice is averaged over cases; it is NaN if no case has the label. Attached as "dice", the
    metric puts the mean over labels into `state.metrics`, and the list of the labels' values into
    `state.metric_details`. Processes that validate together share one result, and a case that several of them
    evaluated counts once.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self.cases: list[tuple[str, list[float]]] = []
        self.labels: list[float] = []

    def iteration_completed(self, engine: Engine) -> None:
        """Count the voxels of the cases in a batch, decollated or not."""
        batch: Any = engine.state.batch
        for name, maps in itertools.zip_longest(case_ids(batch), _class_maps(engine.state.output)):
            self.update((name or f"{distributed.rank()}/{len(self.cases)}", *maps))

    def update(self, output: tuple[str, Tensor, Tensor]) -> None:
        """Count the voxels of a case, given its name and the class maps (1, X, Y, Z) of prediction and reference."""
        name, prediction, reference = output
        counts = class_counts(prediction, reference.to(prediction.device), self.num_classes)
        self.cases.append((name, dice_from_counts(counts.cpu()).tolist()))

    def compute(self) -> float:
        """Mean Dice over labels."""
        turns = itertools.zip_longest(*distributed.exchanged(self.cases))  # in order of cases
        cases = {name: dice for turn in turns for name, dice in filter(None, turn)}
        mean, self.labels = mean_over_cases(torch.tensor(list(cases.values()), dtype=torch.double))
        return mean

    def completed(self, engine: Engine, name: str) -> None:
        """Put the mean into `metrics` and the values of the labels into `metric_details`, after a validation."""
        super().completed(engine, name)
        engine.state.metric_details[name] = self.labels  # type: ignore[attr-defined]  # MONAI's


def _class_maps(output: Any) -> list[tuple[Tensor, Tensor]]:
    """Prediction and reference of each case, whether or not the engine has decollated its batch."""
    if isinstance(output, Mapping):
        return list(zip(output["pred"], output["label"], strict=True))
    return [(case["pred"], case["label"]) for case in output]
