"""Unscored labels: label values of a map that are not in the label table, and so belong to no structure.

They count as background in every score. A reference with structures that the network has never seen would otherwise
look complete, so these values are reported with their number of voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import LabelTable
from monaiseg.evaluation.summaries import UnscoredLabel

MOST_SHOWN = 10


@dataclass(frozen=True)
class Unscored:
    """Number of voxels of each label value of one case that is not in the label table."""

    reference: Mapping[int, int] = field(default_factory=dict)
    prediction: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: NDArray[Any], prediction: NDArray[Any], table: LabelTable) -> Unscored:
        """Those of two label maps (X, Y, Z)."""
        return cls(*(_others(values, table) for values in (reference, prediction)))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Unscored:
        """From the result of `dataclasses.asdict`, read back from JSON."""
        return cls(
            *(
                {int(value): int(count) for value, count in record[which].items()}
                for which in ("reference", "prediction")
            )
        )


def _others(label_map: NDArray[Any], table: LabelTable) -> dict[int, int]:
    others = label_map[~np.isin(label_map, [0, *table.values])]
    values, counts = np.unique(others, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def unscored_labels(cases: Iterable[Unscored]) -> list[UnscoredLabel]:
    """The unscored label values of several cases, with their voxels and number of cases; references come first."""
    cases = tuple(cases)
    return [
        *_totals("reference", [case.reference for case in cases]),
        *_totals("prediction", [case.prediction for case in cases]),
    ]


def _totals(which: str, cases: Iterable[Mapping[int, int]]) -> Iterator[UnscoredLabel]:
    voxels: dict[int, list[int]] = {}
    for case in cases:
        for value, count in case.items():
            voxels.setdefault(value, []).append(count)
    for value, counts in sorted(voxels.items()):
        yield UnscoredLabel(map=which, value=value, voxels=sum(counts), cases=len(counts))


def unscored_notes(labels: Iterable[UnscoredLabel]) -> list[str]:
    """A sentence for the references and one for the predictions; empty if all their labels are scored.

    >>> unscored_notes([UnscoredLabel(map="reference", value=7, voxels=120, cases=3)])
    ['references have labels that are not in the label table and count as background: 7 (120 voxels in 3 cases)']
    """
    notes = []
    labels = tuple(labels)
    for which in ("reference", "prediction"):
        words = [
            f"{label.value} ({label.voxels} voxels in {label.cases} case{'s' if label.cases > 1 else ''})"
            for label in labels
            if label.map == which
        ]
        if words:
            more = f" and {len(words) - MOST_SHOWN} more" if words[MOST_SHOWN:] else ""
            notes.append(
                f"{which}s have labels that are not in the label table and count as background: "
                f"{', '.join(words[:MOST_SHOWN])}{more}"
            )
    return notes
