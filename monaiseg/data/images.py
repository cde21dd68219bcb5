"""Images to predict: the images of each case at the given paths, and the path of the case's label map."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from monaiseg.data.cases import (
    Case,
    case_id_of,
    channels_by_case,
    in_channel_order,
    prediction_name,
)
from monaiseg.data.list_files import read_list_file
from monaiseg.data.nifti import is_volume_name
from monaiseg.data.pairing import caseless
from monaiseg.data.volumes import read_header
from monaiseg.errors import SettingsError, counted, listed
from monaiseg.files import is_there

LIST_SUFFIX = ".txt"


def find_images(
    paths: Iterable[Path], output: Path, num_channels: int = 1, *, orientation: str | None = None
) -> list[Case]:
    """The images of each case at `paths`: files, folders of files, list files (.txt), and patterns such as "*/t1.nii".

    A file with all channels is a case by itself. Other files are grouped by nnU-Net's names, NAME_0000, NAME_0001, ...,
    in any order, so a missing file never mixes two scans in one case. Files with other names are grouped in the order
    given; in a folder, they are refused. List files may name the cases, see `read_list_file`; their label maps are left.
    `orientation` as in `read_header`.

    Raises:
        SettingsError: a folder has no images or is the output folder, a pattern matches nothing, or a case lacks a
            channel.
        DataError: a file cannot be read.
    """
    cases: list[Case] = []
    loose: list[Path] = []
    for path in itertools.chain.from_iterable(map(_matching, paths)):
        if path.is_dir():
            cases += map(_case, _images_in(path, output, num_channels, orientation))
        elif path.suffix == LIST_SUFFIX:
            cases += _listed(path, num_channels)
        elif _is_whole(path, num_channels, orientation):
            cases.append(_case([path]))
        else:
            loose.append(path)
    return cases + [_case(files) for files in _grouped(loose, num_channels)]


def _case(files: Sequence[str | Path]) -> Case:
    images = files_of(files)
    return Case(case_id_of(images), images)


def _matching(path: Path) -> list[Path]:
    """The path itself or, if there is no such path and it is a pattern, what matches it, sorted."""
    if not glob.has_magic(str(path)) or is_there(path):
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  patterns may be absolute
    if not found:
        raise SettingsError(f"{path}: matches no file; correct the pattern")
    return found


def _listed(path: Path, num_channels: int) -> Iterator[Case]:
    """The cases of a list file. A line with one file more than there are channels ends with a label map."""
    for case in read_list_file(path):
        # without a label map, the last channel looks like one
        images = case.images if len(case.images) >= num_channels else case.files
        if len(images) not in (1, num_channels):
            raise SettingsError(
                f"{path}: case {case.id} has {len(images)} images, and the network takes {num_channels} channels; list one "
                "file for each, or one with all"
            )
        yield Case(case.id, images)


def _grouped(images: Sequence[Path], num_channels: int) -> list[list[Path]]:
    """Group single-channel files by case: by nnU-Net's names if these give complete cases, else in the order given."""
    named: dict[tuple[Path, str], list[Path]] = {}
    for image in images:
        named.setdefault((image.parent, case_id_of([image, image])), []).append(image)
    if all(len(files) == num_channels for files in named.values()):
        return [in_channel_order(files) for files in named.values()]
    if len(images) % num_channels:
        raise SettingsError(
            f"{counted(len(images), 'image')} cannot be cases of {num_channels} channels; give the channels of each case one after "
            "the other"
        )
    starts = range(0, len(images), num_channels)
    return [in_channel_order(images[start : start + num_channels]) for start in starts]


def _images_in(
    folder: Path, output: Path, num_channels: int, orientation: str | None
) -> list[list[Path]]:
    if folder.resolve() == output.resolve():
        raise SettingsError(
            f"{output} is the folder of the images; choose another --output, or the next run would take the label maps "
            "for images"
        )
    images = sorted(p for p in folder.iterdir() if is_volume_name(p.name) and p.name[0] != ".")
    if not images:
        raise SettingsError(f"{folder}: has no .nii or .nii.gz files; give a folder of images")
    whole = [image for image in images if _is_whole(image, num_channels, orientation)]
    cases, problems = channels_by_case(folder, sorted(set(images) - set(whole)))
    problems += [
        f"{folder}: image {name} has {counted(len(channels), 'channel')}, but the network takes {num_channels}; add or remove channels"
        for name, channels in cases.items()
        if len(channels) != num_channels and not problems
    ]
    if problems:
        raise SettingsError(listed(problems))
    return [[image] for image in whole] + [list(channels.values()) for channels in cases.values()]


def _is_whole(image: Path, num_channels: int, orientation: str | None) -> bool:
    """Whether a file has all the channels that the network takes."""
    if num_channels == 1:
        return True
    return read_header(image, orientation=orientation).num_channels == num_channels


def planned_outputs(
    images: Iterable[Case | Sequence[str | Path]], folder: str | Path
) -> list[tuple[Case, Path]]:
    """Each case, which may be given by its files alone, and the path of its label map.

    Raises:
        SettingsError: two label maps would have the same path, or an output would overwrite an input.
    """
    cases = [images if isinstance(images, Case) else _case(images) for images in images]
    plan = [(case, Path(folder) / prediction_name(case.id)) for case in cases]
    _check_outputs(plan)
    return plan


def _check_outputs(plan: Sequence[tuple[Case, Path]]) -> None:
    taken: dict[str, Path] = {}
    inputs = {file.resolve() for case, _ in plan for file in case.images}
    for case, output in plan:
        name, first = caseless(output.name), case.images[0]
        if name in taken:
            raise SettingsError(
                f"{first} and {taken[name]} would both be written to {output}; predict them into two folders, or name "
                "them in a list: file_path_list.txt, and file_name_list.txt beside it"
            )
        if output.resolve() in inputs:
            raise SettingsError(f"{output} is an input; choose another output folder")
        taken[name] = first


def files_of(image: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The files of a case: one, or one per channel, sorted by the channel numbers in their names if they have any."""
    if isinstance(image, str | Path):
        return (Path(image),)
    return tuple(in_channel_order([Path(file) for file in image]))
