"""`monaiseg train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.evaluate import score_split
from monaiseg.cli.options import (
    DataTaskName,
    Gpu,
    OutputRoot,
    SettingsPath,
    TaskName,
    read_settings,
)
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.settings import Settings


def train(
    setting_folder_path: SettingsPath,
    output_root_path: OutputRoot,
    data_task_name: DataTaskName,
    task_name: TaskName,
    gpu_id: Gpu = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this training stopped.")
    ] = False,
    extend: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="With --resume: train so many epochs more than the settings say."),
    ] = None,
    accept_inexact: Annotated[
        bool,
        typer.Option(
            "--accept-inexact",
            help="With --resume: go on although threads, versions or settings have changed.",
        ),
    ] = False,
) -> None:
    """Train a network on a prepared data task; under tsk_set.train false evaluate tsk_set.model_path."""
    started = time.monotonic()  # importing torch takes seconds of the budget
    from monaiseg.training import train as train_network

    settings = read_settings(setting_folder_path)
    if not settings.tsk_set.train:
        _evaluate_instead(settings, output_root_path / data_task_name, task_name, gpu_id)
        return
    result = train_network(
        settings,
        output_root_path=output_root_path,
        data_task_name=data_task_name,
        task_name=task_name,
        gpu_id=gpu_id,
        resume=resume,
        extend=extend,
        accept_inexact=accept_inexact,
        started=started,
        say=typer.echo,
    )
    if result.interrupted:
        show_next(
            f'monaiseg train --resume -ts "{setting_folder_path}" -o "{output_root_path}" '
            f'-dtn "{data_task_name}" -tn "{task_name}"'
            + (f" -g {gpu_id}" if gpu_id is not None else "")
        )
        raise typer.Exit(130)
    if result.best is not None:
        typer.echo(
            f"best mean Dice {result.best.value:.4f} on the validation cases, epoch {result.best.epoch}"
        )
    typer.echo(f"written: {result.run_folder}")
    show_next(
        f'monaiseg evaluate -m "{result.run_folder}" -o "{output_root_path}" -dtn "{data_task_name}"',
        f'tensorboard --logdir "{result.run_folder}"',
    )


def _evaluate_instead(
    settings: Settings, data_task: Path, task_name: str, gpu_id: int | None
) -> None:
    """What EasyReg's training program does under `train` false: score `model_path` on the test split."""
    from monaiseg.data import read_data_task
    from monaiseg.training import RunFolder, device_of, limited

    if not settings.tsk_set.model_path:
        raise SettingsError(
            "tsk_set.train is false and tsk_set.model_path empty; name the model to evaluate, or set train to true"
        )
    task = read_data_task(data_task)
    score_split(
        Path(settings.tsk_set.model_path),
        task,
        limited(task, "test", settings),
        "test",
        RunFolder.of(task.folder, task_name).records / "test",
        device_of(settings, gpu_id),
        save_predictions=settings.tsk_set.save_running_resolution_3d_img,
        wanted=settings,
    )
