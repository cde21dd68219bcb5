"""Cases: the images and label map of one subject, found in folders, paired and split.

A *case* has an id, one image file per channel (or one file with several channels) and a label map. A *split* is a list
of cases with one use: train, val, test or debug. Debug is a subset of train that shows overfitting.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monaiseg.data.descriptions import DATASET_FILE, ListedCase, read_description
from monaiseg.data.nifti import is_volume_name, other_format, volume_stem
from monaiseg.data.pairing import check_ids, clashes, pair_files
from monaiseg.errors import DataError, collecting, counted, listed
from monaiseg.files import is_folder, is_there

SPLITS = ("train", "val", "test", "debug")

_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's file name for one channel of a case."""


@dataclass(frozen=True)
class Case:
    """One subject: id, image files in channel order, and label map."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case, the label map last."""
        return (*self.images, *([self.label] if self.label else []))


@dataclass(frozen=True)
class FoundCases:
    """Contents of a dataset folder."""

    cases: tuple[Case, ...]
    splits: dict[str, tuple[str, ...]] | None
    """Case ids of train, val and test if the dataset has split folders; None if preparation has to split the cases."""
    label_names: dict[int, str]
    channel_names: tuple[str, ...]
    notes: tuple[str, ...]
    ignored_value: int | None = None
    """Label value of unlabelled voxels."""


def find_cases(dataset_path: str | Path) -> FoundCases:
    """Find the cases of a dataset in one of four layouts, pair their files and check their ids; no volume is opened.

    The layouts are `train|val|test/{images,labels}`; `images` and `labels`; the Decathlon's (a `dataset.json` that
    lists pairs); and nnU-Net's (`imagesTr`, `labelsTr`). Each channel may have a file of its own, with nnU-Net's
    channel number at the end of its name. If `dataset.json` lists cases, its list determines images and label maps.

    Raises:
        DataError: the folder has none of these layouts, or images and label maps do not pair. The message names every
            file without a partner.
    """
    root = Path(os.path.normpath(Path(dataset_path).absolute()))
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give the folder that holds the dataset")
    description = read_description(root)
    folders = {s: root / s for s in ("train", "val", "test") if (root / s / "images").is_dir()}
    splits = None
    if description.cases is not None:
        cases, more = _find_listed(root, description.cases)
    elif (root / "imagesTr").is_dir():
        cases, more = _find_raw(root)
    elif (root / "images").is_dir() and (root / "labels").is_dir():
        if folders:
            raise DataError(
                f"{root}: has images/ and labels/ as well as {', '.join(folders)}; keep one of the two layouts"
            )
        cases, more = _find_pairs(root / "images", root / "labels")
    elif "train" in folders:
        cases, splits, more = _find_split(folders)
    else:
        raise DataError(
            f"{root}: has {_shown_entries(root)}; a dataset has images/ and labels/, or both inside each of train/, "
            "val/ and test/, or a Decathlon or nnU-Net dataset.json with imagesTr/ and labelsTr/; if each structure "
            "has its own mask file, use `prepare --masks`"
        )
    check_ids([case.id for case in cases], str(root))
    if description.num_cases not in (None, len(cases)):
        more.append(
            f"{root / DATASET_FILE}: numTraining is {description.num_cases}, but it lists {counted(len(cases), 'case')}; correct one of them"
        )
    return FoundCases(
        tuple(cases),
        splits,
        description.label_names,
        description.channel_names,
        (*description.notes, *more),
        description.ignored_value,
    )


def _shown_entries(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not _is_hidden(path.name))
    return ", ".join([*names[:8], *(["..."] if names[8:] else [])]) or "no files"


def _find_split(
    folders: Mapping[str, Path],
) -> tuple[list[Case], dict[str, tuple[str, ...]], list[str]]:
    cases: list[Case] = []
    splits: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    problems: list[str] = []
    for split, folder in folders.items():
        with collecting(problems):
            found, more = _find_pairs(folder / "images", folder / "labels")
            cases += found
            splits[split] = tuple(case.id for case in found)
            notes += more
    if problems:
        raise DataError(listed(problems))
    notes += [
        f"there is no {split} folder, so that split is empty"
        for split in ("val", "test")
        if split not in splits
    ]
    return cases, splits, notes


def _find_pairs(images: Path, labels: Path) -> tuple[list[Case], list[str]]:
    """Cases from a folder of images and a folder of label maps."""
    image_files, image_notes = _volumes_in(images)
    label_files, label_notes = _volumes_in(labels)
    if _are_channels(image_files, label_files):
        return _group_channels(images, image_files, label_files), [*image_notes, *label_notes]
    pairs, notes = pair_files(image_files, label_files, f"{images} and {labels.name}")
    cases = [Case(volume_stem(image), (image,), label) for image, label in pairs]
    return cases, [*image_notes, *label_notes, *notes]


def _find_raw(root: Path) -> tuple[list[Case], list[str]]:
    """Cases in nnU-Net's raw layout without a list of cases."""
    found, notes = _find_pairs(root / "imagesTr", root / "labelsTr")
    held_out = root / "imagesTs"
    names = [path.name for path in held_out.iterdir()] if held_out.is_dir() else []
    if left_out := sum(is_volume_name(name) and not _is_hidden(name) for name in names):
        notes.append(
            f"{held_out}: {counted(left_out, 'image')} not used; to choose the split yourself, use the folders train, val and test"
        )
    return found, notes


def _find_listed(root: Path, entries: Iterable[ListedCase]) -> tuple[list[Case], list[str]]:
    """Cases that `dataset.json` lists, and a note on images in the same folders that it does not list."""
    cases = []
    for entry in entries:
        images = tuple(in_channel_order(_channel_files(entry.images)))
        name = volume_stem(entry.label)
        channels = [_CHANNEL.fullmatch(volume_stem(image)) for image in images]
        of_label = all(match and match[1] == name for match in channels)
        cases.append(
            Case(entry.id or (name if of_label else case_id_of(images)), images, entry.label)
        )
    used = {image for case in cases for image in case.images}
    folders = sorted({image.parent for image in used if is_folder(image.parent)})
    beside = {path for folder in folders for path in folder.iterdir() if path not in used}
    labels = {case.label for case in cases}
    rest = [p for p in beside - labels if is_volume_name(p.name) and not _is_hidden(p.name)]
    if not rest:
        return cases, []
    count = f"{len(rest)} images" if rest[1:] else "an image"
    return cases, [
        f"{root / DATASET_FILE} does not list {count}, such as {min(rest)}; images that are not listed are not used"
    ]


def _channel_files(images: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of a listed image; nnU-Net v1 lists NAME for the files NAME_0000, NAME_0001, ..."""
    if len(images) > 1:
        return images
    stem = volume_stem(images[0])
    match = _CHANNEL.fullmatch(stem)
    base = match[1] if match and is_there(images[0]) else stem
    if (match is None and is_there(images[0])) or not is_folder(images[0].parent):
        return images
    found = {
        path
        for path in images[0].parent.iterdir()
        if is_volume_name(path.name)
        and (channel := _CHANNEL.fullmatch(volume_stem(path)))
        and channel[1] == base
    }
    return tuple(sorted(found)) or images


def _are_channels(images: Iterable[Path], labels: Iterable[Path]) -> bool:
    """Whether image names follow nnU-Net's channel naming: NAME_0000 for the label map NAME."""
    named = {volume_stem(label) for label in labels}
    matches = (_CHANNEL.fullmatch(volume_stem(image)) for image in images)
    return any(match and match[1] in named and match[0] not in named for match in matches)


def channels_by_case(
    root: Path, images: Iterable[Path]
) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Group images by case, as nnU-Net names them: NAME_0000, NAME_0001, ... are the channels of NAME.

    Returns:
        The channels of each case by number, and the problems found: files without a channel number, and cases that lack
        a channel that other cases have.
    """
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems = []
    for image in images:
        match = _CHANNEL.fullmatch(volume_stem(image))
        if match is None:
            problems.append(f"{image}: has no channel number; name it {volume_stem(image)}_0000")
        else:
            channels[match[1]][int(match[2])] = image
    everywhere = set().union(*channels.values())
    for name, files in sorted(channels.items()):
        if missing := sorted(everywhere - files.keys()):
            lacking = ", ".join(f"{c:04}" for c in missing)
            problems.append(f"{root}: image {name} has no channel {lacking}; add its file")
    return {
        name: {c: files[c] for c in sorted(files)} for name, files in sorted(channels.items())
    }, problems


def case_id_of(images: Sequence[Path]) -> str:
    """Case id derived from image files: NAME for NAME_0000, NAME_0001, ..., else the stem of the first file.

    >>> case_id_of([Path("S01_0000.nii.gz"), Path("S01_0001.nii.gz")])
    'S01'
    """
    stems = [volume_stem(image) for image in images]
    matches = [_CHANNEL.fullmatch(stem) for stem in stems]
    names = {match[1] for match in matches if match}
    named_alike = len(images) > 1 and len(names) == 1 and all(matches)
    return names.pop() if named_alike else stems[0]


def in_channel_order(images: Sequence[Path]) -> list[Path]:
    """Image files of a case sorted by the channel number in their names; unchanged unless all of them have a number.

    Raises:
        DataError: files with different names are not in the order of their channel numbers, or two files have the same
            number.

    >>> [path.name for path in in_channel_order([Path("S01_0001.nii"), Path("S01_0000.nii")])]
    ['S01_0000.nii', 'S01_0001.nii']
    """
    matches = [_CHANNEL.fullmatch(volume_stem(image)) for image in images]
    names = {match[1] for match in matches if match}
    numbers = [int(match[2]) for match in matches if match]
    if len(images) == 1 or len(numbers) < len(images):
        return [*images]
    ordered = sorted(images, key=lambda image: volume_stem(image)[-4:])
    if len(set(numbers)) < len(numbers) or (len(names) > 1 and ordered != [*images]):
        shown = ", ".join(image.name for image in images)
        raise DataError(
            f"{shown}: the numbers at the end of these names do not ascend; give the channels of a case in the order of "
            "their numbers"
        )
    return ordered


def _group_channels(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> list[Case]:
    """Cases named as nnU-Net names them."""
    channels, faults = channels_by_case(root, images)
    by_name = {volume_stem(label): label for label in labels}
    problems = [
        f"{root}: image {n} has no label map" for n in sorted(channels.keys() - by_name.keys())
    ]
    problems += faults
    problems += [
        f"{root}: label map {n} has no image" for n in sorted(by_name.keys() - channels.keys())
    ]
    if problems:
        raise DataError(listed(problems))
    return [Case(name, tuple(files.values()), by_name[name]) for name, files in channels.items()]


def _is_hidden(name: str) -> bool:
    return (
        name.startswith((".", "~"))
        or name.endswith(("~", ".tmp"))
        or name in ("Thumbs.db", "desktop.ini")
    )


def _volumes_in(folder: Path) -> tuple[list[Path], list[str]]:
    """NIfTI files of a folder sorted by name, and notes on its other files.

    Raises:
        DataError: the folder cannot be read, holds no NIfTI files, holds images in other formats, or holds the same
            image twice.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); check that it is a folder of NIfTI files"
        ) from error
    hidden = [name for name in names if _is_hidden(name)]
    seen = [name for name in names if not _is_hidden(name)]
    volumes = [name for name in seen if is_volume_name(name)]
    others = {name: kind for name in seen if (kind := other_format(name)) is not None}
    problems = [f"{folder / name}: is {kind}; convert it to NIfTI" for name, kind in others.items()]
    problems += clashes(volumes, folder)
    if not volumes and not problems:
        problems = [
            f"{folder}: has no NIfTI files (.nii or .nii.gz), only {_shown_entries(folder)}; put the scans there"
        ]
    if problems:
        raise DataError(listed(problems))
    rest = [name for name in seen if not is_volume_name(name)]
    notes = (
        [f"{folder}: {counted(len(hidden), 'hidden or temporary file')} ignored"] if hidden else []
    )
    if rest:
        shown = ", ".join(rest[:5]) + (", ..." if rest[5:] else "")
        notes.append(f"{folder}: files that are not volumes are ignored: {shown}")
    return [folder / name for name in volumes], notes


def prediction_name(case_id: str) -> str:
    """File name of the predicted label map of a case.

    >>> prediction_name("S01")
    'S01_pred.nii.gz'
    """
    return f"{case_id}_pred.nii.gz"
