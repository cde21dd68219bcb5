"""Options that several commands share, and the translation of EasyReg's names to paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.loudness import say
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.settings import Settings

EASYREG = "EasyReg's spelling"
"""Help panel for the options that EasyReg's guide uses and a path can replace."""
SETTINGS_FILE = "settings.json"
"""File in a data task's folder to which `plan` writes settings and from which `train` reads them."""

DataTaskPath = Annotated[
    Optional[Path],  # noqa: UP045 - typer on Python 3.10 reads Optional
    typer.Argument(
        metavar="DATASET",
        help="Folder that `monaiseg prepare` wrote, such as work/scans.",
        show_default=False,
    ),
]
OutputRoot = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--output-root-path",
        "-o",
        help="Folder that holds the prepared datasets.",
        rich_help_panel=EASYREG,
    ),
]
DataTaskName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--data-task-name",
        "-dtn",
        help="Name of the prepared dataset's folder in --output-root-path.",
        rich_help_panel=EASYREG,
    ),
]
TaskName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--name",
        "--task-name",
        "-tn",
        help="Name of the run and of its folder in the prepared dataset.",
    ),
]
SettingsPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--settings",
        "--setting-folder-path",
        "-ts",
        help="Settings file, or the folder that holds it. Default: settings.json in the prepared dataset's folder.",
    ),
]
Gpu = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--gpu-id",
        "-g",
        help="Index of the CUDA device; -1 is the CPU. Default: as in the settings.",
        rich_help_panel=EASYREG,
    ),
]
ModelGpu = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--gpu-id",
        "-g",
        help="Index of the CUDA device; -1 is the CPU. Default: the first GPU if there is one.",
        rich_help_panel=EASYREG,
    ),
]
Device = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--device",
        metavar="cpu|cuda|cuda:N",
        help="Device to compute on: the CPU or a GPU. Default: the first GPU if there is one; for `train`, as in the "
        "settings.",
    ),
]
ModelPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Argument(metavar="MODEL", help="Run folder, or a checkpoint of one.", show_default=False),
]
ModelOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--model", "--model-path", "-m", help="The model, if not given as the argument."),
]
LabelTablePath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--label-table",
        help="Names, colours, partners and groups of the labels: JSON, CSV, TSV, a file of ITK-SNAP, FreeSurfer or 3D "
        "Slicer, or `hippocampus` or `lpba40`, which come with monaiseg. It may have labels that do not occur. A row "
        "with the name ignore gives the value of unlabelled voxels.",
    ),
]
Registrations = Annotated[
    bool, typer.Option("--atlas", "--im2im", "--keep-current", hidden=True, help="EasyReg's.")
]
RegistrationsPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--atlas-image-path", "--atlas-label-path", hidden=True, help="EasyReg's."),
]


def data_task_at(path: Path | None, root: Path | None, name: str | None) -> Path:
    """The prepared dataset's folder, given by its path or by EasyReg's two options.

    Raises:
        SettingsError: neither is given, or both are.
    """
    if path is not None and root is None and name is None:
        return path
    if path is None and root is not None and name is not None:
        return root / name
    raise SettingsError(
        "give the prepared dataset as a folder (work/scans), or as --output-root-path and --data-task-name"
        + (", not both" if path is not None else "")
    )


def given(argument: Path | None, option: Path | None, what: str) -> Path:
    """A path that may be given as an argument or as an option.

    Raises:
        SettingsError: neither is given, or both are.
    """
    if (argument is None) == (option is None):
        how = "given twice; give it once" if option is not None else "missing; see --help"
        raise SettingsError(f"the {what} is {how}")
    path = option if argument is None else argument
    assert path is not None
    return path


def read_settings(path: Path) -> Settings:
    """The settings at a path, which is a settings file or a folder that contains one."""
    from monaiseg.settings import find_settings, load_settings

    return load_settings(find_settings(path))


def device_number(device: str | None, gpu_id: int | None) -> int | None:
    """The device index of `--device` or `--gpu-id`: -1 is the CPU, None the default of the command.

    Raises:
        SettingsError: `device` is unknown, or contradicts `gpu_id`.
    """
    if device is None:
        return gpu_id
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise SettingsError(f"--device: {device!r} is unknown; use cpu, cuda or cuda:1")
    found = -1 if kind == "cpu" else int(number or 0)
    if gpu_id is not None and gpu_id != found:
        raise SettingsError(
            f"--device {device} and --gpu-id {gpu_id} contradict each other; give one of them"
        )
    return found


def device_named(device: str | None, gpu_id: int | None) -> Any:
    """The torch device for `--device` and `--gpu-id`; by default the first GPU if there is one. Says which GPU it is."""
    from monaiseg.training import choose_device, device_in_words

    chosen = choose_device(device_number(device, gpu_id))
    if chosen.type == "cuda":
        say(f"computing on {device_in_words(chosen)}")
    return chosen
