"""Conversion: label maps written from masks, and copies with an orientation of files whose headers have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from monaiseg.data.cases import Case, FoundCases
from monaiseg.data.facts import Progress
from monaiseg.data.masks import (
    MaskedCase,
    OverlapRule,
    layer_number,
    merge_order,
    merged_masks,
    missing_note,
    overlap_note,
    structure_voxels,
)
from monaiseg.data.volumes import (
    read_header,
    read_label_map,
    read_volume,
    write_image,
    write_label_map,
)
from monaiseg.errors import DataError, SettingsError, listed
from monaiseg.machine import reading_threads

_Kind = TypeVar("_Kind", Case, MaskedCase)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class _Fault:
    text: str


def converted_masks(
    cases: Sequence[MaskedCase],
    folder: Path,
    rule: OverlapRule,
    named: Mapping[str, int],
    on_progress: Progress | None = None,
) -> tuple[list[Case], dict[int, str], list[str]]:
    """Merge the masks of each case into a label map in `folder`.

    Args:
        cases: cases with masks.
        folder: folder for the label maps.
        rule: which structure wins where masks overlap.
        named: label value of each structure by name, if a label table gives them.
        on_progress: called after each written case.

    Returns:
        The cases with their label maps, the names of the structures by label value, and notes.

    Raises:
        DataError: see `merged_masks` and `merge_order`; the message names every case that cannot be used.
        StorageError: `folder` cannot be written to.
    """
    order = merge_order(_each(structure_voxels, cases), named, rule)

    def write(case: MaskedCase) -> tuple[Case, Mapping[tuple[str, str], int]]:
        label, grid, overlaps = merged_masks(case, order)
        path = folder / f"{case.id}.nii.gz"
        write_label_map(path, label, grid)
        return Case(case.id, case.images, path), overlaps

    folder.mkdir(parents=True, exist_ok=True)
    written = _each(write, cases, on_progress)
    names = {value: name for name, value in order.values.items() if layer_number(name) is None}
    notes = overlap_note([overlaps for _, overlaps in written], order) + missing_note(cases, order)
    return [case for case, _ in written], names, notes


def with_orientation(
    found: FoundCases, folder: Path, orientation: str, on_progress: Progress | None = None
) -> FoundCases:
    """Write copies below `folder` of all files without an orientation, and return the cases with these copies.

    The axes of the copies run to `orientation`.

    Raises:
        SettingsError: `orientation` is not three directions such as RAS or LPI.
        DataError: files cannot be read; the message names every case that cannot be used.
        StorageError: `folder` cannot be written to.
    """
    letters = axis_directions(orientation)

    def write(case: Case) -> Case:
        images = tuple(
            _oriented(path, folder / "images" / f"{case.id}_{number:04}.nii.gz", letters)
            for number, path in enumerate(case.images)
        )
        target = folder / "labels" / f"{case.id}.nii.gz"
        label = case.label and _oriented(case.label, target, letters, is_label=True)
        return Case(case.id, images, label)

    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    cases = _each(write, found.cases, on_progress)
    count = sum(case != before for case, before in zip(cases, found.cases, strict=True))
    note = (
        f"{count} of {len(cases)} cases have no orientation in their headers; it is taken to be {letters}, and copies of their "
        "files with this orientation were written to the prepared dataset"
    )
    return replace(found, cases=tuple(cases), notes=(*found.notes, note))


def axis_directions(orientation: str) -> str:
    """The three directions that `assume_orientation` names, in capitals.

    Raises:
        SettingsError: it does not name three directions.

    >>> axis_directions("lpi")
    'LPI'
    """
    letters = orientation.upper()
    if sorted(_PAIRS.get(letter, letter) for letter in letters) != ["AP", "IS", "LR"]:
        raise SettingsError(
            f"assume_orientation: {orientation!r} is not an orientation; give the direction of each axis, such as RAS or LPI"
        )
    return letters


_PAIRS = {"R": "LR", "L": "LR", "A": "AP", "P": "AP", "S": "IS", "I": "IS"}


def _oriented(path: Path, target: Path, orientation: str, *, is_label: bool = False) -> Path:
    """Path of the file, or of its copy at `target` if its header has no orientation."""
    try:
        read_header(path)
    except DataError:
        read_header(path, orientation=orientation)  # raises if anything else is wrong
    else:
        return path
    if is_label:
        values, header = read_label_map(path, orientation=orientation)
        write_label_map(target, values, header.grid)
    else:
        voxels, header = read_volume(path, orientation=orientation)
        write_image(target, voxels, header.grid)
    return target


def _each(
    work: Callable[[_Kind], _Found], cases: Sequence[_Kind], on_progress: Progress | None = None
) -> list[_Found]:
    """Results of `work` for all cases, run in parallel threads; raises DataError naming every case that fails."""

    def guarded(case: _Kind) -> _Found | _Fault:
        try:
            return work(case)
        except DataError as error:
            return _Fault(f"case {case.id!r}: {error}")

    done: list[_Found] = []
    problems: list[str] = []
    with ThreadPoolExecutor(reading_threads()) as pool:
        for number, result in enumerate(pool.map(guarded, cases), start=1):
            if isinstance(result, _Fault):
                problems.append(result.text)
            else:
                done.append(result)
            if on_progress:
                on_progress(number, len(cases))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(cases)} cases cannot be used:\n{listed(problems)}"
        )
    return done
