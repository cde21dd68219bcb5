"""Label records: one label as a mapping from words to text or numbers, as it is read from JSON or a table.

The keys are value and name and, optionally, partner, color, alpha, group, tolerance_mm, lesion and snomed; others are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Color = tuple[int, int, int]


def label_fields(record: Any) -> dict[str, Any]:
    """Arguments of `Label` from a record, whose numbers may be text; raises ValueError if they are something else."""
    if (
        not isinstance(record, Mapping)
        or record.get("value") is None
        or not isinstance(record.get("name"), str)
    ):
        raise ValueError(f"{record!r:.80} lacks a value or a name")
    fields: dict[str, Any] = {"value": _whole(record["value"]), "name": record["name"].strip()}
    if "partner" in record:  # None says that there is none; nothing leaves it to the names
        fields["partner"] = None if record["partner"] is None else _whole(record["partner"])
    for key, (field, read) in _OPTIONAL.items():
        if record.get(key) is not None:
            fields[field] = read(record[key])
    return fields


def _whole(number: Any) -> int:
    try:
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or isinstance(number, bool) or (isinstance(number, float) and whole != number):
        raise ValueError(f"{number!r:.40} is not a whole number")
    return whole


def _length(number: Any) -> float:
    try:
        return float(number)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"tolerance_mm {number!r:.40} is not a number") from error


def _text(words: Any) -> str:
    return str(words).strip()


def _as_color(color: Any) -> Color:
    """A colour from three numbers, or from text in the form #rrggbb."""
    if isinstance(color, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", color.strip()):
        red, green, blue = bytes.fromhex(color.strip().lstrip("#"))
    elif isinstance(color, list | tuple) and len(color) == 3:
        red, green, blue = (_whole(level) for level in color)
    else:
        raise ValueError(f"colour {color!r:.40} is neither of the form #rrggbb nor three numbers")
    return red, green, blue


def _yes_or_no(word: Any) -> bool:
    known = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    answer = known.get(_text(word).lower())
    if answer is None:
        raise ValueError(f"lesion is {word!r:.40}; use yes or no")
    return answer


_OPTIONAL: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "color": ("color", _as_color),
    "alpha": ("alpha", _whole),
    "group": ("group", _text),
    "tolerance_mm": ("tolerance_mm", _length),
    "lesion": ("is_lesion", _yes_or_no),
    "snomed": ("snomed", _text),
}
"""Optional key of a record -> field of `Label`, and how it is read."""
