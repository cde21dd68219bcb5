"""Geometry of labels: structures that are cut, in crumbs, or with missing slices, and cases that are turned round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from monaiseg.checks.details import CaseDetails
from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, Voxel, counted, several
from monaiseg.checks.structures import Structure

CUT = 0.5
"""A structure is cut if its area on a face of the volume is at least this share of its largest slice."""
USUAL = 0.25
"""What happens in more cases than this belongs to the data and is not reported."""
FEWEST = 5
"""With fewer cases nobody can say what is usual."""
MANY_ISLANDS = 10
MANY_TIMES = 3
"""A label has many islands if it has at least `MANY_ISLANDS`, and this many times more than usual."""


def cut_structures(evidence: Evidence) -> Iterator[Finding]:
    """Structures that reach through the edge of the field of view, and do not in most cases."""

    def cut(structure: Structure) -> Voxel | None:
        return structure.cut_voxel if structure.cut >= CUT else None

    if doubts := _unusual(evidence, cut):
        yield Finding(
            "cut-by-the-edge",
            f"{counted(len(doubts), 'case')} with structures cut by the edge of the field of view",
            "The network sees half a structure and learns a border that does not exist; volumes are too small.",
            "Check whether the scan was cropped too tightly. Crop it again with a margin, or leave the case out of the test split.",
            tuple(doubts),
        )


def missing_slices(evidence: Evidence) -> Iterator[Finding]:
    """Structures that lack a slice in their middle."""
    if doubts := _unusual(evidence, lambda structure: structure.missing_slice):
        yield Finding(
            "missing-slices",
            f"{counted(len(doubts), 'case')} with a slice that was not drawn",
            "The network learns that the structure has a gap.",
            "Draw the slice, or interpolate the label map between its neighbours.",
            tuple(doubts),
        )


def islands(evidence: Evidence) -> Iterator[Finding]:
    """Structures with many crumbs around them."""
    usual = {value: median(counts) for value, counts in _islands_of(evidence).items()}

    def crumbs(value: int, structure: Structure) -> Voxel | None:
        many = max(MANY_ISLANDS, MANY_TIMES * usual[value])
        return structure.island_voxel if structure.islands >= many else None

    doubts = []
    for name, details in evidence.details.items():
        found = {v: x for v, x in details.structures.items() if crumbs(v, x)}
        if found:
            worst = max(found, key=lambda value: found[value].islands)
            words = several(
                f"{counted(found[value].islands, 'island')} of {evidence.label_name(value)}"
                for value in sorted(found, key=lambda value: -found[value].islands)
            )
            doubts.append(Doubt(name, words, found[worst].island_voxel))
    if doubts:
        yield Finding(
            "many-islands",
            f"{counted(len(doubts), 'label map')} with many small islands beside a structure",
            "Islands usually come from a slip of the brush or from a threshold. They increase surface distances, and the network learns them.",
            "Remove small components, unless they are part of the anatomy.",
            tuple(doubts),
        )


def _islands_of(evidence: Evidence) -> dict[int, list[int]]:
    counts: dict[int, list[int]] = defaultdict(list)
    for details in evidence.details.values():
        for value, structure in details.structures.items():
            counts[value].append(structure.islands)
    return counts


def _unusual(evidence: Evidence, test: Callable[[Structure], Voxel | None]) -> list[Doubt]:
    """Cases with structures for which a test gives a voxel, where it does not in most cases with this structure."""
    there: dict[int, int] = defaultdict(int)
    found: dict[int, dict[str, Voxel]] = defaultdict(dict)
    for name, details in evidence.details.items():
        for value, structure in details.structures.items():
            there[value] += 1
            if (voxel := test(structure)) is not None:
                found[value][name] = voxel
    odd: dict[str, dict[int, Voxel]] = defaultdict(dict)
    for value, voxels in sorted(found.items()):
        if there[value] >= FEWEST and len(voxels) <= USUAL * there[value]:
            for name, voxel in voxels.items():
                odd[name][value] = voxel
    return [
        Doubt(
            name, f"label {several(map(evidence.label_name, places))}", next(iter(places.values()))
        )
        for name, places in odd.items()
    ]


_DIRECTIONS = ("left and right", "front and back", "top and bottom")
STEADY, TURNED = 0.3, -0.5
"""Projections, see `_projections`: an ordinary case has at least `STEADY`, and one that is turned round at most `TURNED`."""
MOST_BETWEEN, MOST_TURNED = 0.05, 0.2
"""If more cases lie between these two, or are turned, the arrangement varies from person to person."""
LEAST_DISTANCE_MM = 1.0
"""If the centroids are not further apart along an axis, they have no order."""


def mirrored_cases(evidence: Evidence) -> Iterator[Finding]:
    """Cases in which the structures are arranged in the opposite direction along an axis of the body."""
    doubts: dict[str, Doubt] = {}
    has_partners = any(label.partner is not None for label in evidence.table.labels)
    for axis, words in enumerate(_DIRECTIONS):
        if axis == 0 and has_partners:
            continue  # `sides` says more about them
        for name, projection in _projections(evidence, axis).items():
            if projection <= TURNED:
                detail = f"{words} are exchanged, compared with the other cases"
                doubts.setdefault(name, Doubt(name, detail, _any_voxel(evidence, name)))
    if doubts:
        yield Finding(
            "turned-round",
            f"{counted(len(doubts), 'case')} with structures on the opposite side, by its header",
            "Either the header has the wrong directions, or image and label map are mirrored. Such cases teach the network to "
            "exchange the sides.",
            "Compare with the original scan. Correct the header, or the labels.",
            tuple(doubts.values()),
        )


def _any_voxel(evidence: Evidence, name: str) -> Voxel:
    structures = evidence.details[name].structures
    return max(structures.values(), key=lambda structure: structure.voxels).middle


def _projections(evidence: Evidence, axis: int) -> dict[str, float]:
    """For each case, its centroids along an axis of RAS projected on their medians over the cases.

    1 means that the structures are as far from each other as usual, -1 that they are in the opposite order. Among whole
    brains of mice, projections are 0.90 to 1.11. Among hearts, they are 0.63 and more from left to right, and from -5
    to 2 from front to back, where the chambers have no fixed order. In the second case nothing is returned.
    """
    names = [name for name, details in evidence.details.items() if details.structures]
    if len(names) < FEWEST:
        return {}
    places = _centroids([evidence.details[name] for name in names], axis)
    complete = ~np.isnan(places).any(axis=1)
    if not complete.any():
        return {}
    usual = np.median(_centred(places[complete]), axis=0)
    found = {}
    for name, own in zip(names, places, strict=True):
        there = ~np.isnan(own)
        if there.sum() > 1 and np.ptp(usual[there]) >= LEAST_DISTANCE_MM:
            expected = _centred(usual[there])
            found[name] = float(_centred(own[there]) @ expected / (expected @ expected))
    turned = sum(projection <= TURNED for projection in found.values())
    between = sum(TURNED < projection < STEADY for projection in found.values())
    varies = between > MOST_BETWEEN * len(found) or turned > MOST_TURNED * len(found)
    return {} if varies else found


def _centred(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places relative to the mean of their case."""
    return np.asarray(places - places.mean(axis=-1, keepdims=True))


def _centroids(cases: Sequence[CaseDetails], axis: int) -> NDArray[np.float64]:
    """Centroids in mm along an axis of RAS, (cases, labels), of the labels that most cases have; NaN where one lacks it."""
    counts = Counter(value for details in cases for value in details.structures)
    values = sorted(value for value, count in counts.items() if 2 * count > len(cases))
    return np.array(
        [
            [
                details.structures[value].centroid_mm[axis]
                if value in details.structures
                else np.nan
                for value in values
            ]
            for details in cases
        ]
    ).reshape(len(cases), len(values))
