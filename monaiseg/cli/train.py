"""`monaiseg train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import show_findings, show_next
from monaiseg.cli.loudness import NOW, note, say
from monaiseg.cli.options import (
    SETTINGS_FILE,
    DataTaskName,
    DataTaskPath,
    Device,
    Gpu,
    OutputRoot,
    SettingsPath,
    TaskName,
    data_task_at,
    device_number,
    read_settings,
)
from monaiseg.cli.scores import score_split
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.settings import Settings


EXAMPLES = """\
monaiseg train work/scans --name first

monaiseg train work/scans --name second --settings mine.json

monaiseg train work/scans/first --resume
"""


def train(
    data_task: DataTaskPath = None,
    task_name: TaskName = None,
    settings_path: SettingsPath = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue a run that stopped; DATASET may be the run's own folder."
        ),
    ] = False,
    extend: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="With --resume: train this many epochs beyond those in the settings."
        ),
    ] = None,
    accept_inexact: Annotated[
        bool,
        typer.Option(
            "--accept-inexact",
            help="With --resume: continue even if threads, versions or settings have changed.",
        ),
    ] = False,
    device: Device = None,
    output_root_path: OutputRoot = None,
    data_task_name: DataTaskName = None,
    gpu_id: Gpu = None,
) -> None:
    """Train a network on a prepared dataset.

    The run has its own folder in the dataset's folder.
    It holds settings, checkpoints, history and TensorBoard files.
    A run that was stopped or killed continues with --resume.
    On the same computer it gives the same weights, bit for bit.
    Processes started by torchrun share every batch:
    torchrun --standalone --nproc_per_node 2 -m monaiseg train DATASET
    """
    started = time.monotonic()  # importing torch takes seconds of the time limit
    from monaiseg.training import distributed
    from monaiseg.training import train as train_network

    folder, task_name = _run_of(
        data_task_at(data_task, output_root_path, data_task_name), task_name
    )
    settings_path = settings_path or _settings_in(folder, task_name, resume=resume)
    settings = read_settings(settings_path)
    gpu_id = device_number(device, gpu_id)
    if not settings.tsk_set.train:
        _evaluate_instead(settings, folder, task_name, gpu_id)
        return
    if not resume:
        _show_doubts(folder, settings)
        if gpu_id == -1 and settings.tsk_set.gpu_id not in (None, -1):
            _show_minutes_on_cpu(folder, settings)
    result = train_network(
        settings,
        output_root_path=folder.parent,
        data_task_name=folder.name,
        task_name=task_name,
        gpu_id=gpu_id,
        resume=resume,
        extend=extend,
        accept_inexact=accept_inexact,
        started=started,
        say=say,
        show_progress=not NOW.quiet,
    )
    if not distributed.is_first():
        raise typer.Exit(130 if result.interrupted else 0)
    run = folder / task_name
    if result.interrupted:
        more = [] if gpu_id is None else ["--gpu-id", gpu_id]
        show_next("monaiseg", "train", run, "--resume", *more)
        raise typer.Exit(130)
    if result.best is not None:
        say(
            f"best mean Dice {result.best.value:.4f} on the validation cases, epoch {result.best.epoch}"
        )
    say(f"written: {run}")
    show_next("monaiseg", "evaluate", run)
    show_next("tensorboard", "--logdir", run)


def _show_doubts(folder: Path, settings: Settings) -> None:
    """Print what is doubtful about the data with these settings; what stops training is refused by `train` itself."""
    from monaiseg.checks import quick_findings
    from monaiseg.data import DATASET_FILE, read_data_task
    from monaiseg.training import distributed

    if (folder / DATASET_FILE).is_file() and distributed.is_first():
        found = quick_findings(read_data_task(folder), settings)
        show_findings([finding for finding in found if not finding.stops_training], folder)


def _show_minutes_on_cpu(folder: Path, settings: Settings) -> None:
    """Print how long the CPU would take for the steps that were planned for a GPU."""
    from monaiseg.data import read_data_task
    from monaiseg.planning import minutes_on_cpu
    from monaiseg.training import distributed

    given = settings.tsk_set.budget_minutes
    if given is None or not distributed.is_first():
        return
    minutes = minutes_on_cpu(settings, read_data_task(folder))
    if minutes is not None:
        note(
            f"these settings were planned for {given:g} minutes of a GPU; their steps take about {minutes:,.0f} minutes on this "
            f"CPU, and the run ends after {given:g}. `monaiseg plan {folder} --minutes {given:g} --device cpu --force` plans "
            "for the CPU"
        )


def _run_of(folder: Path, task_name: str | None) -> tuple[Path, str]:
    """Folder of the prepared dataset and name of the run; the folder of a run gives both.

    Raises:
        SettingsError: the run has no name.
    """
    if task_name is not None:
        return folder, task_name
    if (folder / "checkpoints").is_dir():
        return folder.parent, folder.name
    raise SettingsError(f"{folder}: the run needs a name; add for example --name first")


def _settings_in(folder: Path, task_name: str, *, resume: bool) -> Path:
    """The default settings file: that of the run, or the one that `plan` wrote for all runs.

    Raises:
        DataError: the folder is not a prepared dataset.
        SettingsError: there are no settings.
    """
    if resume and (folder / task_name).is_dir():
        return folder / task_name
    if not (folder / SETTINGS_FILE).is_file():
        from monaiseg.data import read_data_task

        read_data_task(folder)  # if it is no prepared dataset, its error names those that are there
        raise SettingsError(
            f"{folder / SETTINGS_FILE}: there are no settings yet; run `monaiseg plan {folder} --minutes 60`, or give "
            "your own with --settings"
        )
    return folder / SETTINGS_FILE


def _evaluate_instead(
    settings: Settings, data_task: Path, task_name: str, gpu_id: int | None
) -> None:
    """Do what EasyReg's training program does if `train` is false: score `model_path` on the test split."""
    from monaiseg.data import read_data_task
    from monaiseg.training import RunFolder, device_of, limited

    if not settings.tsk_set.model_path:
        raise SettingsError(
            "tsk_set.train is false but tsk_set.model_path is empty; give the model to evaluate, or set train to true"
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
