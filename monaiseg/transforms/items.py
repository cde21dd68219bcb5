"""Items: the dictionaries that a chain of transforms takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monaiseg.data import Case, volume_stem

Item = dict[str, Any]


def case_item(case: Case) -> Item:
    """A case as an item for the load chain."""
    label = {} if case.label is None else {"label": str(case.label)}
    return {"image": [str(path) for path in case.images], **label, "case_id": case.id}


def case_name(item: Mapping[str, Any]) -> str:
    """The case's id or, in an item without one, its first image file."""
    image = item["image"]
    return str(item.get("case_id") or volume_stem(image if isinstance(image, str) else image[0]))
