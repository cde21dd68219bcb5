"""Scoring: predictions of held-out cases against their references, on the grids of the files.

Scores are computed from label values on the original grid of each case, never from resampled labels. A structure that
is in neither map of a case has no score (NaN) and is counted as absent. A structure that the network missed scores 0,
and its distances are the diagonal of the grid.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import (
    Case,
    LabelTable,
    Spacing,
    VolumeHeader,
    check_ids,
    check_placed,
    prediction_name,
    read_header,
    read_label_map,
    write_label_map,
    written_cases,
)
from monaiseg.errors import DataError, collecting, listed, naming_lack_of_memory
from monaiseg.evaluation.results import CaseScores, Evaluation
from monaiseg.evaluation.structures import (
    TOLERANCE_MM,
    Structure,
    score_structures,
    structures_of,
)
from monaiseg.evaluation.unfinished import Unfinished
from monaiseg.evaluation.unscored import Unscored
from monaiseg.files import make_folder


class Labeller(Protocol):
    """An object that predicts label maps, such as a `monaiseg.Predictor`."""

    table: LabelTable

    def predict(self, image: Sequence[Path]) -> NDArray[Any]:
        """Label map (X, Y, Z) of a case, in label values, on the grid of its first file."""
        ...


def evaluate(
    predictor: Labeller,
    cases: Sequence[Case] | Mapping[str, Any],
    *,
    split: str = "test",
    model: str = "",
    data_task: str = "",
    table: LabelTable | None = None,
    predictions: Path | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    unfinished: Unfinished | None = None,
    on_case: Callable[[CaseScores], None] | None = None,
) -> Evaluation:
    """Predict every case and score it against its reference.

    ```python
    import monaiseg

    predictor = monaiseg.Predictor("work/scans/first")
    pair = ("scans/images/scan_0.nii.gz", "scans/labels/scan_0.nii.gz")
    evaluation = monaiseg.evaluate(predictor, {"scan_0": pair})
    print(evaluation.mean_dice, evaluation.label_means())
    monaiseg.write_report(evaluation, "scores")
    ```

    Args:
        predictor: the trained network.
        cases: cases with label maps; or image and reference by case id, each as `Predictor.predict` takes it.
        split: name of the split, for the report.
        model: name of the model, for the report.
        data_task: folder of the data task, for the report.
        table: the labels to score, with their groups; None for all of the network.
        predictions: folder for the label maps, written as `<case id>_pred.nii.gz`; None writes none.
        tolerance_mm: tolerance of the surface Dice, for labels that have none of their own.
        unfinished: where scores are kept until the report is written; cases that it has are not repeated.
        on_case: called after each case.

    Raises:
        DataError: there are no cases, cases without a label map, cases with the same id, or cases whose files cannot be
            read or have different grids; all are named before the first prediction. Or the references have labels, and
            none of those to score.
        StorageError: `predictions` or `unfinished` cannot be written to.
    """
    if not cases:
        raise DataError(f"split {split!r} has no cases; choose another split")
    if isinstance(cases, Mapping):
        with tempfile.TemporaryDirectory() as folder:
            return evaluate(
                predictor,
                written_cases(folder, cases),
                split=split,
                model=model,
                data_task=data_task,
                table=table,
                predictions=predictions,
                tolerance_mm=tolerance_mm,
                unfinished=unfinished,
                on_case=on_case,
            )
    check_references(cases, split)
    if predictions is not None:
        make_folder(predictions)
    labels = predictor.table if table is None else table
    work = {
        case.id: (
            [*case.files, *_prediction_of(case, predictions)],
            partial(_score, predictor, case, predictions, labels, tolerance_mm),
        )
        for case in cases
    }
    scores, resumed = _scored(work, unfinished, on_case)
    _check_in_common(scores, labels)
    return Evaluation(scores, labels, model, split, data_task, tolerance_mm, resumed)


def _prediction_of(case: Case, predictions: Path | None) -> list[Path]:
    return [] if predictions is None else [predictions / prediction_name(case.id)]


def _scored(
    work: Mapping[str, tuple[Sequence[Path], Callable[[], CaseScores]]],
    unfinished: Unfinished | None,
    on_case: Callable[[CaseScores], None] | None,
) -> tuple[tuple[CaseScores, ...], int]:
    """Scores of all cases, and how many were there already; `work` has the files of a case and what scores it."""
    scores, resumed = [], 0
    for case_id, (files, score) in work.items():
        found = None if unfinished is None else unfinished.read(case_id, files)
        scores.append(score() if found is None else found)
        resumed += found is not None
        if unfinished is not None and found is None:
            unfinished.write(scores[-1], files)
        if on_case is not None:
            on_case(scores[-1])
    return tuple(scores), resumed


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
    check_placed(what, read_header(case.label).grid, read_header(case.images[0]).grid)


def _score(
    predictor: Labeller,
    case: Case,
    predictions: Path | None,
    table: LabelTable,
    tolerance_mm: float,
) -> CaseScores:
    assert case.label is not None
    reference, header = read_label_map(case.label, like=read_header(case.images[0]).grid)
    started = time.perf_counter()
    with naming_lack_of_memory(f"case {case.id!r}", "close other programs, or leave this case out"):
        prediction = predictor.predict(case.images)
    seconds = time.perf_counter() - started
    for path in _prediction_of(case, predictions):
        write_label_map(path, prediction, header.grid, like=case.images[0], table=predictor.table)
    structures = structures_of(table, tolerance_mm)
    scores = score_case(
        case.id, reference, prediction, table, header.grid.spacing, structures, seconds
    )
    return replace(scores, notes=_notes(header))


def _notes(*headers: VolumeHeader) -> tuple[tuple[str, str], ...]:
    return tuple((str(header.path), note) for header in headers for note in header.notes)


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

    `structures` are the structures to score, by default every label and group of the table.
    """
    if table.ignored_value is not None:
        ignored = reference == table.ignored_value
        reference, prediction = (np.where(ignored, 0, values) for values in (reference, prediction))
    scores = score_structures(reference, prediction, structures or structures_of(table), spacing)
    return CaseScores(case_id, scores, seconds, Unscored.of(reference, prediction, table))


def evaluate_label_maps(
    pairs: Mapping[str, tuple[Path, Path]],
    table: LabelTable,
    *,
    tolerance_mm: float = TOLERANCE_MM,
    model: str = "",
    split: str = "",
    unfinished: Unfinished | None = None,
    on_case: Callable[[CaseScores], None] | None = None,
) -> Evaluation:
    """Score existing label maps.

    Args:
        pairs: case id -> prediction and reference.
        table: the labels to score, with their groups.
        tolerance_mm: tolerance of the surface Dice, for labels that have none of their own.
        model: name of the source of the predictions, for the report.
        split: name of the set of references, for the report.
        unfinished: where scores are kept until the report is written; cases that it has are not repeated.
        on_case: called after each case.

    Raises:
        DataError: files cannot be read or have different grids, or no label of the table occurs in any of them; all
            pairs with different grids are named before the first is scored.
        StorageError: `unfinished` cannot be written to.
    """
    problems: list[str] = []
    for case_id, (prediction, reference) in pairs.items():
        with collecting(problems, f"case {case_id!r}: "):
            what = f"prediction {prediction} and reference {reference}"
            check_placed(what, read_header(prediction).grid, read_header(reference).grid)
    if problems:
        raise DataError(listed(problems))
    work = {
        case_id: (files, partial(_score_pair, case_id, *files, table, tolerance_mm))
        for case_id, files in pairs.items()
    }
    scores, resumed = _scored(work, unfinished, on_case)
    if all(score.status == "absent" for case in scores for score in case.structures):
        raise DataError(
            f"none of the labels {', '.join(map(str, table.values[1:11]))} occurs in any of the label maps; give the label table "
            "of these label maps"
        )
    _check_in_common(scores, table)
    return Evaluation(scores, table, model, split, "", tolerance_mm, resumed)


def _check_in_common(cases: Sequence[CaseScores], table: LabelTable) -> None:
    """Raise DataError if the references have labels, but none of those that are scored."""
    strange = sorted({value for case in cases for value in case.unscored.reference})
    known = any(score.reference_ml for case in cases for score in case.structures)
    if strange and not known:
        theirs, ours = (
            ", ".join(map(str, values[:10])) + ", ..." * (len(values) > 10)
            for values in (strange, table.values[1:])
        )
        raise DataError(
            f"the references have labels {theirs} and none of the labels to score, {ours}; score them with the label "
            "values that they use"
        )


def _score_pair(
    case_id: str, prediction: Path, reference: Path, table: LabelTable, tolerance_mm: float
) -> CaseScores:
    known, header = read_label_map(reference)
    found, of_found = read_label_map(prediction, like=header.grid)
    structures = structures_of(table, tolerance_mm)
    scores = score_case(case_id, known, found, table, header.grid.spacing, structures)
    return replace(scores, notes=_notes(header, of_found))
