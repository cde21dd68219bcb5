"""EasyReg's settings files in this project's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Translation:
    """A settings document in our spelling, and what was noticed on the way."""

    document: dict[str, Any]
    ignored: tuple[str, ...] = ()
    """Paths of keys that are known but have no effect here."""
    problems: tuple[str, ...] = ()
    """Faults, each `path: what; what to do`."""


def translate(document: Mapping[str, Any]) -> Translation:
    return Translation({k: v for k, v in document.items() if k != "$schema"})
