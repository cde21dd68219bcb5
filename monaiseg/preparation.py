"""Preparation: from a folder of scans and label maps to a data task that is ready to train on.

Everything is checked before anything is written, and the dataset's own folder is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from monaiseg.data import (
    VOLUMES_FOLDER,
    Case,
    CaseFacts,
    DataTask,
    FoundCases,
    Grid,
    LabelTable,
    Progress,
    absent_note,
    alike_note,
    check_apart,
    check_duplicates,
    choose_debug,
    examine_cases,
    file_notes,
    find_cases,
    fitted_table,
    fresh_folder,
    groups_note,
    label_notes,
    preprocessing_of,
    read_groups,
    repeats_note,
    scan_labels,
    split_cases,
    with_same_images,
    write_data_task,
    write_image,
    write_label_map,
    write_lists,
)
from monaiseg.errors import SettingsError
from monaiseg.files import valid_name
from monaiseg.machine import reading_threads
from monaiseg.settings import Settings, find_settings, load_settings


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
    group_by: str | None = None,
    label_table: str | Path | None = None,
    preprocess: str | Path | None = None,
    on_progress: Progress | None = None,
) -> DataTask:
    """Pair, examine and split the cases of a dataset, and write them as a data task.

    With `preprocess`, the cases to train on and to validate on are also normalised and resampled as the settings say,
    their label maps reduced to the labels that the settings keep, and written into the data task's folder, for trainings
    with these settings to read. Test cases stay as they are: scores are taken on the original scans.

    Args:
        dataset_path: folder in one of the layouts of `monaiseg.data.find_cases`.
        output_root_path: folder of all data tasks; made where it is missing.
        data_task_name: name of this one's folder.
        task_type: "seg".
        train_size: percent of the cases to train on; the three sizes count only where the dataset is not split.
        test_size: percent of the cases held out for the test.
        val_size: percent of the cases to validate on.
        seed: what the split follows from.
        group_by: what tells whose scan a case is, so that all of a person's fall into one split: a pattern that is
            searched for in the case ids, such as `patient([0-9]+)`, or a CSV file with the columns case and group.
        label_table: CSV file with the columns value, name and, as wanted, partner and color. It may name more than there
            is. Without one, the labels are those that the label maps have, named by the dataset's `dataset.json` where
            it names them.
        preprocess: settings file, or the folder that holds it as `cur_task_setting.json`.
        on_progress: told of each case that is examined and, with `preprocess`, of each that is written.

    Raises:
        SettingsError: the arguments ask for what cannot be done; nothing was written.
        DataError: cases cannot be used; all of them are named, and nothing was written.
        StorageError: the data task cannot be written; nothing is left of it.
    """
    if task_type != "seg":
        raise SettingsError(f"task_type: {task_type!r} is not a kind of task here; use seg")
    folder = Path(output_root_path).absolute() / valid_name(data_task_name, "data_task_name")
    table = None if label_table is None else LabelTable.read_csv(label_table)
    settings = None if preprocess is None else load_settings(find_settings(preprocess))
    found = find_cases(dataset_path)
    _check_apart(folder, Path(dataset_path), found.cases)
    ids, sizes = [case.id for case in found.cases], (train_size, test_size, val_size)
    groups = {name: name for name in ids} if group_by is None else read_groups(ids, group_by)
    _splits(found, sizes, seed, groups)  # what is wrong with the sizes is said at once
    ignored = found.ignored_value if table is None else table.ignored_value
    facts = examine_cases(found.cases, on_progress=on_progress, ignored_value=ignored)
    together = with_same_images(groups, facts)
    splits = _splits(found, sizes, seed, together)
    table, table_notes = _label_table(found, facts, table)
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
            *table_notes,
            *filter(None, [groups_note(groups, group_by) if group_by else repeats_note(ids)]),
            *filter(None, [alike_note(facts, together)]),
            *check_duplicates(splits, facts),
            *label_notes(splits, facts, table),
            *file_notes(facts),
        ),
    )
    if settings is not None:
        return _preprocess(task, settings, on_progress)
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
    found: FoundCases, sizes: tuple[int, int, int], seed: int, groups: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    """Case ids of every split: the dataset's own, or seeded ones."""
    if found.splits is None:
        return split_cases(groups, sizes, seed, groups)
    check_apart(found.splits, groups)
    own = {split: found.splits.get(split, ()) for split in ("train", "val", "test")}
    return {**own, "debug": choose_debug(own["train"], seed)}


def _label_table(
    found: FoundCases, facts: Mapping[str, CaseFacts], given: LabelTable | None
) -> tuple[LabelTable, list[str]]:
    """The labels that the label maps have, named by the table that was given or by the dataset itself, and notes."""
    if given is None:
        table = scan_labels(facts, found.label_names, found.ignored_value)
        named = {value: name for value, name in found.label_names.items() if value != 0}
        notes = absent_note(facts, named, "dataset.json")
    else:
        table = fitted_table(facts, given)
        named = {label.value: label.name for label in given.foreground}
        notes = absent_note(facts, named, "the label table")
    if table.ignored_value is not None:
        voxels = sum(found.label_voxels.get(table.ignored_value, 0) for found in facts.values())
        notes.append(
            f"label value {table.ignored_value} is ignored: {voxels} voxels count in no sampling, loss or score"
        )
    return table, [*notes, *filter(None, [table.side_note()])]


def _channel_names(
    found: FoundCases, facts: Mapping[str, CaseFacts]
) -> tuple[tuple[str, ...], list[str]]:
    """The dataset's names of its channels, if it names as many as there are, and notes."""
    count = len(next(iter(facts.values())).intensity)
    if len(found.channel_names) in (0, count):
        return found.channel_names, []
    names = ", ".join(found.channel_names)
    return (), [f"dataset.json names the channels {names}, and images have {count}; names left out"]


def _preprocess(task: DataTask, settings: Settings, on_progress: Progress | None) -> DataTask:
    """Writes the data task with volumes of its own for training and validation."""
    from monaiseg.transforms import resize_note  # noqa: PLC0415  most preparations need no torch

    table = task.label_table(settings)
    count = len(next(iter(task.facts.values())).intensity)
    if settings.dataset.num_channels != count:
        raise SettingsError(
            f"dataset.num_channels: is {settings.dataset.num_channels}, and the cases have {count} channels; use {count}"
        )
    with fresh_folder(task.folder) as scratch:
        chosen = [case for split in ("train", "val") for case in task.cases[split]]
        written = _write_volumes(chosen, settings, table, scratch / VOLUMES_FOLDER, on_progress)
        facts = {**task.facts, **examine_cases(written, ignored_value=table.ignored_value)}
        moved = {case.id: _moved(case, scratch, task.folder) for case in written}
        cases = {
            split: tuple(moved.get(case.id, case) for case in members)
            for split, members in task.cases.items()
        }
        notes = (*task.notes, *filter(None, [resize_note(settings)]))
        task = replace(
            task,
            cases=cases,
            table=table,
            facts=facts,
            notes=notes,
            preprocessing=preprocessing_of(settings),
        )
        write_lists(task, scratch)
    return task


def _write_volumes(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    folder: Path,
    on_progress: Progress | None,
) -> list[Case]:
    """Image and label map of every case on the network grid, before volumes are padded.

    Normalised: resampling moves the statistics that intensities are normalised by, and prediction takes them before.
    """
    from monai.transforms.croppad.dictionary import Padd  # noqa: PLC0415  most preparations need no torch

    from monaiseg.transforms import CaseChain, case_item, load_chain  # noqa: PLC0415

    steps = load_chain(settings, table)
    chain = CaseChain([step for step in steps if not isinstance(step, Padd)])
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)

    def write(case: Case) -> Case:
        item = chain(case_item(case))
        image, label = item["image"].numpy(), table.label_values(item["label"].numpy()[0])
        grid = Grid.of(label.shape, item["image"].affine.numpy())
        files = [folder / kind / f"{case.id}.nii.gz" for kind in ("images", "labels")]
        write_image(files[0], image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), grid)
        write_label_map(files[1], label, grid, table=table)
        return Case(case.id, (files[0],), files[1])

    written = []
    with ThreadPoolExecutor(reading_threads()) as pool:
        for case in pool.map(write, cases):
            written.append(case)
            if on_progress:
                on_progress(len(written), len(cases))
    return written


def _moved(case: Case, old: Path, new: Path) -> Case:
    """The case with its files below `new` instead of `old`."""
    images = tuple(new / path.relative_to(old) for path in case.images)
    return Case(case.id, images, case.label and new / case.label.relative_to(old))
