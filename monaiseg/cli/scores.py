"""Evaluations of the command line: score the cases of a split or label maps, write the report and print it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from monaiseg.cli.display import progress_bar, show_scores
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import Case, DataTask, LabelTable
    from monaiseg.evaluation import Evaluation
    from monaiseg.settings import Settings


def score_split(
    model: Path,
    task: DataTask,
    cases: Sequence[Case],
    split: str,
    folder: Path,
    device: Any,
    *,
    save_predictions: bool,
    wanted: Settings | None = None,
    label_table: Path | None = None,
    tolerance_mm: float = 1.0,
    latex: Path | None = None,
    pictures: int = 0,
) -> None:
    """Score cases of a data task, write the report and print it; `wanted` are its settings, as for `as_evaluated`."""
    from monaiseg.data import check_unchanged
    from monaiseg.evaluation import Unfinished
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.files import make_folder, sha256_of
    from monaiseg.prediction import Predictor, as_evaluated, with_settings
    from monaiseg.settings import dump_settings, parse_settings
    from monaiseg.training import load_checkpoint

    checkpoint = load_checkpoint(model)
    if wanted is not None:
        checkpoint, notes = as_evaluated(checkpoint, wanted)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    settings = parse_settings(checkpoint.settings, str(checkpoint.path))
    predictor = Predictor(with_settings(checkpoint, task.as_read(settings, split)), device=device)
    _check_names(predictor.table, task.table, f"{model}", f"{task.folder}")
    table = _scored_table(predictor.table, label_table, model)
    check_unchanged(cases, task.facts)
    make_folder(folder)
    assert checkpoint.path is not None
    network = (sha256_of(checkpoint.path), dump_settings(predictor.settings), str(device))
    with progress_bar("evaluating") as advance:
        counter = itertools.count(1)
        evaluation = evaluate_cases(
            predictor,
            cases,
            split=split,
            model=str(checkpoint.path),
            data_task=str(task.folder),
            table=table,
            predictions=folder / "predictions" if save_predictions else None,
            tolerance_mm=tolerance_mm,
            unfinished=Unfinished.of(folder, table, tolerance_mm, *network),
            on_case=lambda _: advance(next(counter), len(cases)),
        )
    _report(evaluation, folder, latex)
    _draw_worst(evaluation, cases, folder, pictures)


def _scored_table(table: LabelTable, given: Path | None, model: Path) -> LabelTable:
    """The labels to score: those of the network, with the groups, tolerances and lesions of a given table.

    Raises:
        SettingsError: the given table names a label otherwise, or has none of the network's labels.
    """
    from monaiseg.data import load_label_table

    if given is None:
        return table
    wanted = load_label_table(given)
    _check_names(table, wanted, f"{model}", f"{given}")
    shared = set(table.values) & set(wanted.values) - {0}
    if not shared:
        raise SettingsError(f"{given}: has none of the labels of {model}; give the table for it")
    return wanted.restricted_to(shared)


def _check_names(table: LabelTable, other: LabelTable, model: str, where: str) -> None:
    """Raise SettingsError if two tables name a label differently."""
    if clash := table.contradiction(other):
        raise SettingsError(
            f"{model}: label {clash[0]} is {clash[1]!r} in the model and {clash[2]!r} in {where}; evaluate it "
            "on data with its labels, or name them alike"
        )


def score_label_maps(
    predictions: Path,
    references: Path,
    folder: Path,
    *,
    label_table: Path | None,
    tolerance_mm: float,
    latex: Path | None,
) -> None:
    """Score label maps in two folders or lists, write the report and print it."""
    import numpy as np

    from monaiseg.data import LabelTable, load_label_table, read_label_map
    from monaiseg.evaluation import Unfinished, evaluate_label_maps, pair_label_maps

    pairs = pair_label_maps(predictions, references)
    if label_table is not None:
        table = load_label_table(label_table)
    else:
        found = (np.unique(read_label_map(known)[0]) for _, known in pairs.values())
        values = {int(value) for of_case in found for value in of_case}
        table = LabelTable.from_values(sorted(values - {0}))
    with progress_bar("scoring") as advance:
        counter = itertools.count(1)
        evaluation = evaluate_label_maps(
            pairs,
            table,
            tolerance_mm=tolerance_mm,
            model=str(predictions),
            split=references.name,
            unfinished=Unfinished.of(folder, table, tolerance_mm),
            on_case=lambda _: advance(next(counter), len(pairs)),
        )
    _report(evaluation, folder, latex)


def _report(evaluation: Evaluation, folder: Path, latex: Path | None) -> None:
    """Write the report of an evaluation and print it."""
    from monaiseg.evaluation import latex as latex_table
    from monaiseg.evaluation import summarise, write_report
    from monaiseg.files import write_atomic

    written = list(write_report(evaluation, folder))
    if latex is not None:
        write_atomic(latex, latex_table(summarise(evaluation)).encode())
        written.append(latex)
    show_scores(evaluation)
    if evaluation.resumed:
        typer.echo(
            f"note: {evaluation.resumed} of {len(evaluation.cases)} cases were scored before an interruption; neither "
            "their files nor the options have changed",
            err=True,
        )
    typer.echo(f"written: {', '.join(map(str, written))}")


def _draw_worst(evaluation: Evaluation, cases: Sequence[Case], folder: Path, most: int) -> None:
    """Draw the cases with the lowest mean Dice, worst first."""
    from monaiseg.data import prediction_name
    from monaiseg.evaluation import worst_first, write_case_picture
    from monaiseg.files import make_folder

    files = {case.id: case for case in cases}
    for number, scores in enumerate(worst_first(evaluation)[:most], start=1):
        case = files[scores.case_id]
        assert case.label is not None
        picture = write_case_picture(
            make_folder(folder / "pictures") / f"{number:02d}_{case.id}.png",
            case.images[0],
            case.label,
            folder / "predictions" / prediction_name(case.id),
            evaluation.table,
            title=f"{case.id}: mean Dice {scores.mean_dice:.3f}",
        )
        typer.echo(f"written: {picture}")
