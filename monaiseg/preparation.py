"""Preparation: from a folder of scans and label maps to a data task that is ready to train on.

Everything is checked before anything is written, and the dataset's own folder is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monaiseg.cases import (
    Case,
    CaseFacts,
    DataTask,
    FoundCases,
    Progress,
    check_duplicates,
    check_labels,
    choose_debug,
    examine_cases,
    file_notes,
    find_cases,
    label_notes,
    scan_labels,
    split_cases,
    write_data_task,
)
from monaiseg.errors import SettingsError
from monaiseg.files import valid_name
from monaiseg.labels import LabelTable


def prepare(
    dataset_path: str | Path,
    output_root_path: str | Path,
    data_task_name: str,
    *,
    task_type: str = "seg",
    train_size: int = 70,
    test_size: int = 20,
    val_size: int = 10,
    seed: int = 0,
    label_table: str | Path | None = None,
    on_progress: Progress | None = None,
) -> DataTask:
    """Pair, examine and split the cases of a dataset, and write them as a data task.

    Args:
        dataset_path: folder in one of the layouts of `monaiseg.cases.find_cases`.
        output_root_path: folder of all data tasks; made where it is missing.
        data_task_name: name of this one's folder.
        task_type: "seg".
        train_size: percent of the cases to train on; the three sizes count only where the dataset is not split.
        test_size: percent of the cases held out for the test.
        val_size: percent of the cases to validate on.
        seed: what the split follows from.
        label_table: CSV file with the columns value, name and, as wanted, partner and color. Without one, the labels
            are those that the label maps have, named by the dataset's `dataset.json` where it names them.
        on_progress: told of each case that is examined.

    Raises:
        SettingsError: the arguments ask for what cannot be done; nothing was written.
        DataError: cases cannot be used; all of them are named, and nothing was written.
        StorageError: the data task cannot be written; nothing is left of it.
    """
    if task_type != "seg":
        raise SettingsError(f"task_type: {task_type!r} is not a kind of task here; use seg")
    folder = Path(output_root_path).absolute() / valid_name(data_task_name, "data_task_name")
    table = None if label_table is None else LabelTable.read_csv(label_table)
    found = find_cases(dataset_path)
    _check_apart(folder, Path(dataset_path), found.cases)
    splits = _splits(found, (train_size, test_size, val_size), seed)
    facts = examine_cases(found.cases, on_progress=on_progress)
    if table is None:
        table = scan_labels(facts, found.label_names)
    check_labels(facts, table)
    channels, channel_notes = _channel_names(found, facts)
    by_id = {case.id: case for case in found.cases}
    task = DataTask(
        folder,
        data_task_name,
        seed,
        {split: tuple(by_id[name] for name in ids) for split, ids in splits.items()},
        table,
        facts,
        channels,
        (
            *found.notes,
            *channel_notes,
            *check_duplicates(splits, facts),
            *label_notes(splits, facts, table),
            *file_notes(facts),
        ),
    )
    write_data_task(task)
    return task


def _check_apart(folder: Path, dataset: Path, cases: Sequence[Case]) -> None:
    """Raises SettingsError where writing `folder` would touch the dataset, by its path or through links."""
    target, source = folder.resolve(), dataset.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise SettingsError(
            f"output {folder} and dataset {dataset} lie in one another; choose an output_root_path outside of the "
            "dataset"
        )
    inside = [path for case in cases for path in case.files if target in path.resolve().parents]
    if inside:
        raise SettingsError(f"{inside[0]} lies inside of the output {folder}; choose another name")


def _splits(
    found: FoundCases, sizes: tuple[int, int, int], seed: int
) -> Mapping[str, tuple[str, ...]]:
    """Case ids of every split: the dataset's own, or seeded ones."""
    if found.splits is None:
        return split_cases([case.id for case in found.cases], sizes, seed)
    own = {split: found.splits.get(split, ()) for split in ("train", "val", "test")}
    return {**own, "debug": choose_debug(own["train"], seed)}


def _channel_names(
    found: FoundCases, facts: Mapping[str, CaseFacts]
) -> tuple[tuple[str, ...], list[str]]:
    """The dataset's names of its channels, if it names as many as there are, and notes."""
    count = len(next(iter(facts.values())).intensity)
    if len(found.channel_names) in (0, count):
        return found.channel_names, []
    names = ", ".join(found.channel_names)
    return (), [f"dataset.json names the channels {names}, and images have {count}; names left out"]
