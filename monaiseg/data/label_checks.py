"""Label checks: compare the label maps of a dataset with its label table or `dataset.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from monaiseg.data.facts import CaseFacts
from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError, counted, listed

MOSTLY_FOREGROUND = 0.9
MANY_VALUES = 255
"""A label map with more values than this and no names for them is probably an image."""
SLIP_VOXELS = 10
SLIP_SHARE = 0.2
"""An unnamed value with at most this many voxels, in at most this share of the cases, may be a drawing error."""
NEVER_SMALL = 0.25
"""If the smallest instance of a structure has at least this share of the median volume, the structure does not shrink
to nothing: where it is missing, it may not have been segmented. Lesions come in all sizes."""
ENOUGH_CASES = 6
ENOUGH_WITHOUT = 2


def scan_labels(
    facts: Mapping[str, CaseFacts],
    names: Mapping[int, str] | None = None,
    ignored_value: int | None = None,
    source: str = "dataset.json",
) -> LabelTable:
    """Table of all label values that occur in any case.

    Args:
        facts: facts of the cases.
        names: names of label values, as given by `source`; values that do not occur are left out.
        ignored_value: label value of unlabelled voxels.
        source: origin of the names, for messages.

    Raises:
        DataError: there are no names, and a label map has so many values that it is probably an image; or there are
            names, and cases have values without one.
    """
    known = {value: name for value, name in (names or {}).items() if value != 0}
    if not known:
        _check_number(facts)
    else:
        _check_named(facts, {0, ignored_value, *known}, known, source)
    values = {value for found in facts.values() for value in found.label_voxels}
    return LabelTable.from_values(values, names, ignored_value)


def _check_number(facts: Mapping[str, CaseFacts]) -> None:
    crowded = [
        f"case {name!r}: its label map has {len(found.label_voxels)} different values, as an image has; give label "
        "maps, or a label table that names the values"
        for name, found in facts.items()
        if len(found.label_voxels) > MANY_VALUES
    ]
    if crowded:
        raise DataError(listed(crowded))


def _check_named(
    facts: Mapping[str, CaseFacts], known: set[int | None], names: Mapping[int, str], source: str
) -> None:
    """Raise DataError naming every case with values that have no name, and the names that have no voxels."""
    problems = []
    for name, found in facts.items():
        strange = {value: n for value, n in found.label_voxels.items() if value not in known}
        if strange:
            shown = ", ".join(
                f"{value} ({counted(n, 'voxel')})" for value, n in list(strange.items())[:10]
            )
            problems.append(
                f"case {name!r}: its label map has the values {shown}, which {source} does not name"
            )
    if problems:
        lost = absent_names(facts, names)
        hint = f"\nno label map has {lost}; are the values shifted?" if lost else ""
        raise DataError(
            f"{listed(problems)}{hint}\nadd the values to {source}, or correct the label maps"
        )


def absent_names(facts: Mapping[str, CaseFacts], names: Mapping[int, str]) -> str:
    """The named label values that do not occur in any label map, in words; empty if all occur."""
    there = {0}.union(*(found.label_voxels for found in facts.values()))
    absent = [f"{value} ({name})" for value, name in sorted(names.items()) if value not in there]
    return ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if absent[5:] else "")


def absent_note(facts: Mapping[str, CaseFacts], names: Mapping[int, str], source: str) -> list[str]:
    """A note on named label values that do not occur in any label map; empty if all occur."""
    lost = absent_names(facts, names)
    return [f"{source} names {lost}, which no label map has; they are left out"] if lost else []


def fitted_table(
    facts: Mapping[str, CaseFacts], table: LabelTable, source: str = "the label table"
) -> LabelTable:
    """The labels of a table that occur in the label maps: an atlas often names more structures than a dataset contains.

    Raises:
        DataError: cases have values that the table lacks (the message lists all, with voxel counts), or the table's
            labels do not occur at all.
    """
    names = {label.value: label.name for label in table.foreground}
    _check_named(facts, {table.ignored_value, *table.values}, names, source)
    there = {value for found in facts.values() for value in found.label_voxels}
    kept = there & names.keys()
    if names and not kept:
        raise DataError(
            f"no label map has any of the labels {absent_names(facts, names)} that {source} names; give the label table of "
            "these data"
        )
    return table.restricted_to(kept)


def label_notes(
    splits: Mapping[str, Iterable[str]], facts: Mapping[str, CaseFacts], table: LabelTable
) -> list[str]:
    """Notes on doubtful label maps and labels: only background, not in training, drawing errors, not always segmented.

    Raises:
        DataError: all voxels of a case have the ignored value, so none is labelled.
    """
    names = dict.fromkeys(
        name for split in ("train", "val", "test") for name in splits.get(split, ())
    )
    counts = {name: _labelled(facts[name], table) for name in names if facts[name].label_voxels}
    if unlabelled := [name for name, voxels in counts.items() if not voxels]:
        raise DataError(
            listed(
                [
                    f"case {name!r}: its label map has only the ignored value {table.ignored_value}; leave the case out"
                    for name in unlabelled
                ]
            )
        )
    notes = []
    for name, voxels in counts.items():
        share = 1 - voxels.get(0, 0) / sum(voxels.values())
        if share == 0:
            notes.append(f"case {name!r}: its label map has only background")
        elif share > MOSTLY_FOREGROUND and table.ignored_value is None:
            notes.append(
                f"case {name!r}: {share:.0%} of its label map is foreground; is the label map inverted?"
            )
    trained = {value for name in splits.get("train", ()) for value in facts[name].label_voxels}
    absent = [
        f"{label.value} ({label.name})" for label in table.foreground if label.value not in trained
    ]
    if absent:
        notes.append(
            f"no training case has the labels {', '.join(absent)}, so the network cannot learn them"
        )
    return [*notes, *_occurrence_notes(counts, table)]


def _labelled(facts: CaseFacts, table: LabelTable) -> dict[int, int]:
    """Number of voxels of each label value, without the ignored value."""
    return {value: n for value, n in facts.label_voxels.items() if value != table.ignored_value}


def is_slip(sizes: Sequence[int], num_labelled: int, *, unnamed: bool) -> bool:
    """Whether a label is so small where it occurs, and occurs so rarely, that it may be a drawing error.

    Args:
        sizes: voxels of the label in the cases that have it, ascending.
        num_labelled: number of cases with any label.
        unnamed: whether nobody has named the label.
    """
    return unnamed and sizes[-1] <= SLIP_VOXELS and len(sizes) <= SLIP_SHARE * num_labelled


def is_forgotten(sizes: Sequence[int], num_labelled: int) -> bool:
    """Whether a label is never small where it occurs, so that it may not have been drawn elsewhere; see `is_slip`."""
    return (
        num_labelled >= ENOUGH_CASES
        and ENOUGH_WITHOUT <= len(sizes) <= num_labelled - ENOUGH_WITHOUT
        and sizes[0] >= NEVER_SMALL * median(sizes)
        and sizes[0] > SLIP_VOXELS
    )


def _occurrence_notes(counts: Mapping[str, Mapping[int, int]], table: LabelTable) -> list[str]:
    """Notes on labels that occur in some of the labelled cases but not in all."""
    labelled = [voxels for voxels in counts.values() if voxels.keys() - {0}]
    notes = []
    for label in table.foreground:
        sizes = sorted(voxels[label.value] for voxels in labelled if label.value in voxels)
        if not sizes or len(sizes) == len(labelled):
            continue
        where = (
            f"label {label.value} ({label.name}) occurs in {len(sizes)} of {len(labelled)} cases"
        )
        unnamed = label.name == f"label {label.value}"
        if is_slip(sizes, len(labelled), unnamed=unnamed):
            cases = [name for name, voxels in counts.items() if label.value in voxels]
            notes.append(
                f"{where}, with at most {counted(sizes[-1], 'voxel')} ({', '.join(cases[:3])}{', ...' if cases[3:] else ''}); was it "
                "drawn by mistake? It becomes a class; correct the label maps, or leave it out with "
                "dataset.seg.interested_label_list"
            )
        elif is_forgotten(sizes, len(labelled)):
            notes.append(
                f"{where}, and is never small there. If it was not drawn in the other cases, the network learns there that "
                "it is background: draw it, or leave these cases out"
            )
    return notes
