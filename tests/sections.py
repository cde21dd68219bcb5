"""Settings documents from dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
