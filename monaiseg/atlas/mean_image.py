"""Mean images: templates from training scans; each scan is then registered to a template without it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice, blurred
from monaiseg.atlas.parallel import mapped
from monaiseg.atlas.scans import Extent, Scan
from monaiseg.atlas.template import Template

CELLS_PER_DEVIATION = 8
"""Template cells per standard deviation of the foreground: a cell is 4 mm for a human brain, 0.3 mm for a mouse's."""
MARGIN = 1.05
"""Extent of the template relative to the largest extent of a training scan."""
AFFINE_ROUNDS = 2
"""Number of rounds that register the scans by affine maps and then recompute the template."""
DEFORMED_ROUNDS = 1
"""Number of further rounds with affine map and deformation, before each scan is registered without its own image."""
FILL_BLURS = (0.7, 4.0)
"""Sigmas in cells; the second fills cells that the first leaves empty."""
LEAST_WEIGHT = 0.02
"""Mean number of blocks per scan that a cell must hold to have its own mean."""


@dataclass(frozen=True)
class TrainingFrames:
    """A template, and the frame of each training scan in a template made without its person."""

    template: Template
    frames: tuple[Frame, ...]


def typical_deviation(extents: Iterable[Extent]) -> Tensor:
    """Median over scans of the standard deviation (3,) of the foreground, in mm."""
    return torch.stack([extent.deviation for extent in extents]).median(0).values


def block_size(deviation: Tensor) -> float:
    """Side of the blocks in mm for scans whose foreground has this standard deviation (3,).

    >>> round(block_size(torch.tensor([31.0, 38.0, 27.0])), 1)
    4.0
    """
    return float(deviation.log().mean().exp()) / CELLS_PER_DEVIATION


def train_template(
    scans: Sequence[Scan], persons: Sequence[str], deviation: Tensor, *, symmetric: bool
) -> TrainingFrames:
    """The template of training scans, and their frames.

    Args:
        scans: scans with blocks of `block_size(deviation)`.
        persons: the person of each scan; a scan is never registered to a template with scans of the same person.
        deviation: standard deviation (3,) of a typical foreground, in mm.
        symmetric: whether the mirror image of each scan counts as a scan.
    """
    lattice = _lattice(scans, deviation)
    frames = [_start(scan, lattice, deviation) for scan in scans]
    for deforms in [False] * AFFINE_ROUNDS + [True] * DEFORMED_ROUNDS:
        template = _Means(scans, frames, lattice, deviation, symmetric).template(())
        frames = mapped(template.place if deforms else template.place_roughly, scans)
    return _without_own(scans, persons, _Means(scans, frames, lattice, deviation, symmetric))


def _without_own(scans: Sequence[Scan], persons: Sequence[str], means: _Means) -> TrainingFrames:
    """Frames of the training scans, computed as for new scans."""

    def placed(person: str) -> dict[int, Frame]:
        own = [i for i, name in enumerate(persons) if name == person]
        template = means.template(own if len(own) < len(scans) else ())
        return {i: template.place(scans[i]) for i in own}

    by_index = {i: f for part in mapped(placed, dict.fromkeys(persons)) for i, f in part.items()}
    frames = tuple(by_index[i] for i in range(len(scans)))
    correlations = torch.stack([frame.correlations for frame in frames])
    return TrainingFrames(means.template((), correlations), frames)


def _lattice(scans: Sequence[Scan], deviation: Tensor) -> Lattice:
    """Lattice that covers the foregrounds, with cells like the blocks of the scans and no thinner than their slices."""
    size = block_size(deviation)
    reach, cell_mm = [], []
    for axis in range(3):
        furthest = []
        for scan in scans:
            others = tuple(a for a in range(3) if a != axis)
            places = scan.geometry.axis_mm(axis)[scan.foreground.any(others[1]).any(others[0])]
            extent = (places - scan.extent.centre[axis]) / scan.extent.deviation[axis]
            furthest.append(float(extent.abs().max() * deviation[axis]))
        reach.append(MARGIN * max(furthest))
        cell_mm.append(max(size, statistics.median(scan.geometry.spacing[axis] for scan in scans)))
    x, y, z = reach
    return Lattice.covering((x, y, z), (cell_mm[0], cell_mm[1], cell_mm[2]))


def _start(scan: Scan, lattice: Lattice, deviation: Tensor) -> Frame:
    """The frame from the extent of the foreground alone."""
    empty = Template(torch.zeros(lattice.shape), lattice, deviation, torch.zeros(0, 2))
    return empty.place_roughly(scan, steps=0)


class _Means:
    """Sums of the training scans in template space, which give templates without some of the scans."""

    def __init__(
        self,
        scans: Sequence[Scan],
        frames: Sequence[Frame],
        lattice: Lattice,
        deviation: Tensor,
        symmetric: bool,
    ) -> None:
        self.lattice, self.deviation = lattice, deviation
        self.parts = [
            self._part(scan, frame, symmetric) for scan, frame in zip(scans, frames, strict=True)
        ]
        self.total = torch.stack(self.parts).sum(0)

    def _part(self, scan: Scan, frame: Frame, symmetric: bool) -> Tensor:
        """Sum of intensities, and of weights, in each cell: (2, cells along x, y, z)."""
        positions = frame.positions(scan.geometry.factors).view(3, -1).T
        part = torch.stack(self.lattice.spread(scan.blocks.flatten(), positions))
        return part + part.flip(1) if symmetric else part

    def template(self, without: Sequence[int], correlations: Tensor | None = None) -> Template:
        """The template of all scans except those with the given indices."""
        rest = self.total - sum(self.parts[i] for i in without)
        image = _filled(rest, len(self.parts) - len(without))
        image = image.half().float()  # as in the file
        known = torch.zeros(0, 2) if correlations is None else correlations
        return Template(image, self.lattice, self.deviation, known)


def _filled(sums: Tensor, num_scans: int) -> Tensor:
    """Mean of each cell from sums and weights (2, X, Y, Z); empty cells are filled from their neighbours."""
    image = torch.full_like(sums[0], float("nan"))
    for sigma in FILL_BLURS:
        total, weight = blurred(sums, sigma)
        mean = torch.where(weight > LEAST_WEIGHT * num_scans, total / weight, torch.nan)
        image = torch.where(image.isnan(), mean, image)
    return image.nan_to_num(nan=float(image[~image.isnan()].min()))
