"""Jobs: the scans of a run, the files that are made of each, and the share of one of several processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from monaiseg.data import Case, planned_outputs
from monaiseg.errors import SettingsError

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A scan and the files that are made of it."""

    case: Case
    label_map: Path
    confidence: Path | None
    """None if it was not asked for."""

    @property
    def is_complete(self) -> bool:
        """Whether all files are there. Each was written whole, the label map last."""
        return self.label_map.exists() and (self.confidence is None or self.confidence.exists())


def jobs_of(
    images: Iterable[Case | Sequence[str | Path]], folder: str | Path, *, confidence: bool = False
) -> list[Job]:
    """The jobs for the images of each case, in their order.

    Raises:
        SettingsError: two label maps would have the same path, or an output would overwrite an input.
    """
    return [
        Job(case, output, _beside(output) if confidence else None)
        for case, output in planned_outputs(images, folder)
    ]


def _beside(label_map: Path) -> Path:
    return label_map.with_name(label_map.name.replace("_pred.nii", "_confidence.nii"))


@dataclass(frozen=True)
class Share:
    """The part of the scans that one of several processes labels: every `count`-th, starting with the `number`-th.

    >>> Share.parse("2/3").of(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that a text such as "2/8" names.

        Raises:
            SettingsError: it names none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            raise SettingsError(f"--shard: {text!r} is not a share; use 1/8, 2/8, ... 8/8")
        return cls(number, count)

    def within(self, other: Share) -> Share:
        """This share of another share."""
        number = other.number + other.count * (self.number - 1)
        return Share(number, other.count * self.count)

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this share, in order."""
        return list(items[self.number - 1 :: self.count])
