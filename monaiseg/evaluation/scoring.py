"""Evaluation: predictions of held-out cases against their references, on the files' own grids.

Scores are computed in label values on the original grid of each case, never on resampled labels. A structure that
a case lacks in both maps has no score (NaN) and is counted as such; one that the network missed scores 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from monaiseg.data import (
    Case,
    LabelTable,
    check_ids,
    check_same_voxels,
    prediction_name,
    read_header,
    read_label_map,
    write_label_map,
)
from monaiseg.errors import DataError, collecting, listed
from monaiseg.evaluation.metrics import LabelScore, mean_defined, score_label_maps
from monaiseg.files import make_folder


class Labeller(Protocol):
    """What labels images: a `monaiseg.Predictor`, or anything like it."""

    table: LabelTable

    def predict(self, image: Sequence[Path]) -> NDArray[Any]:
        """Label map (X, Y, Z) of a case, in label values, on the grid of its first file."""
        ...


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, one entry a foreground label."""

    case_id: str
    labels: tuple[LabelScore, ...]
    seconds: float
    """Wall time of the prediction."""

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the labels that have one; NaN where none has."""
        return mean_defined(score.dice for score in self.labels)


@dataclass(frozen=True)
class Evaluation:
    """Scores of several cases, and what they are scores of."""

    cases: tuple[CaseScores, ...]
    table: LabelTable
    model: str
    split: str
    data_task: str = ""

    def label_means(self) -> dict[str, float]:
        """Mean Dice over the cases that have one, of each foreground label by name; NaN where none has."""
        columns = zip(*(case.labels for case in self.cases), strict=True)
        return {column[0].name: mean_defined(score.dice for score in column) for column in columns}

    @property
    def mean_dice(self) -> float:
        """Mean over labels of the labels' means over cases: every structure counts alike."""
        return mean_defined(self.label_means().values())


def evaluate(
    predictor: Labeller,
    cases: Sequence[Case],
    *,
    split: str = "test",
    model: str = "",
    data_task: str = "",
    predictions: Path | None = None,
    on_case: Callable[[CaseScores], None] | None = None,
) -> Evaluation:
    """Predict every case and score it against its reference.

    Args:
        predictor: the trained network.
        cases: cases with label maps.
        split: name of the split, for the report.
        model: name of the model, for the report.
        data_task: folder of the data task, for the report.
        predictions: folder that the label maps are written to, as `<case id>_pred.nii.gz`; None keeps none.
        on_case: called after each case.

    Raises:
        DataError: there are no cases, cases without a label map, cases of one id, or cases whose files cannot be read or
            lie on different grids; all are named before the first is predicted.
        StorageError: `predictions` cannot be written to.
    """
    if not cases:
        raise DataError(f"split {split!r} holds no cases; choose one that does")
    check_references(cases, split)
    if predictions is not None:
        make_folder(predictions)
    scores = []
    for case in cases:
        scores.append(_score(predictor, case, predictions))
        if on_case is not None:
            on_case(scores[-1])
    return Evaluation(tuple(scores), predictor.table, model, split, data_task)


def check_references(cases: Sequence[Case], split: str = "test") -> None:
    """Raises DataError naming every case that cannot be scored: without label map, unreadable, or on two grids."""
    if unlabelled := [case.id for case in cases if case.label is None]:
        raise DataError(
            f"cases without a label map cannot be scored: {', '.join(unlabelled)}; "
            "give their label maps, or use `monaiseg predict`"
        )
    check_ids([case.id for case in cases], split)
    problems: list[str] = []
    for case in cases:
        with collecting(problems, f"case {case.id!r}: "):
            _check_grid(case)
    if problems:
        raise DataError(listed(problems))


def _check_grid(case: Case) -> None:
    assert case.label is not None
    what = f"label map {case.label} and image {case.images[0]}"
    check_same_voxels(what, read_header(case.label).grid, read_header(case.images[0]).grid)


def _score(predictor: Labeller, case: Case, predictions: Path | None) -> CaseScores:
    assert case.label is not None
    reference, header = read_label_map(case.label, like=read_header(case.images[0]).grid)
    started = time.perf_counter()
    prediction = predictor.predict(case.images)
    seconds = time.perf_counter() - started
    if predictions is not None:
        write_label_map(
            predictions / prediction_name(case.id),
            prediction,
            header.grid,
            like=case.images[0],
            table=predictor.table,
        )
    labels = score_label_maps(reference, prediction, predictor.table, header.grid.voxel_volume_mm3)
    return CaseScores(case.id, tuple(labels), seconds)
