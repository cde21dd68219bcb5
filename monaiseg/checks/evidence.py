"""Evidence: everything that is known about a dataset when its findings are made.

It comes from a dataset's folder or from a prepared data task. Every file is read once, in parallel threads.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from monaiseg.checks.details import CaseDetails
from monaiseg.data import (
    DATASET_FILE,
    PATHS_FILE,
    Case,
    CaseFacts,
    DataTask,
    LabelTable,
    Progress,
    Refusal,
    examine_case,
    find_cases,
    fitted_table,
    is_volume_name,
    load_label_table,
    read_data_task,
    read_groups,
    read_list_file,
    scan_labels,
    volume_stem,
)
from monaiseg.errors import DataError
from monaiseg.machine import reading_threads
from monaiseg.settings import Settings

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Evidence:
    """The cases of a dataset, and what was measured in their files."""

    folder: Path
    cases: tuple[Case, ...]
    splits: Mapping[str, tuple[str, ...]] | None
    """Case ids of train, val and test; None if the dataset has not been split."""
    facts: Mapping[str, CaseFacts]
    """Of the cases that can be used."""
    table: LabelTable
    """The labels that occur."""
    refusals: Mapping[str, tuple[Refusal, ...]] = field(default_factory=dict)
    """Of the cases that cannot be used."""
    details: Mapping[str, CaseDetails] = field(default_factory=dict)
    """Of all cases; empty in the quick part."""
    named: Mapping[int, str] = field(default_factory=dict)
    """The names of label values that the user has given."""
    table_fault: str | None = None
    """Why the label values do not make a label table."""
    layout_fault: str | None = None
    """Why `prepare` or `train` cannot find the cases."""
    notes: tuple[str, ...] = ()
    """What was noted when the cases were found."""
    groups: Mapping[str, str] | None = None
    """The person of each case, if the user has told."""
    task: DataTask | None = None
    settings: Settings | None = None

    @cached_property
    def labelled(self) -> dict[str, dict[int, int]]:
        """Number of voxels of each label value, for the cases whose label map holds more than background."""
        ignored = self.table.ignored_value
        counts = {
            name: {value: n for value, n in found.label_voxels.items() if value not in (0, ignored)}
            for name, found in self.facts.items()
        }
        return {name: voxels for name, voxels in counts.items() if voxels}

    @cached_property
    def occurrences(self) -> Counter[int]:
        """Number of label maps that have each label value."""
        return Counter(value for details in self.details.values() for value in details.structures)

    def split_of(self, name: str) -> str | None:
        """The split of a case; None if the dataset has not been split."""
        splits = self.splits or {}
        return next((split for split, names in splits.items() if name in names), None)

    def label_name(self, value: int) -> str:
        """A label value with its name, if it has one.

        >>> Evidence(Path(), (), None, {}, LabelTable.from_values([1], {1: "liver"})).label_name(1)
        '1 (liver)'
        """
        names = dict(zip(self.table.values, self.table.names, strict=True))
        name = names.get(value, f"label {value}")
        return f"{value}" if name == f"label {value}" else f"{value} ({name})"


def evidence_of_task(task: DataTask, settings: Settings | None = None) -> Evidence:
    """What is known about a prepared data task without opening a file."""
    return Evidence(
        task.folder,
        tuple(case for split in SPLITS for case in task.cases.get(split, ())),
        {split: tuple(case.id for case in task.cases.get(split, ())) for split in SPLITS},
        task.facts,
        task.table,
        named=_names_in(task.table),
        task=task,
        settings=settings,
    )


def gather(
    path: str | Path,
    settings: Settings | None = None,
    *,
    label_table: str | Path | None = None,
    group_by: str | None = None,
    on_progress: Progress | None = None,
) -> Evidence:
    """Read every file of a dataset, or of a prepared data task, once.

    Raises:
        DataError: the folder holds neither, or the label table or the groups cannot be read.
        SettingsError: `group_by` is not a pattern.
    """
    path = Path(path)
    given = None if label_table is None else load_label_table(label_table)
    known = _before_reading(path, settings)
    expected = given or (known.task.table if known.task else None)
    ignored = expected.ignored_value if expected else known.table.ignored_value
    facts, refusals, details = _examine(known.cases, ignored, on_progress)
    named = known.named if expected is None else _names_in(expected)
    table, fault = _table(facts, named, expected, ignored)
    groups = None if group_by is None else read_groups([case.id for case in known.cases], group_by)
    return replace(
        known,
        facts=facts,
        table=table,
        refusals=refusals,
        details=details,
        named=named,
        table_fault=fault,
        groups=groups,
    )


def _before_reading(path: Path, settings: Settings | None) -> Evidence:
    """What is known from the names of the files, and from a data task."""
    lists = {split: path / split / PATHS_FILE for split in SPLITS}
    if not any(file.exists() for file in lists.values()):
        return _of_folder(path, settings)
    if (path / DATASET_FILE).exists():
        return evidence_of_task(read_data_task(path), settings)
    cases = {split: read_list_file(file) for split, file in lists.items() if file.exists()}
    return Evidence(
        path,
        tuple(case for members in cases.values() for case in members),
        {split: tuple(case.id for case in cases.get(split, ())) for split in SPLITS},
        {},
        LabelTable.from_values([]),
        settings=settings,
    )


def _names_in(table: LabelTable) -> dict[int, str]:
    return {x.value: x.name for x in table.foreground if x.name != f"label {x.value}"}


def _of_folder(path: Path, settings: Settings | None) -> Evidence:
    """The cases of a dataset's folder; if some do not pair, those that do."""
    try:
        found = find_cases(path)
    except DataError as error:
        cases = tuple(_cases_that_pair(path))
        if not cases:
            raise
        table = LabelTable.from_values([])
        return Evidence(path, cases, None, {}, table, layout_fault=str(error), settings=settings)
    ignored = found.ignored_value
    return Evidence(
        path,
        found.cases,
        found.splits,
        {},
        LabelTable.from_values([], ignored_value=ignored),
        named={value: name for value, name in found.label_names.items() if value != 0},
        notes=found.notes,
        settings=settings,
    )


def _cases_that_pair(root: Path) -> Iterator[Case]:
    """Cases whose image and label map have the same name, in the folders where a dataset has them."""
    places = [(root / split / "images", root / split / "labels") for split in ("", *SPLITS)]
    for images, labels in (*places, (root / "imagesTr", root / "labelsTr")):
        found = [_volumes(folder) for folder in (images, labels)]
        for name in sorted(found[0].keys() & found[1].keys()):
            yield Case(name, (found[0][name],), found[1][name])


def _volumes(folder: Path) -> dict[str, Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {
        volume_stem(path): path
        for path in sorted(paths)
        if is_volume_name(path.name) and not path.name.startswith(".")
    }


def _examine(
    cases: Sequence[Case], ignored_value: int | None, on_progress: Progress | None
) -> tuple[dict[str, CaseFacts], dict[str, tuple[Refusal, ...]], dict[str, CaseDetails]]:
    """Facts, refusals and details by case id."""
    facts: dict[str, CaseFacts] = {}
    refusals: dict[str, tuple[Refusal, ...]] = {}
    details = {case.id: CaseDetails() for case in cases}

    def examine(case: Case) -> CaseFacts | list[Refusal]:
        return examine_case(case, ignored_value, details[case.id].look)

    with ThreadPoolExecutor(reading_threads()) as pool:
        try:
            for done, case, found in zip(
                itertools.count(1), cases, pool.map(examine, cases), strict=False
            ):
                if isinstance(found, CaseFacts):
                    facts[case.id] = found
                else:
                    refusals[case.id] = tuple(found)
                if on_progress:
                    on_progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return facts, refusals, details


def _table(
    facts: Mapping[str, CaseFacts],
    named: Mapping[int, str],
    expected: LabelTable | None,
    ignored: int | None,
) -> tuple[LabelTable, str | None]:
    """The table of the labels that occur, and why `prepare` would refuse it."""
    values = {value for found in facts.values() for value in found.label_voxels}
    anyway = LabelTable.from_values(values, named, ignored)
    try:
        if expected is None:
            return scan_labels(facts, named, ignored), None
        return (fitted_table(facts, expected) if facts else anyway), None
    except DataError as error:
        return anyway, str(error)
