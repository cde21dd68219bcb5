"""Images to predict: the images of each case at the given paths, and the path of the case's label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from monaiseg.data.cases import (
    case_id_of,
    channels_by_case,
    in_channel_order,
    prediction_name,
)
from monaiseg.data.nifti import is_volume_name
from monaiseg.data.pairing import caseless
from monaiseg.data.volumes import read_header
from monaiseg.errors import SettingsError, listed


def find_images(paths: Iterable[Path], output: Path, num_channels: int = 1) -> list[list[Path]]:
    """The images of each case at `paths`, which are files or folders of files.

    A file with all channels is a case by itself. Other files are grouped by nnU-Net's names, NAME_0000, NAME_0001, ...,
    in any order, so a missing file never mixes two scans in one case. Files with other names are grouped in the order
    given; in a folder, they are refused.

    Raises:
        SettingsError: a folder has no images or is the output folder, or a case lacks a channel.
        DataError: a file cannot be read.
    """
    cases: list[list[Path]] = []
    loose: list[Path] = []
    for path in paths:
        if path.is_dir():
            cases += _images_in(path, output, num_channels)
        elif _is_whole(path, num_channels):
            cases.append([path])
        else:
            loose.append(path)
    return cases + _grouped(loose, num_channels)


def _grouped(images: Sequence[Path], num_channels: int) -> list[list[Path]]:
    """Group single-channel files by case: by nnU-Net's names if these give complete cases, else in the order given."""
    named: dict[tuple[Path, str], list[Path]] = {}
    for image in images:
        named.setdefault((image.parent, case_id_of([image, image])), []).append(image)
    if all(len(files) == num_channels for files in named.values()):
        return [in_channel_order(files) for files in named.values()]
    if len(images) % num_channels:
        raise SettingsError(
            f"{len(images) % num_channels} images are left over for a network of {num_channels} channels; give each case's "
            "channels one after the other"
        )
    starts = range(0, len(images), num_channels)
    return [in_channel_order(images[start : start + num_channels]) for start in starts]


def _images_in(folder: Path, output: Path, num_channels: int) -> list[list[Path]]:
    if folder.resolve() == output.resolve():
        raise SettingsError(
            f"{output} is the folder of the images; choose another --output, or its predictions are images the "
            "next time"
        )
    images = sorted(p for p in folder.iterdir() if is_volume_name(p.name) and p.name[0] != ".")
    if not images:
        raise SettingsError(f"{folder}: holds no .nii or .nii.gz file")
    whole = [image for image in images if _is_whole(image, num_channels)]
    cases, problems = channels_by_case(folder, sorted(set(images) - set(whole)))
    problems += [
        f"{folder}: image {name} has {len(channels)} channels, and the network takes {num_channels}"
        for name, channels in cases.items()
        if len(channels) != num_channels and not problems
    ]
    if problems:
        raise SettingsError(listed(problems))
    return [[image] for image in whole] + [list(channels.values()) for channels in cases.values()]


def _is_whole(image: Path, num_channels: int) -> bool:
    """Whether a file has all the channels that the network takes."""
    return num_channels == 1 or read_header(image).num_channels == num_channels


def planned_outputs(
    images: Iterable[Sequence[str | Path]], folder: str | Path
) -> list[tuple[tuple[Path, ...], Path]]:
    """The files of each case, and the path of its label map.

    Raises:
        SettingsError: two label maps would have the same path, or an output would overwrite an input.
    """
    plan = [
        (files, Path(folder) / prediction_name(case_id_of(files)))
        for files in map(files_of, images)
    ]
    _check_outputs(plan)
    return plan


def _check_outputs(plan: Sequence[tuple[tuple[Path, ...], Path]]) -> None:
    taken: dict[str, Path] = {}
    inputs = {file.resolve() for files, _ in plan for file in files}
    for files, output in plan:
        name = caseless(output.name)
        if name in taken:
            raise SettingsError(
                f"{files[0]} and {taken[name]} would both be written to {output}; predict them into "
                "two folders"
            )
        if output.resolve() in inputs:
            raise SettingsError(f"{output} is an input; choose another output folder")
        taken[name] = files[0]


def files_of(image: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The files of a case: one, or one per channel, sorted by the channel numbers in their names if they have any."""
    if isinstance(image, str | Path):
        return (Path(image),)
    return tuple(in_channel_order([Path(file) for file in image]))
