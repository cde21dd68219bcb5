"""Findings: what a check says about a dataset, in parts that a table, a JSON file and a page can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Voxel = tuple[int, int, int]

SHOWN = 5
"""Maximum number of names or values in a sentence."""


@dataclass(frozen=True)
class Doubt:
    """A case that a finding is about."""

    case: str
    detail: str = ""
    """What was measured in this case."""
    voxel: Voxel | None = None
    """Where to look, in the axes of the image file."""


@dataclass(frozen=True)
class Finding:
    """Something that a user should know before training."""

    kind: str
    """Short name that does not change, for programs."""
    what: str
    why: str
    """What happens in training if nothing is done."""
    remedy: str
    doubts: tuple[Doubt, ...] = ()
    """The cases it is about; empty if it is about the whole dataset."""
    stops_training: bool = False

    def to_record(self) -> dict[str, Any]:
        """The finding as JSON-compatible values."""
        return {
            "kind": self.kind,
            "stops_training": self.stops_training,
            "what": self.what,
            "why": self.why,
            "remedy": self.remedy,
            "cases": [{"case": doubt.case, "detail": doubt.detail} for doubt in self.doubts],
        }


def one_a_case(doubts: Iterable[Doubt]) -> tuple[Doubt, ...]:
    """The doubts with all details of a case in one."""
    found: dict[str, list[Doubt]] = {}
    for doubt in doubts:
        found.setdefault(doubt.case, []).append(doubt)
    return tuple(
        Doubt(case, several(doubt.detail for doubt in same), same[0].voxel)
        for case, same in found.items()
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "case"), counted(3, "label map")
    ('1 case', '3 label maps')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def several(items: Iterable[object], most: int = SHOWN) -> str:
    """The first items in words, and how many more there are.

    >>> several("abcdefg", most=3)
    'a, b, c and 4 more'
    """
    shown = [str(item) for item in items]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with those first that stop training; otherwise the order stays."""
    return sorted(findings, key=lambda finding: not finding.stops_training)
