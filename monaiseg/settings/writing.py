"""Writing settings: canonical JSON."""

from __future__ import annotations

import re

from monaiseg.settings.section import Section


def dump_settings(settings: Section) -> str:
    """Canonical JSON: every key with its value, in the order of the sections, with each list on one line.

    Spatial lists are in x, y, z order, and `dataset.axis_order` says so. Reading the text gives the same settings.
    """
    text = settings.model_dump_json(indent=2)
    return re.sub(r"\[\n[^\[\]{}]*\]", _on_one_line, text) + "\n"


def _on_one_line(list_of_scalars: re.Match[str]) -> str:
    # A JSON string holds no line break, so this splits at the indentation, never inside a value.
    return (
        "[" + " ".join(line.strip() for line in list_of_scalars[0][1:-1].splitlines()).strip() + "]"
    )
