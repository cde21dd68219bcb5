"""Descriptions: the contents of a dataset's `dataset.json`, in the Decathlon's or nnU-Net's format.

A description gives the names of labels and channels, the ignored label value and, if present, the list of cases.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monaiseg.data.labels import ignored_among
from monaiseg.errors import DataError, collecting, counted, listed
from monaiseg.files import checked_text, read_json_object

DATASET_FILE = "dataset.json"
"""File name of a dataset's description in the Decathlon and nnU-Net, and of a data task's description here."""


@dataclass(frozen=True)
class ListedCase:
    """A case as listed in a description: paths of the images and the label map, and the id if it has one."""

    images: tuple[Path, ...]
    label: Path
    id: str | None = None


@dataclass(frozen=True)
class Description:
    """Contents of `dataset.json`; empty if there is no such file."""

    label_names: dict[int, str]
    ignored_value: int | None
    channel_names: tuple[str, ...]
    cases: tuple[ListedCase, ...] | None
    """None if there is no list; then all files are used."""
    num_cases: int | None
    """`numTraining`."""
    notes: tuple[str, ...]


def read_description(root: Path) -> Description:
    """The description of the dataset in `root`.

    Raises:
        DataError: it is not JSON, does not pair numbers with names, or lists paths outside of `root`.
    """
    path = root / DATASET_FILE
    document = read_json_object(path) if path.is_file() else {}
    names, channels, notes = _names(document, path)
    ignored = ignored_among(names)
    labels = {value: name for value, name in names.items() if value != ignored}
    count = document.get("numTraining")
    cases, more = _listed_cases(document, root)
    return Description(
        labels,
        ignored,
        channels,
        cases,
        count if isinstance(count, int) else None,
        (*notes, *more),
    )


def _names(
    document: Mapping[str, Any], path: Path
) -> tuple[dict[int, str], tuple[str, ...], list[str]]:
    """Label names by value, channel names, and notes."""
    labels = document.get("labels", {})
    channels = document.get("channel_names", document.get("modality", {}))
    try:
        names, regions = names_in(labels)
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
    shown = ", ".join(map(repr, regions))
    note = f"{path}: {shown} are regions of several labels; the single labels are trained"
    notes = [note] if regions else []
    return names, ordered, notes


def names_in(labels: Mapping[str, Any]) -> tuple[dict[int, str], list[str]]:
    """Names by label value, and the names of nnU-Net's regions, from "labels" in either order: number and name.

    A value that only occurs in regions has no name of its own: "label 3".

    Raises:
        ValueError: a value is not a whole number, or has two names.
    """
    names: dict[int, str] = {}
    regions = [key for key, value in labels.items() if isinstance(value, list)]
    for key, value in labels.items():
        if key in regions:
            continue
        by_number = isinstance(value, str) and (key.isdigit() or not value.isdigit())
        number, name = (_whole(key), value) if by_number else (_whole(value), key)
        if names.setdefault(number, name) != name:
            raise ValueError(f"label value {number} has the names {names[number]!r} and {name!r}")
    of_regions = sorted({_whole(value) for key in regions for value in labels[key]})
    return {**{value: f"label {value}" for value in of_regions}, **names}, regions


def _whole(number: Any) -> int:
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"{number} is not a label value")
    return int(number)


def _listed_cases(
    document: Mapping[str, Any], root: Path
) -> tuple[tuple[ListedCase, ...] | None, list[str]]:
    """The cases listed under "training" (Decathlon) or "dataset" (nnU-Net), and notes on other lists."""
    path = root / DATASET_FILE
    notes = []
    for key in ("test", "validation"):
        items = document.get(key, [])
        if not isinstance(items, list):
            raise DataError(f"{path}: {key!r} is {items!r:.60}; it must be a list of images")
        if items and key == "test":
            notes.append(f"{counted(len(items), 'test image')} without label maps not used")
        elif items:
            notes.append(
                f"{path}: {counted(len(items), 'case')} of {key!r} not used; only those of 'training' are"
            )
    key = "training"
    if key not in document and isinstance(document.get("dataset"), dict):
        key = "dataset"
    if key not in document:
        return None, notes
    items = document[key]
    if not isinstance(items, list | dict) or not items:
        raise DataError(f"{path}: {key!r} lists no cases; list pairs of image and label")
    named = items.items() if isinstance(items, dict) else [(None, item) for item in items]
    cases: list[ListedCase] = []
    problems: list[str] = []
    for number, (name, item) in enumerate(named):
        with collecting(problems, f"{path}: {key}[{number if name is None else name!r}]: "):
            cases.append(_listed_case(root, item, name))
    if problems:
        raise DataError(listed(problems))
    return tuple(cases), notes


def _listed_case(root: Path, item: object, name: object) -> ListedCase:
    entry = item if isinstance(item, dict) else {}
    key = "images" if "images" in entry else "image"
    images = entry.get(key)
    paths = images if isinstance(images, list) and images else [images]
    return ListedCase(
        tuple(_inside(root, path, key) for path in paths),
        _inside(root, entry.get("label"), "label"),
        None if name is None else str(name),
    )


def _inside(root: Path, entry: object, key: str) -> Path:
    """A listed path below `root`; symbolic links inside `root` may point anywhere."""
    path = Path(os.path.normpath(root / entry)) if isinstance(entry, str) else root
    if root not in path.parents:
        raise DataError(f"{key!r} is {entry!r}; give a path inside the dataset's folder")
    return path
