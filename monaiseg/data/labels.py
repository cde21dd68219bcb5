"""Labels: the integers in the files, the classes of the network, and their names.

A *label value* is the integer in a file, a *class index* is its position 0..K-1 in the network's output, and a *name*
is the structure it stands for. Class 0 is the background; the other classes are sorted by label value. A *partner* is
the same structure on the other side of the body. The *ignored value*, if a table has one, marks unlabelled voxels: it
is not a class, and these voxels are left out of sampling, loss and scores. A *group* is a set of labels whose union is
scored as well. `label_files` reads and writes tables as text.
"""

from __future__ import annotations

import colorsys
import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monaiseg.data.label_records import Color, label_fields
from monaiseg.data.sides import has_side, partners, perhaps_partners
from monaiseg.errors import DataError, SettingsError, counted
from monaiseg.files import checked_text

OPAQUE = 255
"""Opacity of a colour that hides what is behind it."""
MAX_CLASSES = 32_766
MAX_VALUE = 2**31 - 1
IGNORE = "ignore"
"""nnU-Net's name for the label value of unlabelled voxels."""


@dataclass(frozen=True)
class Label:
    """One structure: its label value, its name, how it is displayed and how it is scored.

    Raises:
        DataError: the name could run as code, or a number is out of range.
    """

    value: int
    name: str
    color: Color = (0, 0, 0)
    """Red, green and blue, 0 to 255."""
    partner: int | None = None
    """Label value of the same structure on the other side of the body."""
    alpha: int = OPAQUE
    """Opacity of the colour, 0 (invisible) to 255."""
    group: str | None = None
    """Name of a larger structure that it is part of, such as the whole hippocampus."""
    tolerance_mm: float | None = None
    """Distance up to which surfaces agree, for the surface Dice; None for the default of the evaluation."""
    is_lesion: bool = False
    """Whether each connected component is a lesion that can be detected."""
    snomed: str | None = None
    """Code of the structure in SNOMED CT, without its side."""

    def __post_init__(self) -> None:
        checked_text(self.name, "label name")
        where = f"label {self.value} ({self.name})"
        if self.group is not None:
            checked_text(self.group, f"{where}: group")
        if not all(0 <= level <= 255 for level in self.color):
            raise DataError(f"{where}: colour {self.color}; use levels from 0 to 255")
        if not 0 <= self.alpha <= OPAQUE:
            raise DataError(f"{where}: alpha {self.alpha}; use 0 (invisible) to {OPAQUE}")
        if self.tolerance_mm is not None and not 0 <= self.tolerance_mm < math.inf:
            raise DataError(f"{where}: tolerance_mm {self.tolerance_mm}; use 0 mm or more")
        if self.snomed is not None and not re.fullmatch(r"[0-9]{6,18}", self.snomed):
            raise DataError(f"{where}: SNOMED code {self.snomed!r:.40}; it has 6 to 18 digits")

    def to_record(self) -> dict[str, Any]:
        """The label as a JSON-compatible record, without what is not set."""
        extras = {
            "alpha": None if self.alpha == OPAQUE else self.alpha,
            "group": self.group,
            "tolerance_mm": self.tolerance_mm,
            "lesion": self.is_lesion or None,
            "snomed": self.snomed,
        }
        return {
            "value": self.value,
            "name": self.name,
            "color": list(self.color),
            "partner": self.partner,
            **{key: value for key, value in extras.items() if value is not None},
        }


@dataclass(frozen=True)
class LabelTable:
    """Background and foreground labels in the order of the network's classes.

    Raises:
        DataError: values are not unique and ascending from 0, names repeat, a group has the name of a label, or a
            partner does not point back.
    """

    labels: tuple[Label, ...]
    ignored_value: int | None = None

    def __post_init__(self) -> None:
        values = self.values
        if self.ignored_value is not None and not 0 < self.ignored_value <= MAX_VALUE:
            raise DataError(
                f"ignored label value {self.ignored_value}; use one from 1 to {MAX_VALUE}"
            )
        if self.ignored_value in values:
            raise DataError(
                f"label value {self.ignored_value} is both a structure and the ignored value; choose one"
            )
        if not values or values[0] != 0:
            raise DataError(
                f"label values {_few(values)}: the first value must be 0, the background; add it"
            )
        if any(a >= b for a, b in itertools.pairwise(values)):
            raise DataError(
                f"label values {_few(values)} do not ascend; list each value once, in ascending order"
            )
        if len(values) > MAX_CLASSES:
            raise DataError(f"{len(values)} labels; a table holds at most {MAX_CLASSES}")
        if values[-1] > MAX_VALUE:
            raise DataError(f"label value {values[-1]}; a label map holds values up to {MAX_VALUE}")
        self._check_names()
        self._check_partners()

    def _check_names(self) -> None:
        names = Counter(self.names)
        if any(name.lower() == IGNORE for name in names):
            raise DataError(
                f"label name {IGNORE!r} is reserved for the ignored value; give it only one value"
            )
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise DataError(
                f"label name {repeated[0]!r} is used twice; give each label its own name"
            )
        if taken := sorted({x.group for x in self.labels if x.group is not None} & names.keys()):
            raise DataError(
                f"group {taken[0]!r} has the name of a label; give the group its own name"
            )

    def _check_partners(self) -> None:
        by_value = {label.value: label for label in self.labels}
        for label in self.labels:
            if label.partner is not None and (
                label.partner not in by_value or by_value[label.partner].partner != label.value
            ):
                raise DataError(
                    f"label {label.value} ({label.name}): partner {label.partner} is not in the table "
                    "or does not name it back; partners come in pairs"
                )

    @classmethod
    def from_values(
        cls,
        values: Iterable[int],
        names: Mapping[int, str] | None = None,
        ignored_value: int | None = None,
    ) -> LabelTable:
        """Table of the given values and background; names default to "label N", partners are derived from the names."""
        names = {0: "background", **(names or {})}
        ordered = sorted({0, *map(int, values)} - {ignored_value})
        if ordered[0] < 0:
            raise DataError(f"label value {ordered[0]} is negative; label values start at 0")
        known = {value: names.get(value, _default_name(value)) for value in ordered}
        known_partners = partners(known)
        return cls(
            tuple(
                Label(value, name, _color(index), known_partners.get(value))
                for index, (value, name) in enumerate(known.items())
            ),
            ignored_value,
        )

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> LabelTable:
        """Table from records such as those of `to_records()`, in any order; only values and names are needed.

        Background is added if it is missing. A missing colour is chosen, and a missing partner is derived from the
        names. A record with the name "ignore" gives the ignored value.

        Raises:
            DataError: a value appears twice, or a record lacks a value or a name or has something else in their place.
        """
        try:
            given = [label_fields(record) for record in records]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{error}; each label has a value and a name and, optionally, a partner's value, a color, alpha, group, "
                "tolerance_mm, lesion and snomed"
            ) from error
        by_value = {fields["value"]: fields for fields in given}
        if len(by_value) < len(given):
            raise DataError("a label value appears twice; list each value once")
        names = {value: fields["name"] for value, fields in by_value.items()}
        ignored = ignored_among(names)
        plain = cls.from_values(names, names, ignored)
        labels = (replace(label, **by_value.get(label.value, {})) for label in plain.labels)
        return cls(tuple(labels), ignored)

    def to_records(self) -> list[dict[str, Any]]:
        """The labels as JSON-compatible records, with the ignored value under the name "ignore"."""
        ignored = [] if self.ignored_value is None else [Label(self.ignored_value, IGNORE)]
        return [label.to_record() for label in (*self.labels, *ignored)]

    def digest(self) -> str:
        """SHA-256 of values, names and partners, which define the meaning of a network's output."""
        meaning = [(label.value, label.name, label.partner) for label in self.labels]
        if self.ignored_value is not None:
            meaning.append((self.ignored_value, IGNORE, None))
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()

    @property
    def num_classes(self) -> int:
        """Number of classes of the network, including background."""
        return len(self.labels)

    @property
    def values(self) -> tuple[int, ...]:
        """Label value of each class."""
        return tuple(label.value for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each class."""
        return tuple(label.name for label in self.labels)

    @property
    def foreground(self) -> tuple[Label, ...]:
        """All labels except the background."""
        return self.labels[1:]

    def contradiction(self, other: LabelTable) -> tuple[int, str, str] | None:
        """First label value that the two tables name differently, with both names; default names do not count."""
        names = dict(zip(other.values, other.names, strict=True))
        for label in self.foreground:
            theirs = names.get(label.value, label.name)
            if theirs != label.name and _default_name(label.value) not in (theirs, label.name):
                return label.value, label.name, theirs
        return None

    def restricted_to(self, values: Iterable[int]) -> LabelTable:
        """Table with only these values and background; partners that are left out are dropped.

        Raises:
            DataError: a value is not in the table.
        """
        wanted = {0, *values}
        if strange := sorted(wanted - set(self.values)):
            raise DataError(
                f"label values {_few(strange)} are not in the table {_few(self.values)}"
            )
        kept = (label for label in self.labels if label.value in wanted)
        labels = (x if x.partner in wanted else replace(x, partner=None) for x in kept)
        return LabelTable(tuple(labels), self.ignored_value)

    @property
    def ignored_index(self) -> int | None:
        """Class index of unlabelled voxels, one past the network's classes; None if there is no ignored value."""
        return None if self.ignored_value is None else self.num_classes

    def class_indices(
        self, label_map: NDArray[Any], others: Literal["refuse", "background"] = "refuse"
    ) -> NDArray[Any]:
        """Class index of every voxel, as uint8 (int16 from 256 classes on), in the shape of `label_map`.

        The ignored value becomes `ignored_index`.

        Args:
            label_map: integers, any shape.
            others: what to do with values that the table does not list: raise an error, or count them as background.

        Raises:
            DataError: values are not listed and `others` is "refuse"; the message lists them with their voxel counts.
        """
        dtype = index_dtype(self.num_classes)
        indices = {value: index for index, value in enumerate(self.values)}
        if self.ignored_value is not None:
            indices[self.ignored_value] = self.num_classes
        least, most = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
        if most - least < 1 << 20:  # a look-up table, as label values are usually small
            lookup = np.full(most - least + 1, -1, dtype=np.int32)
            for value, index in indices.items():
                if least <= value <= most:
                    lookup[value - least] = index
            classes = lookup[label_map.astype(np.int64, copy=False) - least]
        else:
            known = np.array(sorted(indices))
            places = np.clip(np.searchsorted(known, label_map), 0, known.size - 1)
            found_index = np.array([indices[value] for value in known.tolist()])[places]
            classes = np.where(known[places] == label_map, found_index, -1)
        strange = classes < 0
        if others == "refuse" and strange.any():
            found, counts = np.unique(label_map[strange], return_counts=True)
            shown = ", ".join(
                f"{v} ({counted(n, 'voxel')})" for v, n in zip(found[:10], counts, strict=False)
            )
            raise DataError(
                f"label values {shown} are not in the label table; add them to it, or list the "
                "values to keep in `interested_label_list`"
            )
        return np.where(strange, 0, classes).astype(dtype)

    def label_values(self, class_map: NDArray[Any]) -> NDArray[Any]:
        """Label value of every voxel, in the smallest of uint8, int16 and int32 that holds all values of the table."""
        known = self.values if self.ignored_value is None else (*self.values, self.ignored_value)
        dtype: type[np.integer[Any]] = next(
            d for d in (np.uint8, np.int16, np.int32) if max(known) <= np.iinfo(d).max
        )
        values: NDArray[Any] = np.asarray(known, dtype=dtype)[class_map]
        return values

    @property
    def can_mirror(self) -> bool:
        """Whether the table says which label each label becomes in a left-right mirror image.

        This requires that every label has a partner or a name, and that every name with a side has a partner. A default
        name ("label 165") does not tell the side. Names that differ in one letter (lkid and rkid, insula_G and
        insula_D) may have a side; then the label table has to give their partners. The same holds for the heart's
        chambers, which are not mirror images of each other.
        """
        return not self._lone and not self._unsure and not self._unnamed

    def side_note(self) -> str | None:
        """A note if labels may have a side that their names do not clearly tell; None if there are none."""
        if not (unsure := self._unsure):
            return None
        label, other = unsure[0]
        rest = f", and {len(unsure) - 1} more" if unsure[1:] else ""
        return (
            f"label {label.value} ({label.name}) and {other!r} may be the left and right of one structure{rest}; name "
            "the partners in a label table (a label without a side is its own partner). Until then `plan` does not mirror "
            "left and right"
        )

    def mirror_note(self) -> str | None:
        """A note on unnamed labels for a user who trains with left-right flips; None if all labels have names."""
        if not (unnamed := self._unnamed):
            return None
        return (
            f"left-right mirroring: {_few(x.name for x in unnamed)} have no names, so they are taken to have no side; if "
            "they have one, name them with `prepare --label-table`"
        )

    @property
    def _unnamed(self) -> list[Label]:
        return [
            x for x in self.foreground if x.partner is None and x.name == _default_name(x.value)
        ]

    @property
    def _lone(self) -> list[Label]:
        return [x for x in self.labels if x.partner is None and has_side(x.name)]

    @property
    def _unsure(self) -> list[tuple[Label, str]]:
        """Labels that may have a side, each with the name of its possible partner."""
        lone = [label for label in self.labels if label.partner is None]
        found = ((label, perhaps_partners(label.name, self.names)) for label in lone)
        return [(label, min(names)) for label, names in found if names]

    @cached_property
    def partner_classes(self) -> tuple[int, ...]:
        """For each class index, the class that it becomes in a left-right mirror image.

        Raises:
            SettingsError: a name has a side, or may have one, but the label has no partner in the table.
        """
        index = {value: i for i, value in enumerate(self.values)}
        lone, unsure = self._lone, [label for label, _ in self._unsure]
        if labels := lone or unsure:
            raise SettingsError(
                f"label {labels[0].value} ({labels[0].name}) {'has' if lone else 'may have'} a side but no partner"
                f"{f', and {len(labels) - 1} more' if labels[1:] else ''}; name the partners in the "
                "label table, or set the left-right flip to 0"
            )
        return tuple(
            i if label.partner is None else index[label.partner]
            for i, label in enumerate(self.labels)
        )


def index_dtype(num_classes: int) -> np.dtype[Any]:
    """Data type of class indices: uint8 up to 255 classes, else int16; both leave room for one more index."""
    return np.dtype(np.uint8 if num_classes <= 255 else np.int16)


def ignored_among(names: Mapping[int, str]) -> int | None:
    """The label value named "ignore"; None if there is none."""
    return next((value for value, name in names.items() if name.strip().lower() == IGNORE), None)


def _default_name(value: int) -> str:
    return f"label {value}"


def _color(index: int) -> Color:
    """Colour of a class: hues a golden angle apart, so that neighbours differ clearly. Background is black."""
    if index == 0:
        return (0, 0, 0)
    red, green, blue = colorsys.hsv_to_rgb(
        (index * 0.61803398875) % 1, 0.55 + 0.4 * (index % 2), 0.95
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _few(values: Iterable[int | str]) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:12], "..."])
