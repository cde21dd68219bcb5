"""Duplicates: images that occur twice, and scans of one person in several splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted, several
from monaiseg.data import alike_pairs, likely_persons

NEARLY_SAME = 0.99
"""Least correlation of reduced images that are nearly the same."""
NEARER = 0.25
"""A near duplicate is at most this much as different as the next most similar image."""
ROWS = 256
"""Images that are compared with all others at once, which bounds the memory."""
_LEAK = "Scores on scans that the network was trained on are too good."


def same_images(evidence: Evidence) -> Iterator[Finding]:
    """Images that occur under several names."""
    groups = defaultdict(list)
    for name, found in evidence.facts.items():
        groups[found.voxel_digest].append(name)
    twice = [names for names in groups.values() if len(names) > 1]
    torn = [names for names in twice if _is_torn(evidence, names)]
    if torn:
        yield Finding(
            "same-image-in-two-splits",
            f"{counted(len(torn), 'image')} in more than one split",
            _LEAK,
            "Remove all but one.",
            _pairs(evidence, torn),
            stops_training=True,
        )
    if rest := [names for names in twice if names not in torn]:
        yield Finding(
            "same-image",
            f"{counted(len(rest), 'image')} under more than one name",
            "Such a case counts twice. `prepare` keeps its copies in one split.",
            "Remove all but one; or keep them if several people have labelled the same scan.",
            _pairs(evidence, rest),
        )


def same_label_maps(evidence: Evidence) -> Iterator[Finding]:
    """Label maps that are the same, voxel by voxel, for different images."""
    groups = defaultdict(list)
    for name in evidence.labelled:
        if name in evidence.details:
            groups[evidence.details[name].label_digest].append(name)
    images = {name: found.voxel_digest for name, found in evidence.facts.items()}
    twice = [names for names in groups.values() if len({images[name] for name in names}) > 1]
    if twice:
        yield Finding(
            "same-label-map",
            f"{counted(len(twice), 'label map')} used for different images",
            "Two scans never have exactly the same labels: one of them has the label map of the other.",
            "Find the right label map; look at both cases.",
            _pairs(evidence, twice),
        )


def _is_torn(evidence: Evidence, names: list[str]) -> bool:
    """Whether cases are in different splits."""
    return len({evidence.split_of(name) for name in names}) > 1


def _pairs(evidence: Evidence, groups: list[list[str]]) -> tuple[Doubt, ...]:
    """One doubt for each case, which names the others of its group."""
    doubts = []
    for names in groups:
        for name in names:
            split = evidence.split_of(name)
            others = several(other for other in names if other != name)
            doubts.append(Doubt(name, f"{f'in {split}, ' if split else ''}like {others}"))
    return tuple(doubts)


def near_duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Pairs of cases that are so similar that they may be one scan, or one person, and that names do not connect."""
    persons = evidence.groups or likely_persons([case.id for case in evidence.cases]) or {}
    images = {name: found.voxel_digest for name, found in evidence.facts.items()}
    reasons: dict[tuple[str, str], list[str]] = {}
    for pair in _similar_pairs(evidence):
        reasons.setdefault(pair, []).append("nearly the same image")
    for pair in alike_pairs(evidence.facts, {name: name for name in evidence.facts}):
        reasons.setdefault(pair, []).append("structures of nearly the same volumes")
    doubts = []
    for (one, other), words in reasons.items():
        known = persons.get(one, one) == persons.get(other, other) or images[one] == images[other]
        if not known and (evidence.splits is None or _is_torn(evidence, [one, other])):
            detail = " and ".join(words)
            doubts += [Doubt(one, f"{detail} as {other}"), Doubt(other, f"{detail} as {one}")]
    if doubts:
        where = "" if evidence.splits is None else " in different splits"
        yield Finding(
            "near-duplicates",
            f"{counted(len(doubts) // 2, 'pair')} of cases{where} may be one scan or one person",
            _LEAK,
            "Look at both. Remove one of each pair, or keep both in one split: `prepare --group-by` takes a CSV file with the "
            "columns case and group.",
            tuple(doubts),
        )


def _similar_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    names, images = [], []
    for name in evidence.facts:
        if name in evidence.details and (image := evidence.details[name].reduced) is not None:
            names.append(name)
            images.append(image)
    if len(names) < 3:
        return []
    nearest, first, second = _neighbours(np.stack(images))
    return [
        (names[one], names[other])
        for one, other in enumerate(nearest)
        if one < other
        and nearest[other] == one
        and first[one] <= 1 - NEARLY_SAME
        and first[one] <= NEARER * min(second[one], second[other])
    ]


def _neighbours(images: NDArray[np.float32]) -> tuple[NDArray[np.intp], ...]:
    """For each image (cases, voxels), the most similar other one, and how different this and the next are: 1 - r."""
    found = []
    for start in range(0, len(images), ROWS):
        difference = 1 - images[start : start + ROWS] @ images.T
        rows = np.arange(len(difference))
        difference[rows, start + rows] = np.inf
        nearest = difference.argmin(axis=1)
        two = np.partition(difference, 1, axis=1)[:, :2]
        found.append((nearest, two[:, 0], two[:, 1]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _people(groups: list[list[str]]) -> str:
    return "people" if groups[1:] else "person"


def same_person(evidence: Evidence) -> Iterator[Finding]:
    """Cases that belong to one person, by their names or by the volumes of their structures."""
    if evidence.groups is not None:
        persons: dict[str, str] | None = dict(evidence.groups)
        source = "by --group-by"
    else:
        persons = likely_persons([case.id for case in evidence.cases])
        source = "by their names"
    groups = defaultdict(list)
    for name, person in (persons or {}).items():
        groups[person].append(name)
    several_scans = [names for names in groups.values() if len(names) > 1]
    torn = [names for names in several_scans if _is_torn(evidence, names)]
    if torn:
        yield Finding(
            "same-person-in-two-splits",
            f"{len(torn)} {_people(torn)} with scans in more than one split, {source}",
            _LEAK,
            "Prepare the data again with --group-by, so that all scans of a person are in one split.",
            _pairs(evidence, torn),
        )
    elif several_scans and evidence.splits is None and evidence.groups is None:
        example = " and ".join(several_scans[0][:2])
        yield Finding(
            "same-person",
            f"{len(several_scans)} {_people(several_scans)} with several scans, {source}, such as {example}",
            f"If they are in different splits: {_LEAK[0].lower()}{_LEAK[1:]}",
            "Use `prepare --group-by` with a pattern such as 'patient(\\d+)', or a CSV file with the columns case and group.",
        )
