"""Settings documents from dotted paths, in EasyReg's words or ours, and what they resolve to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from monaiseg.settings.easyreg_keys import TRANSFORMS
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings

TRANSFORM = "dataset.seg.transform"


def document(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections from dotted paths."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return nested


def in_its_place(path: str, value: Any) -> dict[str, Any]:
    """The key alone, and with a transform's parameter what lists the transform."""
    values = {path: value}
    if path.startswith(f"{TRANSFORM}.default."):
        values = {
            f"{TRANSFORM}.transform_seq": [],
            f"{TRANSFORM}.default.using_bspline_deform": True,
            **values,
        }
    elif path.startswith(f"{TRANSFORM}.") and path.count(".") == 4:
        (name,) = (n for n, t in TRANSFORMS.items() if t.section == path.split(".")[3])
        values[f"{TRANSFORM}.transform_seq"] = [name]
    return document(values)


def at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def resolved(written: dict[str, Any]) -> Settings:
    """Settings of a document that has no key without effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return settings_from_dict(written)


def del_at(nested: dict[str, Any], path: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        nested = nested[parent]
    del nested[name]
