"""Data tasks: folders with a prepared dataset, ready for training.

A *data task* is a set of cases with its splits, label table and facts. It is stored as EasyReg's list files and a
`dataset.json` with everything that the lists cannot hold. A data task that EasyReg prepared has only the lists.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from monaiseg.data.cases import SPLITS, Case
from monaiseg.data.descriptions import DATASET_FILE
from monaiseg.data.facts import (
    CaseFacts,
    Progress,
    check_duplicates,
    examine_cases,
    file_notes,
)
from monaiseg.data.label_checks import label_notes, scan_labels
from monaiseg.data.labels import LabelTable
from monaiseg.data.list_files import NAMES_FILE, PATHS_FILE, read_list_file, write_list_file
from monaiseg.data.pairing import caseless
from monaiseg.data.splits import choose_debug
from monaiseg.errors import DataError, SettingsError, StorageError, collecting, listed
from monaiseg.files import checked_text, read_json_object, write_atomic
from monaiseg.settings import Settings, changed

SCHEMA_VERSION = 1
VOLUMES_FOLDER = "volumes"
"""Folder of a data task for the volumes that preparation wrote, if any."""
CACHE_FOLDER = "cache"
"""Folder in which training runs cache prepared cases, keyed by their content."""
DESKTOP_FILE = ".DS_Store"
"""File that macOS writes into folders opened in the Finder."""

_LABELLED = ("train", "val", "debug")


@dataclass(frozen=True)
class DataTask:
    """Cases, splits and labels, as written to a folder by `prepare`."""

    folder: Path
    name: str
    seed: int
    cases: dict[str, tuple[Case, ...]]
    """Cases of train, val, test and debug."""
    table: LabelTable
    """All labels of the data task; a training run uses `label_table(settings)`."""
    facts: dict[str, CaseFacts]
    """By case id."""
    channel_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] | None = None
    """`dataset` settings that the volumes of train, val and debug were preprocessed with; None if they were not."""
    persons: Mapping[str, str] = field(default_factory=dict)
    """The person of a case by case id, for the cases that do not have a person of their own."""

    def __post_init__(self) -> None:
        for name in self.channel_names:
            checked_text(name, "channel name")

    def label_table(self, settings: Settings) -> LabelTable:
        """Labels selected by the settings; raises the same errors as `kept_labels`."""
        return kept_labels(self.table, settings, f"the dataset {self.name}")

    def as_read(self, settings: Settings, split: str = "train") -> Settings:
        """Settings to read the cases of a split with; they do not normalise preprocessed volumes a second time.

        Raises:
            SettingsError: the volumes were preprocessed with other settings.
        """
        if self.preprocessing is None or split == "test":
            return settings
        wanted = preprocessing_of(settings)
        for key in [key for key in wanted if wanted[key] != self.preprocessing.get(key)]:
            raise SettingsError(
                f"dataset.{key}: {json.dumps(wanted[key])} now, and {json.dumps(self.preprocessing.get(key))} when the "
                f"volumes of {self.folder} were preprocessed (x, y, z); set it back, or prepare the data again"
            )
        as_they_are = {"dataset.intensity.method": "none", "dataset.intensity.clip_range": None}
        return changed(settings, as_they_are)


def kept_labels(table: LabelTable, settings: Settings, owner: str) -> LabelTable:
    """Labels of a table selected by the settings; `owner` names the table's owner in messages.

    Raises:
        SettingsError: `interested_label_list` has values that the table lacks, or only the background is left, or
            `class_num` or the number of class weights differs from the number of classes.
    """
    values = settings.dataset.seg.interested_label_list
    if strange := sorted(set(values) - {-1, *table.values}):
        raise SettingsError(
            f"dataset.seg.interested_label_list: {owner} has no labels {', '.join(map(str, strange))}; it has "
            f"{', '.join(map(str, table.values))}"
        )
    kept = table if -1 in values else table.restricted_to(values)
    if kept.num_classes < 2:
        raise SettingsError(
            f"{owner}: there are no labels but the background; list labels in dataset.seg.interested_label_list, or prepare "
            "a dataset whose label maps have some"
        )
    class_num = settings.tsk_set.seg.class_num
    if class_num not in (-1, kept.num_classes):
        raise SettingsError(
            f"tsk_set.seg.class_num: {class_num} is not the number of labels and background; use {kept.num_classes}, "
            "or -1"
        )
    weights = settings.tsk_set.loss.ce.class_weight
    if weights is not None and len(weights) != kept.num_classes:
        raise SettingsError(
            f"tsk_set.loss.ce.class_weight: {len(weights)} weights for {kept.num_classes} classes; give one for each "
            "class, background first"
        )
    return kept


def preprocessing_of(settings: Settings) -> dict[str, Any]:
    """Settings of `dataset` that determine how preparation resamples and normalises volumes; sizes along X, Y, Z."""
    wanted = {
        "spacing": settings.spacing_mm,
        "img_after_resize": settings.image_shape,
        "intensity": settings.dataset.intensity.model_dump(),
    }
    return dict(json.loads(json.dumps(wanted)))  # as read back from dataset.json


def write_data_task(task: DataTask) -> None:
    """Write the folder of a data task, completely or not at all. An identical data task is left unchanged.

    If only the locations of the files have changed, the lists and `dataset.json` are rewritten one by one and
    everything else is kept: training runs in the folder can continue, because their cases are the same.

    Raises:
        SettingsError: the folder holds something else, such as training runs on another split.
        StorageError: the folder cannot be written.
    """
    if _is_same(task):
        return
    if _is_moved(task):
        write_lists(task, task.folder)
        return
    with fresh_folder(task.folder) as scratch:
        write_lists(task, scratch)


def write_lists(task: DataTask, folder: Path) -> None:
    """Write list files and `dataset.json` to `folder`."""
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
        write_list_file(folder / split / PATHS_FILE, task.cases.get(split, ()))
    write_atomic(folder / DATASET_FILE, _dataset_json(task))


def _is_same(task: DataTask) -> bool:
    try:
        return (task.folder / DATASET_FILE).read_bytes() == _dataset_json(task) and all(
            read_list_file(task.folder / split / PATHS_FILE) == task.cases.get(split, ())
            for split in SPLITS
        )
    except (OSError, DataError):
        return False


def _is_moved(task: DataTask) -> bool:
    """Whether the folder's `dataset.json` lists the same files, by checksum, at other locations."""
    try:
        before = json.loads((task.folder / DATASET_FILE).read_bytes())
        now = json.loads(_dataset_json(task))
        for record in (*before["cases"], *now["cases"]):
            record["images"] = len(record["images"])
            record["label"] = record["label"] is not None
            record["facts"].pop("notes")  # they contain paths
        return bool(before | {"notes": None} == now | {"notes": None})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not a data task's file
        return False


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A new folder that replaces the data task `target` when the block ends, and is removed if the block raises."""
    check_replaceable(target)
    target = target.resolve()
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = scratch.with_suffix(".old")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if target.exists():
            target.rename(old)
        scratch.rename(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{target}: cannot be written ({error.strerror}); choose another output_root_path, or make room"
        ) from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (scratch, old):
            shutil.rmtree(left, ignore_errors=True)


def check_replaceable(target: Path) -> None:
    """Raise SettingsError if `target` holds more than the files of a data task."""
    if not target.exists():
        return
    if not target.is_dir():
        raise SettingsError(
            f"{target}: is a file; choose another data_task_name or output_root_path"
        )
    ours = {*SPLITS, DATASET_FILE, VOLUMES_FOLDER, CACHE_FOLDER, DESKTOP_FILE}
    if others := sorted({path.name for path in target.iterdir()} - ours):
        raise SettingsError(
            f"{target}: has {', '.join(others[:5])}{', ...' if others[5:] else ''} and another prepared dataset in it; choose "
            "another data_task_name, or move the folder away"
        )
    if strange := [
        path
        for split in SPLITS
        for path in (target / split).glob("*")
        if path.name not in (PATHS_FILE, NAMES_FILE, DESKTOP_FILE)
    ]:
        raise SettingsError(
            f"{target}: has {strange[0]} in it, which is not part of a prepared dataset; choose another data_task_name"
        )


def _dataset_json(task: DataTask) -> bytes:
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": task.name,
        "seed": task.seed,
        "channels": list(task.channel_names),
        "labels": task.table.to_records(),
        "notes": list(task.notes),
        "preprocessing": task.preprocessing,
        "debug": [case.id for case in task.cases.get("debug", ())],
        "cases": [
            {
                "id": case.id,
                "split": split,
                "images": [str(path) for path in case.images],
                "label": None if case.label is None else str(case.label),
                **({"person": task.persons[case.id]} if case.id in task.persons else {}),
                "facts": asdict(task.facts[case.id]),
            }
            for split in ("train", "val", "test")
            for case in task.cases.get(split, ())
        ],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def read_data_task(
    folder: str | Path, root: str | Path | None = None, on_progress: Progress | None = None
) -> DataTask:
    """Read the data task in a folder from its list files and, if present, its `dataset.json`.

    Lists alone, as written by EasyReg, are enough. Then every case is examined, the label table is the union of the
    label values in all splits, and a few of the training cases form debug if it has no list.

    Args:
        folder: `<output_root>/<data_task_name>`.
        root: folder that all listed paths must be inside.
        on_progress: called after each examined case, if any case is examined.

    Raises:
        DataError: lists are missing, list files that do not exist, share cases, or disagree with `dataset.json`.
    """
    folder = Path(folder).absolute()
    lists = {split: folder / split / PATHS_FILE for split in SPLITS}
    if not any(path.exists() for path in lists.values()):
        raise DataError(_not_prepared(folder))
    cases: dict[str, tuple[Case, ...]] = {}
    problems: list[str] = []
    for split, path in lists.items():
        with collecting(problems):
            cases[split] = read_list_file(path, root) if path.exists() else ()
    is_described = (folder / DATASET_FILE).exists()
    if problems and is_described:
        problems.append(
            f"{folder}: if the files have moved, prepare them again under the same name; the runs in this folder are kept"
        )
    for split in _LABELLED:
        lone = [case.id for case in cases.get(split, ()) if case.label is None]
        problems += [f"{lists[split]}: case {name!r} has no label map; add it" for name in lone]
    if problems:
        raise DataError(listed(problems))
    _check_disjoint(cases, folder)
    if is_described:
        return _with_dataset_json(folder, cases)
    facts = examine_cases(
        [case for split in ("train", "val", "test") for case in cases[split]], None, on_progress
    )
    splits = {split: tuple(case.id for case in members) for split, members in cases.items()}
    if not cases["debug"]:
        chosen = choose_debug(splits["train"], 0)
        cases["debug"] = tuple(case for case in cases["train"] if case.id in chosen)
    table = scan_labels(facts)
    notes = [
        f"{folder}: has list files but no {DATASET_FILE}; the labels were read from all label maps",
        *check_duplicates(splits, facts),
        *label_notes(splits, facts, table),
        *file_notes(facts),
    ]
    return DataTask(folder, folder.name, 0, cases, table, facts, (), tuple(notes))


def _not_prepared(folder: Path) -> str:
    """Message that `folder` is no prepared dataset; names those in it, beside it and in folders next to its parent."""
    lists = f"train/{PATHS_FILE}"
    found = [*folder.glob(f"*/{lists}"), *folder.parent.parent.glob(f"*/*/{lists}")]
    near = sorted({str(path.parents[1]) for path in found})[:5]
    advice = f"use {' or '.join(near)}" if near else "make one with `monaiseg prepare`"
    return f"{folder}: is not a prepared dataset (no {PATHS_FILE} in train, val or test); {advice}"


def _check_disjoint(cases: Mapping[str, tuple[Case, ...]], folder: Path) -> None:
    """Raise DataError if train, val and test share ids or images, or debug is not a subset of train."""
    places: dict[str, set[str]] = defaultdict(set)
    for split in ("train", "val", "test"):
        for case in cases[split]:
            places[f"case {caseless(case.id)!r}"].add(split)
            for image in case.images:
                places[f"image {image}"].add(split)
    problems = [
        f"{folder}: {what} is in {' and '.join(sorted(splits))}; keep it in one of them"
        for what, splits in places.items()
        if len(splits) > 1
    ]
    problems += [
        f"{folder}: debug case {case.id!r} is not a training case; list only training cases there"
        for case in cases["debug"]
        if case not in cases["train"]
    ]
    if problems:
        raise DataError(listed(problems))


def _with_dataset_json(folder: Path, cases: dict[str, tuple[Case, ...]]) -> DataTask:
    path = folder / DATASET_FILE
    document = read_json_object(path)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: has schema_version {version!r}, but this monaiseg reads {SCHEMA_VERSION}; prepare the data again"
        )
    try:
        recorded: dict[str, list[Case]] = {split: [] for split in SPLITS}
        facts = {}
        for record in document["cases"]:
            label = record["label"]
            case = Case(
                str(record["id"]),
                tuple(map(Path, record["images"])),
                None if label is None else Path(label),
            )
            recorded[record["split"]].append(case)
            facts[case.id] = CaseFacts.from_record(record["facts"])
        preprocessing = document.get("preprocessing")
        recorded["debug"] = [case for case in recorded["train"] if case.id in document["debug"]]
        task = DataTask(
            folder,
            str(document["name"]),
            int(document["seed"]),
            cases,
            LabelTable.from_records(document["labels"]),
            facts,
            tuple(map(str, document["channels"])),
            tuple(map(str, document["notes"])),
            None if preprocessing is None else {**preprocessing},
            {str(r["id"]): str(r["person"]) for r in document["cases"] if "person" in r},
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}); prepare the data again") from error
    different = [s for s in SPLITS if set(recorded[s]) != set(cases[s])]
    if different:
        raise DataError(
            f"{path}: does not have the cases of {', '.join(f'{s}/{PATHS_FILE}' for s in different)}; prepare the data "
            f"again, or remove {DATASET_FILE} to use the list files alone"
        )
    return task
