"""Evaluations of the command line: score the cases of a split or label maps, write the report and print it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from monaiseg.cli.display import progress_bar, show_scores, shown_path
from monaiseg.cli.loudness import NOW, note, print_json, say
from monaiseg.cli.postprocessing import show_choices
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import Case, DataTask, LabelTable
    from monaiseg.evaluation import Evaluation
    from monaiseg.settings import Settings

CaseFiles: TypeAlias = "tuple[Path | None, Path, Path | None]"
"""Image, reference and prediction of a case; None if there is none."""


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
    pictures: Mapping[str, int] | None = None,
) -> None:
    """Score cases of a data task, write the report and print it; `wanted` are its settings, as for `as_evaluated`."""
    from monaiseg.data import check_unchanged, prediction_name
    from monaiseg.evaluation import Unfinished
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.files import make_folder, sha256_of
    from monaiseg.prediction import Predictor, as_evaluated, with_settings
    from monaiseg.settings import dump_settings, parse_settings
    from monaiseg.training import load_checkpoint

    checkpoint = load_checkpoint(model)
    if wanted is not None:
        checkpoint, notes = as_evaluated(checkpoint, wanted)
        for text in notes:
            note(text)
    settings = parse_settings(checkpoint.settings, str(checkpoint.path))
    predictor = Predictor(with_settings(checkpoint, task.as_read(settings, split)), device=device)
    _check_names(predictor.table, task.table, f"{model}", f"{task.folder}")
    _check_in_common(predictor.table, task, model)
    table = _scored_table(predictor.table, label_table, model)
    check_unchanged(cases, task.facts)
    make_folder(folder)
    predictions = folder / "predictions" if save_predictions else None
    assert checkpoint.path is not None
    show_choices(predictor)
    network = (
        sha256_of(checkpoint.path),
        dump_settings(predictor.settings),
        str((predictor.rules, predictor.flips)),
        str(device),
    )
    with progress_bar("evaluating") as advance:
        counter = itertools.count(1)
        evaluation = evaluate_cases(
            predictor,
            cases,
            split=split,
            model=str(checkpoint.path),
            data_task=str(task.folder),
            table=table,
            predictions=predictions,
            tolerance_mm=tolerance_mm,
            unfinished=Unfinished.of(folder, table, tolerance_mm, *network),
            on_case=lambda _: advance(next(counter), len(cases)),
        )
    files = {
        case.id: (
            case.images[0],
            case.label,
            None if predictions is None else predictions / prediction_name(case.id),
        )
        for case in cases
        if case.label is not None
    }
    _report(evaluation, folder, latex, files, network[0])
    _draw(evaluation, files, folder, pictures or {})


def _check_in_common(table: LabelTable, task: DataTask, model: Path) -> None:
    """Raise SettingsError if a data task has none of the labels of a model, before hours of prediction."""
    if set(table.values[1:]).isdisjoint(task.table.values):
        ours, theirs = (", ".join(map(str, t.values[1:11])) or "none" for t in (table, task.table))
        raise SettingsError(
            f"{model}: has labels {ours}, and {task.folder} has {theirs}: no label in common; evaluate it on data with the label values of its training data"
        )


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
        raise SettingsError(
            f"{given}: has none of the labels of {model}; give the label table of its data"
        )
    return wanted.restricted_to(shared)


def _check_names(table: LabelTable, other: LabelTable, model: str, where: str) -> None:
    """Raise SettingsError if two tables name a label differently."""
    if clash := table.contradiction(other):
        raise SettingsError(
            f"{model}: label {clash[0]} is {clash[1]!r} in the model and {clash[2]!r} in {where}; evaluate it "
            "on data with the same labels, or give them the same names"
        )


def score_label_maps(
    predictions: Path,
    references: Path,
    folder: Path,
    *,
    images: Path | None,
    label_table: Path | None,
    tolerance_mm: float,
    latex: Path | None,
    pictures: Mapping[str, int],
) -> None:
    """Score label maps in two folders or lists, write the report and print it."""
    import numpy as np

    from monaiseg.data import LabelTable, load_label_table, read_label_map
    from monaiseg.evaluation import Unfinished, evaluate_label_maps, pair_label_maps

    pairs = pair_label_maps(predictions, references)
    scans = {} if images is None else _images_in(images, pairs)
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
    files: dict[str, CaseFiles] = {
        name: (scans.get(name), known, found) for name, (found, known) in pairs.items()
    }
    _report(evaluation, folder, latex, files)
    _draw(evaluation, files, folder, pictures)


def _images_in(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The image of each case, from a folder; the first channel (`_0000`) stands for all.

    Raises:
        SettingsError: a case has no image in the folder.
    """
    from monaiseg.data import is_volume_name, volume_stem

    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {volume_stem(f).removesuffix("_0000"): f for f in files if is_volume_name(f.name)}
    if missing := [name for name in names if name not in found]:
        raise SettingsError(
            f"{folder}: has no image of {', '.join(missing[:10])}{', ...' if missing[10:] else ''}; give images with the "
            "names of the label maps, or leave out --image-dir"
        )
    return found


def _report(
    evaluation: Evaluation,
    folder: Path,
    latex: Path | None,
    files: Mapping[str, CaseFiles],
    model_sha256: str | None = None,
) -> None:
    """Write the report of an evaluation and what it was computed from, and print it."""
    from monaiseg.evaluation import latex as latex_table
    from monaiseg.evaluation import summarise, write_report, write_sources
    from monaiseg.files import write_atomic

    written = list(write_report(evaluation, folder))
    command = ["monaiseg", *sys.argv[1:]]
    write_sources(folder, files, evaluation.table, command, model_sha256)
    if latex is not None:
        write_atomic(latex, latex_table(summarise(evaluation)).encode())
        written.append(latex)
    show_scores(evaluation)
    if evaluation.resumed:
        note(
            f"{evaluation.resumed} of {len(evaluation.cases)} cases were scored before an interruption; neither "
            "their files nor the options have changed since"
        )
    for path in written:
        say(f"written: {shown_path(path)}")
    if NOW.as_json:
        print_json(summarise(evaluation).model_dump(mode="json"))


def chosen_pictures(words: str) -> dict[str, int]:
    """Number of pictures of the worst and of the best cases.

    >>> chosen_pictures("worst:5,best:2")
    {'worst': 5, 'best': 2}

    Raises:
        SettingsError: a part is not of that form.
    """
    chosen = {}
    for part in filter(None, words.split(",")):
        which, _, number = part.strip().partition(":")
        if which not in ("worst", "best") or not (number.isascii() and number.isdecimal()):
            raise SettingsError(f"--pictures: {part!r} is not known; use worst:5 or best:5")
        chosen[which] = int(number)
    return chosen


def _draw(
    evaluation: Evaluation,
    files: Mapping[str, CaseFiles],
    folder: Path,
    wanted: Mapping[str, int],
) -> None:
    """Draw the cases with the lowest and with the highest mean Dice."""
    from monaiseg.evaluation import worst_first, write_case_picture
    from monaiseg.files import make_folder

    ranked = worst_first(evaluation)
    orders = {"worst": ranked, "best": ranked[::-1]}
    for which, most in wanted.items():
        for number, scores in enumerate(orders[which][:most], start=1):
            image, reference, prediction = files[scores.case_id]
            assert prediction is not None
            picture = write_case_picture(
                make_folder(folder / "pictures") / f"{which}_{number:02d}_{scores.case_id}.png",
                image,
                reference,
                prediction,
                evaluation.table,
                title=f"{scores.case_id}: mean Dice {scores.mean_dice:.3f}",
            )
            say(f"written: {shown_path(picture)}")
