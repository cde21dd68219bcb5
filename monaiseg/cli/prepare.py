"""`monaiseg prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar, show_data_task, show_next
from monaiseg.cli.options import DataTaskName, OutputRoot, Registrations, RegistrationsPath


def prepare(
    dataset_path: Annotated[Path, typer.Option(help="Folder with the images and label maps.")],
    output_root_path: OutputRoot,
    data_task_name: DataTaskName,
    task_type: Annotated[str, typer.Option(help="The one kind of task: seg.")] = "seg",
    train_size: Annotated[int, typer.Option(help="Per cent of the cases to train on.")] = 70,
    test_size: Annotated[
        int, typer.Option(help="Per cent of the cases held out for the test.")
    ] = 20,
    val_size: Annotated[int, typer.Option(help="Per cent of the cases to validate on.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The split follows from this number.")] = 0,
    label_table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file with the columns value, name and, as wanted, partner, color."),
    ] = None,
    preprocess: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Settings to check the cases against and to resample them by, once for all."
        ),
    ] = None,
    registration: Registrations = False,
    atlas: RegistrationsPath = None,
) -> None:
    """Organise a dataset: pair, check and split its cases, and write the lists that training reads."""
    from monaiseg.preparation import prepare as prepare_task

    if registration or atlas:
        typer.echo("note: flags of registration have no effect here", err=True)
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
            label_table=label_table,
            preprocess=preprocess,
            on_progress=advance,
        )
    show_data_task(task)
    show_next(
        f'monaiseg plan --output-root-path "{output_root_path}" -dtn "{data_task_name}" --minutes 60 -o settings.json',
        "or write settings of your own: `monaiseg settings init settings.json`",
    )
