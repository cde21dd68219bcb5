"""`monaiseg evaluate` and `monaiseg eval-seg`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.display import progress_bar, show_next, show_scores
from monaiseg.cli.options import (
    DataTaskName,
    Device,
    Gpu,
    ModelGpu,
    ModelOption,
    ModelPath,
    OutputRoot,
    data_task_at,
    device_named,
    given,
    read_settings,
)
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import Case, DataTask
    from monaiseg.evaluation import Evaluation
    from monaiseg.settings import Settings


FOLDERS = "Two folders of label maps"

EXAMPLES = """\
monaiseg evaluate work/scans/first

monaiseg evaluate work/scans/first --split val --save-predictions

monaiseg evaluate model.safetensors --data work/others --report scores

monaiseg evaluate --prediction-dir labels --reference-dir truth --label-table labels.csv
"""


def evaluate(
    run: ModelPath = None,
    split: Annotated[
        str, typer.Option(help="Split to evaluate: train, val, test or debug.")
    ] = "test",
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--data",
            help="Prepared dataset to evaluate on. Default: the dataset that the run was trained on.",
        ),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for scores.csv and summary.json. Default: records/<split> in the run folder, or "
            "records/<dataset>-<split> for a dataset other than the run's own."
        ),
    ] = None,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Write the label maps next to the scores.")
    ] = False,
    pictures: Annotated[
        int,
        typer.Option(min=0, help="Draw this many of the worst cases, at their largest error."),
    ] = 0,
    tolerance_mm: Annotated[
        float,
        typer.Option(
            min=0.0, help="Largest distance at which surfaces agree, for the surface Dice."
        ),
    ] = 1.0,
    latex: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write the means as a LaTeX table to this file."),
    ] = None,
    prediction_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Score the label maps in this folder instead of those of a model.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    reference_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of references with the same names; names of predictions may end in _pred.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    label_table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="CSV file that names the labels. Default: score every value in the references.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    device: Device = None,
    model: ModelOption = None,
    output_root_path: OutputRoot = None,
    data_task_name: DataTaskName = None,
    gpu_id: ModelGpu = None,
) -> None:
    """Score a trained network on cases that it was not trained on.

    Scores are computed on the original grid of each scan.
    A structure that the network missed scores 0.
    A structure in neither map is left out of the means, and such cases are counted.
    """
    from monaiseg.data import read_data_task

    if prediction_dir is not None or reference_dir is not None:
        _score_folders(prediction_dir, reference_dir, label_table, report, tolerance_mm, latex)
        return
    model = given(run, model, "model")
    named = data is not None or output_root_path is not None or data_task_name is not None
    if not named and not model.exists():  # the model's folder gives the path of the data
        raise SettingsError(f"{model}: there is no such run folder or checkpoint; correct the path")
    folder = (
        data_task_at(data, output_root_path, data_task_name) if named else _run_folder(model).parent
    )
    task = read_data_task(folder)
    if split not in task.cases:
        raise SettingsError(f"split {split!r} is not there; use one of {', '.join(task.cases)}")
    place = report or _run_folder(model) / "records" / _named_after(task, split, model)
    score_split(
        model,
        task,
        task.cases[split],
        split,
        place,
        device_named(device, gpu_id),
        save_predictions=save_predictions or pictures > 0,
        tolerance_mm=tolerance_mm,
        latex=latex,
        pictures=pictures,
    )
    show_next("monaiseg", "predict", model, "IMAGE.nii.gz", "-o", "labels")


def _score_folders(
    predictions: Path | None,
    references: Path | None,
    label_table: Path | None,
    report: Path | None,
    tolerance_mm: float,
    latex: Path | None,
) -> None:
    """Score the label maps of two folders."""
    import numpy as np

    from monaiseg.data import LabelTable, load_label_table, read_label_map
    from monaiseg.evaluation import evaluate_label_maps, pair_label_maps

    if predictions is None or references is None or report is None:
        raise SettingsError(
            "two folders of label maps are scored with --prediction-dir, --reference-dir and --report together"
        )
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
            on_case=lambda _: advance(next(counter), len(pairs)),
        )
    _write(evaluation, report, latex)


def eval_seg(
    task_output_path: Annotated[
        Path, typer.Option("--task-output-path", "-o", help="Folder for all output.")
    ],
    setting_folder_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--setting-folder-path",
            "-ts",
            help="Settings file with the model (unless -m names it), the image size and the windows.",
        ),
    ] = None,
    model_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--model-path", "-m", help="Checkpoint, or run folder."),
    ] = None,
    file_txt_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--file-txt-path",
            "-txt",
            help="List file with one image per line, followed by its label map if there is one.",
        ),
    ] = None,
    image_list: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--image-list", "-i", help="Images."),
    ] = None,
    limage_list: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--limage-list", "-li", help="Their label maps, in the same order."),
    ] = None,
    gpu_id: Gpu = None,
) -> None:
    """Label listed scans and score those with label maps: EasyReg's eval_seg.py."""
    from monaiseg.evaluation import check_references, write_report
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.prediction import Predictor, as_evaluated, predict_files
    from monaiseg.settings import Settings
    from monaiseg.training import device_of, load_checkpoint

    settings = Settings() if setting_folder_path is None else read_settings(setting_folder_path)
    model_path = model_path or Path(settings.tsk_set.model_path)
    if not model_path.name:
        raise SettingsError(
            "no model: give its checkpoint with -m, or as tsk_set.model_path in the settings"
        )
    cases = _listed_cases(file_txt_path, image_list or [], limage_list or [])
    checkpoint, notes = as_evaluated(load_checkpoint(model_path), settings)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    predictor = Predictor(checkpoint, device=device_of(settings, gpu_id))
    records = task_output_path / "seg" / "res" / "records"
    known = [case for case in cases if case.label is not None]
    unknown = [case.images for case in cases if case.label is None]
    check_references(known)
    with progress_bar("labelling") as advance:
        counter = itertools.count(1)
        for file in predict_files(predictor, unknown, records / "3D") if unknown else ():
            advance(next(counter), len(cases))
            typer.echo(str(file.output))
        if known:
            evaluation = evaluate_cases(
                predictor,
                known,
                model=str(checkpoint.path),
                predictions=records / "3D",
                on_case=lambda _: advance(next(counter), len(cases)),
            )
            write_report(evaluation, records)
            show_scores(evaluation)
    typer.echo(f"written: {records}")


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
    tolerance_mm: float = 1.0,
    latex: Path | None = None,
    pictures: int = 0,
) -> None:
    """Score cases of a data task, write the report and print it; `wanted` are its settings, as for `as_evaluated`."""
    from monaiseg.data import check_unchanged
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.files import make_folder
    from monaiseg.prediction import Predictor, as_evaluated, with_settings
    from monaiseg.settings import parse_settings
    from monaiseg.training import load_checkpoint

    checkpoint = load_checkpoint(model)
    if wanted is not None:
        checkpoint, notes = as_evaluated(checkpoint, wanted)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    settings = parse_settings(checkpoint.settings, str(checkpoint.path))
    predictor = Predictor(with_settings(checkpoint, task.as_read(settings, split)), device=device)
    if clash := predictor.table.contradiction(task.table):
        raise SettingsError(
            f"{model}: label {clash[0]} is {clash[1]!r} in the model and {clash[2]!r} in {task.folder}; evaluate it "
            "on data with its labels, or name them alike"
        )
    check_unchanged(cases, task.facts)
    make_folder(folder)
    with progress_bar("evaluating") as advance:
        counter = itertools.count(1)
        evaluation = evaluate_cases(
            predictor,
            cases,
            split=split,
            model=str(checkpoint.path),
            data_task=str(task.folder),
            predictions=folder / "predictions" if save_predictions else None,
            tolerance_mm=tolerance_mm,
            on_case=lambda _: advance(next(counter), len(cases)),
        )
    _write(evaluation, folder, latex)
    _draw_worst(evaluation, cases, folder, pictures)


def _write(evaluation: Evaluation, folder: Path, latex: Path | None) -> None:
    """Write the report of an evaluation and print it."""
    from monaiseg.evaluation import latex as latex_table
    from monaiseg.evaluation import summarise, write_report
    from monaiseg.files import write_atomic

    written = list(write_report(evaluation, folder))
    if latex is not None:
        write_atomic(latex, latex_table(summarise(evaluation)).encode())
        written.append(latex)
    show_scores(evaluation)
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


def _run_folder(model: Path) -> Path:
    """The run folder of a model, which may be that folder, its checkpoint folder or a file in either."""
    folder = model if model.is_dir() else model.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _named_after(task: DataTask, split: str, model: Path) -> str:
    """Name of the folder for the scores of a split; it includes the data task if that is not the one trained on."""
    own = task.folder.resolve() in model.resolve().parents
    return split if own else f"{task.folder.name}-{split}"


def _listed_cases(
    list_file: Path | None, images: list[Path], labels: list[Path]
) -> tuple[Case, ...]:
    from monaiseg.data import Case, check_ids, read_list_file, volume_stem

    if (list_file is None) == (not images):
        raise SettingsError("give the scans either as a list file with -txt, or one by one with -i")
    if list_file is not None:
        return read_list_file(list_file)
    if labels and len(labels) != len(images):
        raise SettingsError(
            f"{len(images)} images and {len(labels)} label maps; give one label map an image, or none"
        )
    known: list[Path | None] = [*labels] if labels else [None] * len(images)
    ids = [volume_stem(image) for image in images]
    check_ids(ids, "-i")
    return tuple(
        Case(name, (image,), label) for name, image, label in zip(ids, images, known, strict=True)
    )
