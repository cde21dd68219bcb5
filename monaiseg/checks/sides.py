"""Sides: left and right partners that have changed places.

In world coordinates x runs to the patient's right. The right one of two partners has the larger x, unless the header is
wrong or the names are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted, several
from monaiseg.checks.structures import Structure
from monaiseg.data import side_of

LEAST_MM = 1.0
"""Partners whose centroids are closer than this along x tell no side."""
FEWEST = 3
"""Cases that have to agree on which partner is on the right."""
AGREEING = 0.8
MOST_PAIRS = 0.5
"""If more pairs than this have changed places, the whole case is mirrored."""

Pair = tuple[int, int]


def swapped_sides(evidence: Evidence) -> Iterator[Finding]:
    """Cases in which partners are on other sides than in the other cases, and datasets where all contradict their names."""
    pairs = [
        (x.value, x.partner) for x in evidence.table.foreground if x.partner and x.value < x.partner
    ]
    signs = {
        name: {pair: sign for pair in pairs if (sign := _sign(pair, details.structures))}
        for name, details in evidence.details.items()
    }
    usual = {pair: sign for pair in pairs if (sign := _usual([*signs.values()], pair))}
    doubts = []
    for name, found in signs.items():
        wrong = [pair for pair, sign in found.items() if sign == -usual.get(pair, 0)]
        if wrong:
            known = [pair for pair in found if pair in usual]
            doubts.append(_doubt(evidence, name, wrong, known))
    if doubts:
        yield Finding(
            "swapped-sides",
            f"left and right have changed places in {counted(len(doubts), 'case')}",
            "The network learns each label on both sides: it confuses them, and volumes of left and right are wrong.",
            "Compare with the original scan. Exchange the label values, or correct the direction of the axis in the header.",
            tuple(doubts),
        )
    yield from _against_names(evidence, usual)


def _sign(pair: Pair, structures: dict[int, Structure]) -> int:
    """1 if the second partner lies to the right of the first, -1 if to the left, 0 if that cannot be told."""
    if pair[0] not in structures or pair[1] not in structures:
        return 0
    first, second = (structures[value].centroid_mm[0] for value in pair)
    return 0 if abs(second - first) < LEAST_MM else 1 if second > first else -1


def _usual(signs: list[dict[Pair, int]], pair: Pair) -> int:
    """The sign of nearly all cases; 0 if they do not agree, or are too few."""
    found = [each[pair] for each in signs if pair in each]
    if len(found) < FEWEST:
        return 0
    total = sum(found)
    return (1 if total > 0 else -1) if abs(total) >= (2 * AGREEING - 1) * len(found) else 0


def _doubt(evidence: Evidence, name: str, wrong: list[Pair], known: list[Pair]) -> Doubt:
    names = (" and ".join(map(evidence.label_name, pair)) for pair in wrong)
    whole = len(wrong) > MOST_PAIRS * len(known)
    words = f"{len(wrong)} of {counted(len(known), 'pair')}: {several(names, 2)}"
    detail = f"the whole case is mirrored ({words})" if whole and len(known) > 1 else words
    return Doubt(name, detail, evidence.details[name].structures[wrong[0][0]].middle)


def _against_names(evidence: Evidence, usual: dict[Pair, int]) -> Iterator[Finding]:
    """Datasets in which the structures named "left" are on the patient's right in nearly all cases."""
    names = dict(zip(evidence.table.values, evidence.table.names, strict=True))
    wrong = []
    named = 0
    for pair, sign in usual.items():
        sides = tuple(side_of(names[value]) for value in pair)
        if set(sides) == {"left", "right"}:
            named += 1
            wrong += [pair] if (sides == ("left", "right")) != (sign == 1) else []
    if wrong:
        shown = several((" and ".join(map(evidence.label_name, pair)) for pair in wrong), 2)
        yield Finding(
            "sides-against-names",
            f"in nearly all cases {len(wrong)} of {counted(named, 'pair')} are on the sides opposite to their names: {shown}",
            "By the headers, what is named left lies on the patient's right. Every statement about a side would be wrong.",
            "If the headers are right, exchange the names in the label table; otherwise correct the headers of all files.",
        )
