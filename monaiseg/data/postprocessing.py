"""Post-processing of label maps: the rules that belong to a checkpoint, and those that a user asks for.

Rules chosen on validation cases are in a JSON file beside the checkpoint, `best-epoch-0012.postprocessing.json`. The
checkpoint itself stays as it was written: the run's newest commit names it by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy brings no types

from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError, SettingsError, nearest
from monaiseg.files import read_beside, write_beside
from monaiseg.portable import LabelRule, postprocessed, rules_of

SUFFIX = ".postprocessing.json"
EVERY = "all"
"""Stands for every label."""
_UNITS_MM3 = {"ml": 1000.0, "mm3": 1.0}


@dataclass(frozen=True)
class ChosenRule:
    """A rule that was chosen on validation cases, with the mean Dice of its label before and after."""

    rule: LabelRule
    dice_before: float
    dice_after: float


def apply_rules(
    label_map: NDArray[Any], rules: Sequence[LabelRule], voxel_mm3: float
) -> NDArray[Any]:
    """A label map (X, Y, Z), in label values, after post-processing; itself if there are no rules."""
    return postprocessed(label_map, rules, voxel_mm3, numbered) if rules else label_map


def numbered(mask: NDArray[np.bool_], by_corners: bool) -> NDArray[Any]:
    """Number of the component of each voxel of a mask (X, Y, Z); 0 outside.

    By SciPy: connected-components-3d 4.1.1 is faster on whole volumes, but fails on boxes of a few voxels ("maximum length
    exception" for 1 x 1 x 3), which small lesions have.
    """
    structure = np.ones((3, 3, 3)) if by_corners else None
    return np.asarray(ndimage.label(mask, structure)[0])


# ---------------------------------------------------------------- rules beside a checkpoint


def rules_file(checkpoint: Path) -> Path:
    """The file with the rules of a checkpoint.

    >>> rules_file(Path("checkpoints/best-epoch-0012.safetensors")).name
    'best-epoch-0012.postprocessing.json'
    """
    return checkpoint.with_suffix(SUFFIX)


def write_rules(
    checkpoint: Path, chosen: Sequence[ChosenRule], table: LabelTable, cases: Iterable[str]
) -> Path:
    """Write the rules that were chosen for a checkpoint on some cases; returns the file.

    Raises:
        StorageError: it cannot be written.
    """
    names = dict(zip(table.values, table.names, strict=True))
    records = [
        {
            "name": names[one.rule.value],
            **asdict(one.rule),
            "dice_before": one.dice_before,
            "dice_after": one.dice_after,
        }
        for one in chosen
    ]
    return write_beside(checkpoint, SUFFIX, {"cases": sorted(cases), "rules": records})


def read_rules(checkpoint: Path, table: LabelTable) -> tuple[LabelRule, ...]:
    """The rules beside a checkpoint; none if there is no such file.

    Raises:
        DataError: the file is damaged, or belongs to another checkpoint or other labels.
    """
    path = rules_file(checkpoint)
    if (document := read_beside(checkpoint, SUFFIX)) is None:
        return ()
    try:
        rules = rules_of(document["rules"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: contains no post-processing rules ({error!r}); remove it, or choose them again with `evaluate "
            "--tune-postprocessing`"
        ) from error
    if strange := {rule.value for rule in rules} - set(table.values[1:]):
        raise DataError(f"{path}: label value {min(strange)} is not in the table; remove the file")
    return rules


# ---------------------------------------------------------------- rules that a user asks for


def rules_from_words(
    table: LabelTable,
    keep_largest: Sequence[str] = (),
    drop_below: Sequence[str] = (),
    fill_holes: Sequence[str] = (),
) -> tuple[LabelRule, ...]:
    """Rules from the words of the command line.

    Args:
        table: the labels.
        keep_largest: names or values of labels, or "all".
        drop_below: volumes such as "0.5ml" for all labels, or "lesion=30mm3" for one.
        fill_holes: names or values of labels, or "all".

    Raises:
        SettingsError: a label or a volume is not known.

    >>> table = LabelTable.from_values([1, 2], {1: "liver", 2: "lesion"})
    >>> rules_from_words(table, drop_below=["lesion=0.5ml"])
    (LabelRule(value=2, keep_largest=False, least_mm3=500.0, fill_holes=False),)
    """
    rules = {label.value: LabelRule(label.value) for label in table.foreground}
    for word in keep_largest:
        for value in _values(word, table, "--keep-largest"):
            rules[value] = replace(rules[value], keep_largest=True)
    for word in drop_below:
        label, _, volume = word.rpartition("=")
        for value in _values(label or EVERY, table, "--drop-below"):
            rules[value] = replace(rules[value], least_mm3=_mm3(volume))
    for word in fill_holes:
        for value in _values(word, table, "--fill-holes"):
            rules[value] = replace(rules[value], fill_holes=True)
    return tuple(rule for value, rule in rules.items() if rule != LabelRule(value))


def _values(word: str, table: LabelTable, option: str) -> list[int]:
    """The label values that a word names."""
    if word == EVERY:
        return list(table.values[1:])
    known = {label.name: label.value for label in table.foreground}
    known |= {str(label.value): label.value for label in table.foreground}
    if word not in known:
        close = nearest(word, known)
        hint = f"do you mean {close!r}?" if close else f"use one of {', '.join(list(known)[:5])}"
        raise SettingsError(f"{option}: there is no label {word!r}; {hint}")
    return [known[word]]


def _mm3(text: str) -> float:
    """A volume in mm^3.

    >>> _mm3("0.25 ml")
    250.0
    """
    for unit, factor in _UNITS_MM3.items():
        number = text.strip().removesuffix(unit)
        if number != text.strip() and number.strip().replace(".", "", 1).isdecimal():
            return float(number) * factor
    raise SettingsError(f"--drop-below: {text!r} is not a volume; write it as 0.5ml or 30mm3")


def rules_in_words(rules: Sequence[LabelRule], table: LabelTable) -> list[str]:
    """What is done, one line each; labels with the same rule share a line.

    >>> table = LabelTable.from_values([1, 2], {1: "liver", 2: "lesion"})
    >>> rules_in_words([LabelRule(1, keep_largest=True), LabelRule(2, least_mm3=30, fill_holes=True)], table)
    ['liver: largest component', 'lesion: components of at least 30 mm3, holes filled']
    """
    names = dict(zip(table.values, table.names, strict=True))
    groups: dict[str, list[str]] = {}
    for rule in rules:
        groups.setdefault(_in_words(rule), []).append(names[rule.value])
    return [f"{_few(labels)}: {words}" for words, labels in groups.items()]


def _in_words(rule: LabelRule) -> str:
    parts = {
        "largest component": rule.keep_largest,
        f"components of at least {rule.least_mm3:g} mm3": rule.least_mm3 > 0,
        "holes filled": rule.fill_holes,
    }
    return ", ".join(words for words, is_so in parts.items() if is_so)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more labels"])


def rule_records(rules: Sequence[LabelRule]) -> list[Mapping[str, Any]]:
    """Rules as JSON-compatible records, which `monaiseg.portable.rules_of` reads."""
    return [asdict(rule) for rule in rules]
