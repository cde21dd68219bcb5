"""`monaiseg prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.display import progress_bar, show_data_task, show_findings, show_next
from monaiseg.cli.loudness import Json, note, print_json, result_as_json
from monaiseg.cli.options import EASYREG, LabelTablePath, Registrations, RegistrationsPath, given

if TYPE_CHECKING:
    from monaiseg.data import DataTask

EXAMPLES = """\
monaiseg prepare scans

monaiseg prepare scans --output work --label-table labels.csv

monaiseg prepare scans --train-size 60 --val-size 20 --test-size 20 --seed 1
"""


def prepare(
    scans: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="SCANS", help="Folder with images/ and labels/.", show_default=False
        ),
    ] = None,
    output_root_path: Annotated[
        Path,
        typer.Option("--output", "--output-root-path", "-o", help="Folder for prepared datasets."),
    ] = Path("work"),
    data_task_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name",
            "--data-task-name",
            "-dtn",
            help="Name of this dataset's folder in --output (EasyReg: data task). Default: the name of SCANS.",
        ),
    ] = None,
    train_size: Annotated[int, typer.Option(help="Percentage of cases for training.")] = 70,
    test_size: Annotated[int, typer.Option(help="Percentage of cases held out for testing.")] = 20,
    val_size: Annotated[int, typer.Option(help="Percentage of cases for validation.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random split.")] = 0,
    group_by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Keep the scans of one person in one split. Give a pattern that finds the person in a case's name, "
            "such as 'patient(\\d+)', or a CSV file with the columns case and group."
        ),
    ] = None,
    label_table: LabelTablePath = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks",
            help="Build label maps from one mask per structure: labels/NAME/STRUCTURE.nii.gz, TotalSegmentator's "
            "folders, or the layers of 4-D files.",
        ),
    ] = False,
    overlaps: Annotated[
        str,
        typer.Option(
            metavar="smaller|later|refuse",
            help="Where masks overlap: keep the smaller structure, keep the later one by name, or refuse the case.",
        ),
    ] = "smaller",
    assume_orientation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="RAS",
            help="Orientation of files whose headers do not give one.",
        ),
    ] = None,
    preprocess: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Settings to check the cases against. The cases are also resampled once, before training."
        ),
    ] = None,
    dataset_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--dataset-path", help="The same as SCANS.", rich_help_panel=EASYREG),
    ] = None,
    task_type: Annotated[
        str, typer.Option(help="Kind of task; the only one is seg.", rich_help_panel=EASYREG)
    ] = "seg",
    registration: Registrations = False,
    atlas: RegistrationsPath = None,
    as_json: Json = False,
) -> None:
    """Pair images and label maps, check every file, and split the cases for training, validation and test.

    The scans are neither moved nor changed.
    The layouts of the Medical Segmentation Decathlon, nnU-Net and EasyReg work too.
    """
    from monaiseg.checks import quick_findings
    from monaiseg.preparation import prepare as prepare_task

    result_as_json(wanted=as_json)
    if registration or atlas:
        note("the options of registration have no effect here")
    dataset_path = given(scans, dataset_path, "folder of the scans")
    data_task_name = data_task_name or dataset_path.resolve().name
    with progress_bar("reading cases") as advance:
        task = prepare_task(
            dataset_path,
            output_root_path,
            data_task_name,
            task_type=task_type,
            train_size=train_size,
            test_size=test_size,
            val_size=val_size,
            seed=seed,
            group_by=group_by,
            label_table=label_table,
            masks=masks,
            overlaps=overlaps,  # type: ignore[arg-type]  # any other word is refused by name
            assume_orientation=assume_orientation,
            preprocess=preprocess,
            on_progress=advance,
        )
    show_data_task(task)
    show_findings(quick_findings(task), output_root_path / data_task_name)
    if as_json:
        print_json(_facts_of(task))
    show_next("monaiseg", "plan", output_root_path / data_task_name, "--minutes", 60)


def _facts_of(task: DataTask) -> dict[str, Any]:
    """What a script wants to know about a prepared dataset."""
    return {
        "folder": task.folder,
        "cases": {split: [case.id for case in cases] for split, cases in task.cases.items()},
        "labels": {label.name: label.value for label in task.table.labels},
        "notes": task.notes,
    }
