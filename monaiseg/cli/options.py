"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from monaiseg.settings import Settings
OutputRoot = Annotated[
    Path, typer.Option("--output-root-path", "-o", help="Folder of all data tasks.")
]
DataTaskName = Annotated[
    str, typer.Option("--data-task-name", "-dtn", help="Name of the dataset's folder.")
]
TaskName = Annotated[str, typer.Option("--task-name", "-tn", help="Name of the training's folder.")]
SettingsPath = Annotated[
    Path,
    typer.Option(
        "--setting-folder-path",
        "--settings",
        "-ts",
        help="Settings file, or the folder that holds it.",
    ),
]
Gpu = Annotated[
    Optional[int],  # noqa: UP045 - typer on Python 3.10 reads Optional
    typer.Option("--gpu-id", "-g", help="CUDA device; -1 is the CPU. Default: as in the settings."),
]
ModelGpu = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--gpu-id", "-g", help="CUDA device; -1 is the CPU. Default: the first GPU if there is one."
    ),
]
Registrations = Annotated[
    bool, typer.Option("--atlas", "--im2im", "--keep-current", hidden=True, help="EasyReg's.")
]
RegistrationsPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--atlas-image-path", "--atlas-label-path", hidden=True, help="EasyReg's."),
]
Model = Annotated[
    Path,
    typer.Option("--model", "--model-path", "-m", help="Checkpoint, or the folder of a training."),
]


def read_settings(path: Path) -> Settings:
    """The settings at a path: a file, or a folder that holds one."""
    from monaiseg.settings import find_settings, load_settings

    return load_settings(find_settings(path))


def device_named(gpu_id: int | None) -> Any:
    """The device of `--gpu-id`: None is the first GPU if there is one, -1 the CPU."""
    from monaiseg.training import choose_device

    return choose_device(gpu_id)
