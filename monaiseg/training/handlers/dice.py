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


def _class_maps(output: Any) -> list[tuple[Tensor, Tensor]]:
    """Prediction and reference of each case, whether the engine has decollated its batch or not."""
    if isinstance(output, Mapping):
        return list(zip(output["pred"], output["label"], strict=True))
    return [(case["pred"], case["label"]) for case in output]
