"""Grids: images and label maps in different places, and cases with another orientation, voxel size or extent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted
from monaiseg.checks.outliers import FEWEST, MOST_SHARE, far_out
from monaiseg.data import Grid, Refusal, header_forms
from monaiseg.errors import DataError

ODD_FACTOR = 1.5
"""Factor by which a voxel size or an extent must differ to matter."""


def different_grids(evidence: Evidence) -> Iterator[Finding]:
    """Images, channels and label maps of one case on different grids."""
    cases = {case.id: case for case in evidence.cases}
    doubts = []
    for name, refusals in evidence.refusals.items():
        for refusal in refusals:
            if refusal.step == "grid":
                forms = "; ".join(f"{path.name}: {_forms(path)}" for path in cases[name].files)
                doubts.append(Doubt(name, f"{refusal.sentence} ({forms})"))
    if doubts:
        yield Finding(
            "different-grids",
            f"{counted(len(doubts), 'case')} with image and label map on different grids",
            "The labels would be beside their structures, and the network would learn the shift.",
            "If both have the same voxels and a header is wrong, copy the geometry of the image into the label map; "
            "otherwise resample the label map onto the image, by nearest neighbour.",
            tuple(doubts),
            stops_training=True,
        )


def contradicting_forms(evidence: Evidence) -> Iterator[Finding]:
    """Headers whose sform and qform disagree, or that have neither."""
    torn, without = [], []
    for refusal, (name, path) in unclear_headers(evidence).items():
        if header_forms(path):
            torn.append(Doubt(name, f"{refusal.sentence} ({_forms(path)})"))
        else:
            without.append(Doubt(name, refusal.sentence))
    if torn:
        yield Finding(
            "sform-against-qform",
            f"{counted(len(torn), 'file')} whose sform and qform put the voxels in different places",
            "Programs choose one or the other: labels drawn in one program appear elsewhere in another.",
            "Find out which one is right (open image and label map together), and set the code of the other to 0.",
            tuple(torn),
            stops_training=True,
        )
    if without:
        yield Finding(
            "no-orientation",
            f"{counted(len(without), 'file')} without an orientation",
            "Left and right cannot be told apart in them.",
            "Copy the geometry from the original scan. If you know the directions of the axes, use "
            "`prepare --assume-orientation`.",
            tuple(without),
            stops_training=True,
        )


def unclear_headers(evidence: Evidence) -> dict[Refusal, tuple[str, Path]]:
    """Case and file of each refusal whose reason is that the header gives two different grids, or none."""
    return {
        refusal: (case.id, path)
        for case in evidence.cases
        for refusal in evidence.refusals.get(case.id, ())
        if refusal.step == "header"
        for path in case.files
        if f" {path}: " in refusal.sentence and _is_unclear(path)
    }


def _is_unclear(path: Path) -> bool:
    """Whether a header gives two different grids, or none."""
    try:
        grids = [*header_forms(path).values()]
    except DataError:
        return False
    return not grids or (len(grids) == 2 and grids[0].difference(grids[1]) is not None)


def _forms(path: Path) -> str:
    """The grids in the header of a file, in words."""
    try:
        forms = header_forms(path)
    except DataError:
        return "cannot be read"
    return ", ".join(f"{name} {_words(grid)}" for name, grid in forms.items()) or "no geometry"


def _words(grid: Grid) -> str:
    spacing = " x ".join(f"{size:.4g}" for size in grid.spacing)
    origin = ", ".join(f"{row[3]:.4g}" for row in grid.affine[:3])
    return f"says {grid.orientation}, {spacing} mm, first voxel at ({origin}) mm"


def odd_orientation(evidence: Evidence) -> Iterator[Finding]:
    """Cases whose axes run elsewhere than those of nearly all others."""
    found = {name: facts.orientation for name, facts in evidence.facts.items()}
    if len(found) < FEWEST:
        return
    usual, count = Counter(found.values()).most_common(1)[0]
    odd = {name: letters for name, letters in found.items() if letters != usual}
    if odd and count >= (1 - MOST_SHARE) * len(found):
        yield Finding(
            "odd-orientation",
            f"{counted(len(odd), 'case')} with axes in other directions than the rest ({usual})",
            "All images are reoriented to RAS by their headers. If a converter wrote a wrong header, these are reoriented wrongly, and left and right may be exchanged.",
            "Look at these scans in a viewer: is the front in front, and are the sides right?",
            tuple(Doubt(name, f"axes run {letters}") for name, letters in odd.items()),
        )


def odd_spacing(evidence: Evidence) -> Iterator[Finding]:
    """Cases with another voxel size than all others."""
    if doubts := _odd_lengths(evidence, "voxel size", lambda _, spacing: spacing):
        yield Finding(
            "odd-voxel-size",
            f"{counted(len(doubts), 'case')} with another voxel size than all others",
            "A wrong voxel size makes structures look larger or smaller than they are; if it is right, the network learns such scans from few cases.",
            "Compare with the scanner's protocol. If it is right, set dataset.spacing so that all are resampled alike.",
            tuple(doubts),
        )


def odd_extent(evidence: Evidence) -> Iterator[Finding]:
    """Cases whose field of view has another size in mm than that of all others."""
    if doubts := _odd_lengths(
        evidence, "field of view", lambda size, spacing: round(size * spacing, 1)
    ):
        yield Finding(
            "odd-field-of-view",
            f"{counted(len(doubts), 'case')} with a much larger or smaller field of view than all others",
            "Either the voxel size in the header is wrong, or the scan shows another part of the body.",
            "Look at the scan. Correct the voxel size, crop the scan, or remove the case.",
            tuple(doubts),
        )


def _odd_lengths(
    evidence: Evidence, what: str, length: Callable[[int, float], float]
) -> list[Doubt]:
    """Cases in which a length in mm, computed from size and voxel size, is far from that of others along some axis."""
    doubts: dict[str, Doubt] = {}
    for axis, letter in enumerate("XYZ"):
        lengths = {
            name: length(shape[axis], spacing[axis])
            for name, (shape, spacing) in (
                (name, found.grid.along_ras) for name, found in evidence.facts.items()
            )
        }
        logarithms = {name: math.log(value) for name, value in lengths.items()}
        for name in far_out(logarithms, math.log(ODD_FACTOR)):
            usual = median(lengths.values())
            words = f"{what} {lengths[name]:.4g} mm along {letter}, the median is {usual:.4g}"
            doubts.setdefault(name, Doubt(name, words))
    return [*doubts.values()]
