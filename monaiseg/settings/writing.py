"""Writing settings: canonical JSON."""

from __future__ import annotations

import re

from monaiseg.settings.section import Section


def dump_settings(settings: Section) -> str:
    """Canonical JSON: every key with its value, in the order of the sections; a list stands on one line.

    Spatial lists are in x, y, z order, as `dataset.axis_order` then says, so that reading gives the same settings.
    """
    text = settings.model_dump_json(indent=2)
    return re.sub(r"\[\n[^\[\]{}]*\]", _on_one_line, text) + "\n"


def _on_one_line(list_of_scalars: re.Match[str]) -> str:
    # A text in JSON holds no line break: what splits here is the indentation, never a value.
    return (
        "[" + " ".join(line.strip() for line in list_of_scalars[0][1:-1].splitlines()).strip() + "]"
    )
