"""Evaluation: predictions of held-out cases against their references, on the grids of the files.

Scores are computed from label values on the original grid of each case, never from resampled labels. A structure that
is in neither map of a case has no score (NaN) and is counted as absent. A structure that the network missed scores 0,
and its distances are the diagonal of the grid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import (
    Case,
    LabelTable,
    Spacing,
    check_ids,
    check_same_voxels,
    is_volume_name,
    prediction_name,
    read_header,
    read_label_map,
    volume_stem,
    write_label_map,
)
from monaiseg.errors import DataError, collecting, listed
from monaiseg.evaluation.metrics import mean_defined
from monaiseg.evaluation.structures import (
    TOLERANCE_MM,
    Structure,
    StructureScores,
    score_structures,
    single_labels,
)
from monaiseg.files import make_folder


class Labeller(Protocol):
    """An object that predicts label maps, such as a `monaiseg.Predictor`."""

    table: LabelTable

    def predict(self, image: Sequence[Path]) -> NDArray[Any]:
        """Label map (X, Y, Z) of a case, in label values, on the grid of its first file."""
        ...


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, one entry per structure."""

    case_id: str
    structures: tuple[StructureScores, ...]
    seconds: float
    """Wall time of the prediction; 0 if there was a label map already."""

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the structures that have a score; NaN if none has."""
        return mean_defined(score.dice for score in self.structures)


@dataclass(frozen=True)
class Evaluation:
    """Scores of several cases, and the model, split and dataset that they belong to."""

    cases: tuple[CaseScores, ...]
    table: LabelTable
    model: str
    split: str
    data_task: str = ""
    tolerance_mm: float = TOLERANCE_MM
    """Tolerance of the surface Dice."""

    def label_means(self) -> dict[str, float]:
        """Mean Dice of each structure by name, over the cases that have a score; NaN if none has."""
        columns = zip(*(case.structures for case in self.cases), strict=True)
        return {column[0].name: mean_defined(score.dice for score in column) for column in columns}

    @property
    def mean_dice(self) -> float:
        """Mean over structures of their means over cases, with equal weight for all structures."""
        return mean_defined(self.label_means().values())


def evaluate(
    predictor: Labeller,
    cases: Sequence[Case],
    *,
    split: str = "test",
    model: str = "",
    data_task: str = "",
    predictions: Path | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    on_case: Callable[[CaseScores], None] | None = None,
) -> Evaluation:
    """Predict every case and score it against its reference.

    Args:
        predictor: the trained network.
        cases: cases with label maps.
        split: name of the split, for the report.
        model: name of the model, for the report.
        data_task: folder of the data task, for the report.
        predictions: folder for the label maps, written as `<case id>_pred.nii.gz`; None writes none.
        tolerance_mm: largest distance at which surfaces agree, for the surface Dice.
        on_case: called after each case.

    Raises:
        DataError: there are no cases, cases without a label map, cases with the same id, or cases whose files cannot be
            read or have different grids; all are named before the first prediction.
        StorageError: `predictions` cannot be written to.
    """
    if not cases:
        raise DataError(f"split {split!r} holds no cases; choose one that does")
    check_references(cases, split)
    if predictions is not None:
        make_folder(predictions)
    structures, scores = single_labels(predictor.table, tolerance_mm), []
    for case in cases:
        scores.append(_score(predictor, case, predictions, structures))
        if on_case is not None:
            on_case(scores[-1])
    return Evaluation(tuple(scores), predictor.table, model, split, data_task, tolerance_mm)


def check_references(cases: Sequence[Case], split: str = "test") -> None:
    """Raise a DataError that names every case that cannot be scored: no label map, unreadable, or different grids."""
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


def _score(
    predictor: Labeller,
    case: Case,
    predictions: Path | None,
    structures: Sequence[Structure],
) -> CaseScores:
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
    return score_case(
        case.id, reference, prediction, predictor.table, header.grid.spacing, structures, seconds
    )


def score_case(
    case_id: str,
    reference: NDArray[Any],
    prediction: NDArray[Any],
    table: LabelTable,
    spacing: Spacing,
    structures: Sequence[Structure] = (),
    seconds: float = 0.0,
) -> CaseScores:
    """Scores of two label maps (X, Y, Z) in label values; voxels with the ignored value of the table are not counted.

    `structures` are the structures to score, by default every label of the table.
    """
    if table.ignored_value is not None:
        ignored = reference == table.ignored_value
        reference, prediction = (np.where(ignored, 0, values) for values in (reference, prediction))
    scores = score_structures(reference, prediction, structures or single_labels(table), spacing)
    return CaseScores(case_id, scores, seconds)


def evaluate_label_maps(
    pairs: Mapping[str, tuple[Path, Path]],
    table: LabelTable,
    *,
    tolerance_mm: float = TOLERANCE_MM,
    model: str = "",
    split: str = "",
    on_case: Callable[[CaseScores], None] | None = None,
) -> Evaluation:
    """Score existing label maps.

    Args:
        pairs: case id -> prediction and reference.
        table: the labels to score.
        tolerance_mm: largest distance at which surfaces agree, for the surface Dice.
        model: name of the source of the predictions, for the report.
        split: name of the set of references, for the report.
        on_case: called after each case.

    Raises:
        DataError: files cannot be read or have different grids, or no label of the table occurs in any of them; all
            pairs with different grids are named before the first is scored.
    """
    problems: list[str] = []
    for case_id, (prediction, reference) in pairs.items():
        with collecting(problems, f"case {case_id!r}: "):
            what = f"prediction {prediction} and reference {reference}"
            check_same_voxels(what, read_header(prediction).grid, read_header(reference).grid)
    if problems:
        raise DataError(listed(problems))
    structures, scores = single_labels(table, tolerance_mm), []
    for case_id, (prediction, reference) in pairs.items():
        known, header = read_label_map(reference)
        found, _ = read_label_map(prediction, like=header.grid)
        scores.append(score_case(case_id, known, found, table, header.grid.spacing, structures))
        if on_case is not None:
            on_case(scores[-1])
    if all(score.status == "absent" for case in scores for score in case.structures):
        raise DataError(
            f"none of the labels {table.values[1:6]} occurs in any of the maps; give the label table of these maps"
        )
    return Evaluation(tuple(scores), table, model, split, "", tolerance_mm)


def pair_label_maps(predictions: Path, references: Path) -> dict[str, tuple[Path, Path]]:
    """Case id -> prediction and reference, from two folders; names of predictions may end in `_pred`, as in `predict`.

    Raises:
        DataError: a folder has no label map, or a file has no counterpart in the other folder; each is named.
    """
    found: list[dict[str, Path]] = []
    for folder, ending in ((predictions, "_pred"), (references, "")):
        files = (
            sorted(p for p in folder.iterdir() if is_volume_name(p.name)) if folder.is_dir() else []
        )
        if not files:
            raise DataError(
                f"{folder}: holds no .nii or .nii.gz file; name the folder of the label maps"
            )
        found.append({volume_stem(path).removesuffix(ending): path for path in files})
    predicted, referenced = found
    lonely = [
        f"{path}: has no reference in {references}"
        for name, path in predicted.items()
        if name not in referenced
    ]
    lonely += [
        f"{path}: has no prediction in {predictions}"
        for name, path in referenced.items()
        if name not in predicted
    ]
    if lonely:
        raise DataError(listed(lonely))
    return {name: (predicted[name], referenced[name]) for name in predicted}
