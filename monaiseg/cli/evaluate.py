"""`monaiseg evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.loudness import Json, result_as_json
from monaiseg.cli.options import (
    DataTaskName,
    Device,
    LabelTablePath,
    ModelGpu,
    ModelOption,
    ModelPath,
    OutputRoot,
    data_task_at,
    device_named,
    given,
)
from monaiseg.cli.postprocessing import tune
from monaiseg.cli.scores import chosen_pictures, score_label_maps, score_split
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import DataTask


FOLDERS = "Label maps instead of a model"

EXAMPLES = """\
monaiseg evaluate work/scans/first

monaiseg evaluate work/scans/first --split val --pictures worst:5

monaiseg evaluate work/scans/first --tune-postprocessing

monaiseg evaluate model.safetensors --data work/others --report scores

monaiseg evaluate work/scans/first --label-table groups.csv --tolerance-mm 2

monaiseg evaluate --prediction-dir labels --reference-dir truth --report scores
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
    label_table: LabelTablePath = None,
    save_predictions: Annotated[
        bool,
        typer.Option(
            help="Write the label maps next to the scores. `monaiseg report` shows them; without them it has no pictures."
        ),
    ] = True,
    pictures: Annotated[
        str,
        typer.Option(
            metavar="WHICH:N",
            help="Draw N cases at their largest error: worst:5, best:2, or worst:5,best:2 for both.",
        ),
    ] = "",
    tolerance_mm: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Tolerance of the surface Dice, for labels without a tolerance in the label table.",
        ),
    ] = 1.0,
    latex: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Also write the means as a LaTeX table to this file."),
    ] = None,
    prediction_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Score the label maps in this folder, or in a list with one a line, instead of those of a model. "
            "Without --label-table, every value in the references is scored.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    reference_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder or list of references with the same names; names of predictions may end in _pred.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    image_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of the images with the same names, for pictures and for `monaiseg report`.",
            rich_help_panel=FOLDERS,
        ),
    ] = None,
    tune_postprocessing: Annotated[
        bool,
        typer.Option(
            "--tune-postprocessing",
            help="First choose post-processing for each label on the validation split, if it raises mean Dice. The choice is saved beside the checkpoint, and later evaluations and predictions apply it.",
        ),
    ] = False,
    device: Device = None,
    model: ModelOption = None,
    output_root_path: OutputRoot = None,
    data_task_name: DataTaskName = None,
    gpu_id: ModelGpu = None,
    as_json: Json = False,
) -> None:
    """Score a trained network on cases that it was not trained on.

    Scores are computed on the original grid of each scan.
    A structure that the network missed scores 0.
    A structure in neither map is left out of the means, and such cases are counted.
    Groups, tolerances and lesions in the label table are scored too.
    An interrupted evaluation continues where it stopped if neither files nor options have changed.
    """
    from monaiseg.data import read_data_task

    chosen = chosen_pictures(pictures)
    result_as_json(wanted=as_json)
    if prediction_dir is not None or reference_dir is not None:
        if prediction_dir is None or reference_dir is None or report is None:
            raise SettingsError(
                "to score label maps, give --prediction-dir, --reference-dir and --report together"
            )
        score_label_maps(
            prediction_dir,
            reference_dir,
            report,
            images=image_dir,
            label_table=label_table,
            tolerance_mm=tolerance_mm,
            latex=latex,
            pictures=chosen,
        )
        show_next("monaiseg", "report", report)
        return
    model = given(run, model, "model")
    named = data is not None or output_root_path is not None or data_task_name is not None
    if not named and not model.exists():  # the model's folder gives the path of the data
        raise SettingsError(
            f"{model}: this run folder or checkpoint does not exist; correct the path"
        )
    folder = (
        data_task_at(data, output_root_path, data_task_name) if named else _run_folder(model).parent
    )
    task = read_data_task(folder)
    if split not in task.cases:
        raise SettingsError(f"split {split!r} does not exist; use one of {', '.join(task.cases)}")
    chosen_device = device_named(device, gpu_id)
    if tune_postprocessing:
        tune(model, task, chosen_device)
    place = report or _run_folder(model) / "records" / _named_after(task, split, model)
    score_split(
        model,
        task,
        task.cases[split],
        split,
        place,
        chosen_device,
        save_predictions=save_predictions or bool(chosen),
        label_table=label_table,
        tolerance_mm=tolerance_mm,
        latex=latex,
        pictures=chosen,
    )
    show_next("monaiseg", "report", place)
    show_next("monaiseg", "predict", model, "IMAGE.nii.gz", "-o", "labels")


def _run_folder(model: Path) -> Path:
    """The run folder of a model, which may be that folder, its checkpoint folder or a file in either."""
    folder = model if model.is_dir() else model.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _named_after(task: DataTask, split: str, model: Path) -> str:
    """Name of the folder for the scores of a split; it includes the data task if that is not the one trained on."""
    own = task.folder.resolve() in model.resolve().parents
    return split if own else f"{task.folder.name}-{split}"
