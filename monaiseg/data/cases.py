"""Cases: one subject's images and label map; found in folders, paired, and split.

A *case* has an id, one image file a channel (or one file of several channels) and a label map. A *split* is a list of
cases with one use: train, val, test, or debug, which is a part of train that shows over-fitting.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monaiseg.data.nifti import is_volume_name, other_format, volume_stem
from monaiseg.data.pairing import check_ids, clashes, pair_files
from monaiseg.errors import DataError, collecting, listed
from monaiseg.files import checked_text, read_json_object

SPLITS = ("train", "val", "test", "debug")

DATASET_FILE = "dataset.json"
"""The Decathlon's and nnU-Net's name for a dataset's description, and ours for a data task's."""
_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's name for one channel of a case."""


@dataclass(frozen=True)
class Case:
    """One subject: id, image files in the order of channels, and label map."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case, the label map last."""
        return (*self.images, *([self.label] if self.label else []))


@dataclass(frozen=True)
class FoundCases:
    """What a dataset folder holds."""

    cases: tuple[Case, ...]
    splits: dict[str, tuple[str, ...]] | None
    """Case ids of train, val and test where the folders are split; None where the splitting is left to us."""
    label_names: dict[int, str]
    channel_names: tuple[str, ...]
    notes: tuple[str, ...]


def find_cases(dataset_path: str | Path) -> FoundCases:
    """Cases of a dataset in one of four layouts, paired and with sound ids; no volume is opened.

    The layouts: `train|val|test/{images,labels}`; `images`, `labels`; the Decathlon's (`dataset.json` that lists
    pairs); nnU-Net's (`imagesTr`, `labelsTr`). In all but the Decathlon's, channels may be files of their own, with
    nnU-Net's number at the end of each name.

    Raises:
        DataError: the folder has none of the layouts, or images and label maps do not pair; all that do not are named.
    """
    root = Path(os.path.normpath(Path(dataset_path).absolute()))
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give the folder that holds the dataset")
    document = read_json_object(root / DATASET_FILE) if (root / DATASET_FILE).is_file() else {}
    label_names, channel_names, notes = _names(document, root / DATASET_FILE)
    folders = {s: root / s for s in ("train", "val", "test") if (root / s / "images").is_dir()}
    splits = None
    if (root / "imagesTr").is_dir() or "training" in document:
        cases, more = _find_listed(root, document)
    elif (root / "images").is_dir() and (root / "labels").is_dir():
        if folders:
            raise DataError(
                f"{root}: has images, labels and {', '.join(folders)}; keep either the split folders or the others"
            )
        cases, more = _find_pairs(root / "images", root / "labels")
    elif "train" in folders:
        cases, splits, more = _find_split(folders)
    else:
        raise DataError(
            f"{root}: has {_shown_entries(root)}; a dataset has images/ and labels/, or both of them inside train/, "
            "val/ and test/, or a Decathlon or nnU-Net dataset.json with imagesTr/ and labelsTr/"
        )
    check_ids([case.id for case in cases], str(root))
    return FoundCases(tuple(cases), splits, label_names, channel_names, (*notes, *more))


def _shown_entries(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not _is_hidden(path.name))
    return ", ".join([*names[:8], *(["..."] if names[8:] else [])]) or "nothing in it"


def _names(
    document: Mapping[str, Any], path: Path
) -> tuple[dict[int, str], tuple[str, ...], list[str]]:
    """Label names by value, channel names, and notes, in the Decathlon's spelling or nnU-Net's."""
    labels = document.get("labels", {})
    channels = document.get("channel_names", document.get("modality", {}))
    names, notes = {}, []
    try:
        for key, value in labels.items():
            if isinstance(value, list):
                notes.append(f"{path}: region {key!r} is made of several labels; ignored")
            elif isinstance(value, str):
                names[int(key)] = value
            else:
                names[int(value)] = key
        ordered = tuple(
            str(name) for _, name in sorted(channels.items(), key=lambda channel: int(channel[0]))
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f'{path}: {error}; "labels" and "channel_names" (or "modality") pair numbers with names'
        ) from error
    for name in names.values():
        checked_text(name, f"{path}: label name")
    for name in ordered:
        checked_text(name, f"{path}: channel name")
    return names, ordered, notes


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
        f"no {split} folder: that split is empty"
        for split in ("val", "test")
        if split not in splits
    ]
    return cases, splits, notes


def _find_pairs(images: Path, labels: Path) -> tuple[list[Case], list[str]]:
    """Cases of a folder of images and a folder of label maps."""
    image_files, image_notes = _volumes_in(images)
    label_files, label_notes = _volumes_in(labels)
    if _are_channels(image_files, label_files):
        return _group_channels(images, image_files, label_files), [*image_notes, *label_notes]
    pairs, notes = pair_files(image_files, label_files, f"{images} and {labels.name}")
    cases = [Case(volume_stem(image), (image,), label) for image, label in pairs]
    return cases, [*image_notes, *label_notes, *notes]


def _find_listed(root: Path, document: Mapping[str, Any]) -> tuple[list[Case], list[str]]:
    """Cases of nnU-Net's raw layout or the Decathlon's."""
    folders = root / "imagesTr", root / "labelsTr"
    if "training" not in document:
        found, notes = _find_pairs(*folders)
        held_out = root / "imagesTs"
        names = [path.name for path in held_out.iterdir()] if held_out.is_dir() else []
        if left_out := sum(is_volume_name(name) and not _is_hidden(name) for name in names):
            notes.append(
                f"{held_out}: {left_out} images left out; for a split of your own use train, val and test folders"
            )
        return found, notes
    there = all(folder.is_dir() for folder in folders)
    if there and _are_channels(*(_volumes_in(folder)[0] for folder in folders)):
        return _find_pairs(*folders)
    path, items = root / DATASET_FILE, document["training"]
    if not isinstance(items, list) or not items:
        raise DataError(f'{path}: "training" lists no cases; list pairs of image and label there')
    cases: list[Case] = []
    problems: list[str] = []
    for number, item in enumerate(items):
        with collecting(problems, f"{path}: training[{number}]: "):
            image, label = (_inside(root, item, key) for key in ("image", "label"))
            cases.append(Case(volume_stem(image), (image,), label))
    if problems:
        raise DataError(listed(problems))
    unlabelled = document.get("test", [])
    if not isinstance(unlabelled, list):
        raise DataError(f'{path}: "test" is {unlabelled!r:.60}; list paths of images there')
    return cases, [
        f"{len(unlabelled)} test images without label maps left out"
    ] if unlabelled else []


def _inside(root: Path, item: object, key: str) -> Path:
    """A listed path below `root`; links inside it may lead where their owner wants them to."""
    entry = item.get(key) if isinstance(item, dict) else None
    path = Path(os.path.normpath(root / entry)) if isinstance(entry, str) else root
    if root not in path.parents:
        raise DataError(f"{key!r} is {entry!r}; give a path inside the dataset's folder")
    return path


def _are_channels(images: Iterable[Path], labels: Iterable[Path]) -> bool:
    """Whether images are named as nnU-Net names channels: NAME_0000 for the label map NAME."""
    named = {volume_stem(label) for label in labels}
    matches = (_CHANNEL.fullmatch(volume_stem(image)) for image in images)
    return any(match and match[1] in named and match[0] not in named for match in matches)


def channels_by_case(
    root: Path, images: Iterable[Path]
) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Images of several channels as nnU-Net names them: NAME_0000, NAME_0001, ... are the channels of NAME.

    Returns:
        The channels of each case by number, and what is wrong with them: a file without a number, a case without a
        channel that others have.
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
            problems.append(f"{root}: image {name} lacks channel {lacking}")
    return {
        name: {c: files[c] for c in sorted(files)} for name, files in sorted(channels.items())
    }, problems


def case_id_of(images: Sequence[Path]) -> str:
    """The name of a case by its image files: NAME of NAME_0000, NAME_0001, ..., else the first file's.

    >>> case_id_of([Path("S01_0000.nii.gz"), Path("S01_0001.nii.gz")])
    'S01'
    """
    stems = [volume_stem(image) for image in images]
    matches = [_CHANNEL.fullmatch(stem) for stem in stems]
    names = {match[1] for match in matches if match}
    named_alike = len(images) > 1 and len(names) == 1 and all(matches)
    return names.pop() if named_alike else stems[0]


def _group_channels(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> list[Case]:
    """nnU-Net's cases."""
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
    """NIfTI files of a folder by name, and notes on what else lies there.

    Raises:
        DataError: the folder cannot be read, holds no NIfTI file, holds images of other formats, or one twice.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); it should hold NIfTI files"
        ) from error
    hidden = [name for name in names if _is_hidden(name)]
    seen = [name for name in names if not _is_hidden(name)]
    volumes = [name for name in seen if is_volume_name(name)]
    others = {name: kind for name in seen if (kind := other_format(name)) is not None}
    problems = [f"{folder / name}: is {kind}; convert it to NIfTI" for name, kind in others.items()]
    problems += clashes(volumes, folder)
    if not volumes and not problems:
        problems = [
            f"{folder}: holds no NIfTI files (.nii, .nii.gz) but {_shown_entries(folder)}; put some there"
        ]
    if problems:
        raise DataError(listed(problems))
    rest = [name for name in seen if not is_volume_name(name)]
    notes = [f"{folder}: {len(hidden)} hidden or temporary files ignored"] if hidden else []
    if rest:
        shown = ", ".join(rest[:5]) + (", ..." if rest[5:] else "")
        notes.append(f"{folder}: ignored, no volumes: {shown}")
    return [folder / name for name in volumes], notes


def prediction_name(case_id: str) -> str:
    """File name of the label map of a case.

    >>> prediction_name("S01")
    'S01_pred.nii.gz'
    """
    return f"{case_id}_pred.nii.gz"
