"""Preparation: turn a folder of scans and label maps into a data task that is ready for training.

Everything is checked before anything is written, and the dataset's own folder is only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monaiseg.data import (
    OVERLAP_RULES,
    VOLUMES_FOLDER,
    Case,
    CaseFacts,
    DataTask,
    FoundCases,
    Grid,
    LabelTable,
    MaskedCase,
    OverlapRule,
    Progress,
    absent_note,
    alike_note,
    check_apart,
    check_duplicates,
    check_ids,
    choose_debug,
    converted_masks,
    examine_cases,
    file_notes,
    find_cases,
    find_masked_cases,
    fitted_table,
    fresh_folder,
    groups_note,
    label_notes,
    load_label_table,
    preprocessing_of,
    read_groups,
    repeats_note,
    scan_labels,
    split_cases,
    with_orientation,
    with_same_images,
    write_data_task,
    write_image,
    write_label_map,
    write_lists,
)
from monaiseg.errors import SettingsError, counted
from monaiseg.files import valid_name
from monaiseg.machine import reading_threads
from monaiseg.settings import Settings, find_settings, load_settings

PREPROCESSED_FOLDER = "preprocessed"
"""Subfolder of a data task's volumes for the normalised and resampled ones of training and validation."""


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
    masks: bool = False,
    overlaps: OverlapRule = "smaller",
    assume_orientation: str | None = None,
    preprocess: str | Path | None = None,
    on_progress: Progress | None = None,
) -> DataTask:
    """Pair, examine and split the cases of a dataset, and write them as a data task.

    ```python
    import monaiseg

    task = monaiseg.prepare("scans", "work", "again", train_size=60, val_size=20, test_size=20)
    print({split: len(cases) for split, cases in task.cases.items()})
    ```

    With `preprocess`, the training and validation cases are also normalised and resampled according to the settings,
    and their label maps are reduced to the labels that the settings keep. They are written to the data task's folder,
    where training runs with these settings read them. Test cases stay unchanged: scores are computed on the original
    scans.

    Args:
        dataset_path: folder in one of the layouts of `monaiseg.data.find_cases`.
        output_root_path: folder of all data tasks; created if missing.
        data_task_name: name of this data task's folder.
        task_type: "seg".
        train_size: percent of the cases for training; the three sizes apply only if the dataset is not split already.
        test_size: percent of the cases held out for testing.
        val_size: percent of the cases for validation.
        seed: random seed of the split.
        group_by: how to find the person that a case belongs to, so that all cases of a person are in the same split: a
            pattern to search for in the case ids, such as `patient([0-9]+)`, or a CSV file with the columns case and
            group.
        label_table: file with a label table in any of the formats of `load_label_table`, or the name of one that comes
            with monaiseg. It may name labels that do not occur. Without one, the labels are those in the label maps,
            with the names in `dataset.json` if it has any.
        masks: merge label maps from one mask per structure (`monaiseg.data.find_masked_cases`).
        overlaps: which structure wins where masks overlap: "smaller", "later" (by name), or "refuse" (case is refused).
        assume_orientation: axis directions, such as RAS, of files without an orientation; copies with this orientation
            are written to the data task's folder.
        preprocess: settings file, or the folder that holds it as `cur_task_setting.json`.
        on_progress: called after each examined case and, with `preprocess`, after each written case.

    Raises:
        SettingsError: the arguments ask for something that cannot be done; nothing was written.
        DataError: cases cannot be used; the message names all of them, and nothing was written.
        StorageError: the data task cannot be written; nothing of it is left behind.
    """
    if task_type != "seg":
        raise SettingsError(f"task_type: {task_type!r} is not available; use seg")
    folder = Path(output_root_path).absolute() / valid_name(data_task_name, "data_task_name")
    if overlaps not in OVERLAP_RULES:
        raise SettingsError(f"overlaps: {overlaps!r} is not a rule; use {', '.join(OVERLAP_RULES)}")
    source = _Source(Path(dataset_path), overlaps if masks else None, assume_orientation)
    plan = _Plan(
        folder,
        data_task_name,
        (train_size, test_size, val_size),
        seed,
        group_by,
        None if label_table is None else load_label_table(label_table),
    )
    settings = None if preprocess is None else load_settings(find_settings(preprocess))
    cases = _cases_of(source, folder)
    if isinstance(cases, FoundCases) and source.orientation is None:
        task = _examined(cases, plan, on_progress)
        if settings is None:
            write_data_task(task)
            return task
        _check_settings(task, settings)  # before anything is written
        with fresh_folder(folder) as scratch:
            return _written(_preprocessed(task, settings, scratch, on_progress), scratch)
    with fresh_folder(folder) as scratch:
        found = _converted(source, cases, scratch / VOLUMES_FOLDER, plan, on_progress)
        task = _examined(found, plan, on_progress)
        if settings is not None:
            _check_settings(task, settings)
            task = _preprocessed(task, settings, scratch, on_progress)
        return _written(task, scratch)


@dataclass(frozen=True)
class _Source:
    """The dataset's folder, and how its masks and missing orientations are handled."""

    path: Path
    masks: OverlapRule | None
    orientation: str | None


@dataclass(frozen=True)
class _Plan:
    """The data task to make of the cases: its folder, name, split and label table."""

    folder: Path
    name: str
    sizes: tuple[int, int, int]
    seed: int
    group_by: str | None
    table: LabelTable | None

    def groups(self, ids: Sequence[str]) -> dict[str, str]:
        """The group of each case; without `group_by`, each case is its own group."""
        if self.group_by is None:
            return {name: name for name in ids}
        return read_groups(ids, self.group_by)


def _cases_of(source: _Source, folder: Path) -> FoundCases | _MaskedCases:
    """The cases of the dataset; raises SettingsError if any of their files are in the data task's folder."""
    if source.masks is None:
        found = find_cases(source.path)
        files = [path for case in found.cases for path in case.files]
        _check_apart(folder, source.path, files)
        return found
    masked, notes = find_masked_cases(source.path)
    _check_apart(folder, source.path, [path for case in masked for path in case.files])
    return _MaskedCases(tuple(masked), tuple(notes))


@dataclass(frozen=True)
class _MaskedCases:
    cases: tuple[MaskedCase, ...]
    notes: tuple[str, ...]


def _converted(
    source: _Source,
    found: FoundCases | _MaskedCases,
    folder: Path,
    plan: _Plan,
    on_progress: Progress | None,
) -> FoundCases:
    """The cases with the missing label maps and oriented copies, written below `folder`."""
    if isinstance(found, _MaskedCases):
        assert source.masks is not None
        known = plan.table.foreground if plan.table else ()
        named = {label.name: label.value for label in known}
        check_ids([case.id for case in found.cases], str(source.path))
        cases, names, notes = converted_masks(
            found.cases, folder / "labels", source.masks, named, on_progress
        )
        found = FoundCases(tuple(cases), None, names, (), (*found.notes, *notes))
    if source.orientation is None:
        return found
    return with_orientation(found, folder, source.orientation, on_progress)


def _examined(found: FoundCases, plan: _Plan, on_progress: Progress | None) -> DataTask:
    """Examine and split the cases; returns the data task without writing anything."""
    ids = [case.id for case in found.cases]
    groups = plan.groups(ids)
    _splits(found, plan.sizes, plan.seed, groups)  # reports wrong sizes before the slow examination
    given = plan.table
    if given is not None and given.ignored_value is None:
        ignores = found.ignored_value if found.ignored_value not in given.values else None
        given = replace(given, ignored_value=ignores)
    ignored = found.ignored_value if given is None else given.ignored_value
    facts = examine_cases(found.cases, on_progress=on_progress, ignored_value=ignored)
    together = with_same_images(groups, facts)
    splits = _splits(found, plan.sizes, plan.seed, together)
    table, table_notes = _label_table(found, facts, given)
    channels, channel_notes = _channel_names(found, facts)
    group_note = groups_note(groups, plan.group_by) if plan.group_by else repeats_note(ids)
    by_id = {case.id: case for case in found.cases}
    return DataTask(
        plan.folder,
        plan.name,
        plan.seed,
        {split: tuple(by_id[name] for name in names) for split, names in splits.items()},
        table,
        facts,
        channels,
        (
            *found.notes,
            *channel_notes,
            *table_notes,
            *filter(None, [group_note, alike_note(facts, together)]),
            *check_duplicates(splits, facts),
            *label_notes(splits, facts, table),
            *file_notes(facts),
        ),
        persons={name: person for name, person in together.items() if person != name},
    )


def _check_apart(folder: Path, dataset: Path, files: Sequence[Path]) -> None:
    """Raise SettingsError if writing `folder` would touch the dataset, by its path or through links."""
    target, source = folder.resolve(), dataset.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise SettingsError(
            f"the output {folder} and the dataset {dataset} overlap; choose an output_root_path outside the "
            "dataset"
        )
    inside = [path for path in files if target in path.resolve().parents]
    if inside:
        raise SettingsError(f"{inside[0]} is inside the output {folder}; choose another name")


def _splits(
    found: FoundCases, sizes: tuple[int, int, int], seed: int, groups: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    """Case ids of every split: the dataset's own split, or a seeded one."""
    if found.splits is None:
        return split_cases(groups, sizes, seed, groups)
    check_apart(found.splits, groups)
    own = {split: found.splits.get(split, ()) for split in ("train", "val", "test")}
    return {**own, "debug": choose_debug(own["train"], seed)}


def _label_table(
    found: FoundCases, facts: Mapping[str, CaseFacts], given: LabelTable | None
) -> tuple[LabelTable, list[str]]:
    """The labels that occur in the label maps, named by the given table or by the dataset itself, and notes."""
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
            f"label value {table.ignored_value} is ignored: {counted(voxels, 'voxel')} left out of sampling, loss and scores"
        )
    return table, [*notes, *filter(None, [table.side_note()])]


def _channel_names(
    found: FoundCases, facts: Mapping[str, CaseFacts]
) -> tuple[tuple[str, ...], list[str]]:
    """The dataset's channel names, if there is one for each channel, and notes."""
    count = len(next(iter(facts.values())).intensity)
    if len(found.channel_names) in (0, count):
        return found.channel_names, []
    names = ", ".join(found.channel_names)
    return (), [
        f"dataset.json names the channels {names}, but images have {count}; the names are left out"
    ]


def _check_settings(task: DataTask, settings: Settings) -> None:
    """Raise SettingsError if the settings ask for labels or channels that the cases do not have."""
    task.label_table(settings)
    count = len(next(iter(task.facts.values())).intensity)
    if settings.dataset.num_channels != count:
        raise SettingsError(
            f"dataset.num_channels: is {settings.dataset.num_channels}, but the cases have {counted(count, 'channel')}; use {count}"
        )


def _preprocessed(
    task: DataTask, settings: Settings, scratch: Path, on_progress: Progress | None
) -> DataTask:
    """The data task with preprocessed volumes for training and validation, written below `scratch`."""
    from monaiseg.transforms import resize_note  # noqa: PLC0415  most calls do not need torch

    table = task.label_table(settings)
    chosen = [case for split in ("train", "val") for case in task.cases[split]]
    folder = scratch / VOLUMES_FOLDER / PREPROCESSED_FOLDER
    written = {
        case.id: case for case in _write_volumes(chosen, settings, table, folder, on_progress)
    }
    facts = examine_cases(list(written.values()), ignored_value=table.ignored_value)
    return replace(
        task,
        cases={
            split: tuple(written.get(case.id, case) for case in members)
            for split, members in task.cases.items()
        },
        table=table,
        facts={**task.facts, **facts},
        notes=(*task.notes, *filter(None, [resize_note(settings)])),
        preprocessing=preprocessing_of(settings),
    )


def _write_volumes(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    folder: Path,
    on_progress: Progress | None,
) -> list[Case]:
    """Write image and label map of every case on the network grid, normalised but not padded.

    They are normalised here because resampling changes the intensity statistics, and prediction normalises with the
    statistics from before resampling.
    """
    from monai.transforms.croppad.dictionary import Padd  # noqa: PLC0415  most calls do not need torch

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


def _written(task: DataTask, scratch: Path) -> DataTask:
    """Write the data task's lists to `scratch`, which will become its folder, and return the data task."""
    task = _moved_task(task, scratch, task.folder)
    write_lists(task, scratch)
    return task


def _moved_task(task: DataTask, old: Path, new: Path) -> DataTask:
    """The data task with its paths below `old` moved to `new`; other paths stay the same."""

    def path(file: Path) -> Path:
        return new / file.relative_to(old) if old in file.parents else file

    def text(note: str) -> str:
        return note.replace(str(old), str(new))

    return replace(
        task,
        cases={
            split: tuple(
                Case(case.id, tuple(map(path, case.images)), case.label and path(case.label))
                for case in members
            )
            for split, members in task.cases.items()
        },
        facts={
            name: replace(found, notes=tuple((text(file), note) for file, note in found.notes))
            for name, found in task.facts.items()
        },
        notes=tuple(map(text, task.notes)),
    )
