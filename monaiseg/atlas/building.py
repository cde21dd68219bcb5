"""Building: template, frames and atlas from training cases.

A *person* may have several scans. The frame and the atlas of a training case are computed only from the scans of other
persons, so a training case gets the same kind of input as a new scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monaiseg.atlas.atlas import Atlas, atlas_of
from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.mean_image import block_size, train_template, typical_deviation
from monaiseg.atlas.parallel import mapped
from monaiseg.atlas.scans import Scan, extent_of, foreground_of, scan_of
from monaiseg.atlas.template import Template
from monaiseg.atlas.votes import Votes, added, count_votes, mirrored, smoothed, taken_back
from monaiseg.data import Spacing
from monaiseg.errors import DataError, counted

SCANS_FOR_SIZE = 5
"""Number of scans that determine the size of a typical foreground."""
CELLS_PER_BLOCK = 2
"""Number of atlas cells along each side of a registration block."""


@dataclass(frozen=True)
class LabelledScan:
    """A training case on its own grid in RAS orientation."""

    image: Tensor
    """Intensities (C, X, Y, Z)."""
    classes: Tensor
    """Class indices (X, Y, Z)."""
    spacing: Spacing


@dataclass(frozen=True)
class TrainedAtlas:
    """A template, and the frames and votes of the training cases."""

    template: Template
    frames: tuple[Frame, ...]
    """Frame of each case, from a template without its person."""
    persons: tuple[str, ...]
    votes_by_person: dict[str, Votes]
    """Votes of each person, mirrored votes included, not smoothed."""
    total: Votes
    """Votes of all persons, smoothed."""

    def atlas(self) -> Atlas:
        """The atlas for new scans."""
        return atlas_of(self.total)

    def atlases_without(self, persons: Sequence[str]) -> dict[str, Atlas]:
        """`atlas_without` of several persons."""
        return dict(zip(persons, mapped(self.atlas_without, persons), strict=True))

    def atlas_without(self, person: str) -> Atlas:
        """The atlas for the training cases of a person, from the votes of all others.

        Raises:
            DataError: there are no other persons.
        """
        if len(self.votes_by_person) < 2:
            raise DataError(
                f"the only person in {counted(len(self.persons), 'case')} is {person!r}; an atlas without this person needs cases of another"
            )
        return atlas_of(taken_back(self.total, smoothed(self.votes_by_person[person])))


def train_atlas(
    cases: Sequence[LabelledScan],
    persons: Sequence[str],
    num_classes: int,
    partner_classes: Sequence[int] | None,
) -> TrainedAtlas:
    """Template, frames and votes of training cases.

    Args:
        cases: the cases. The sequence may read them from disk on access: each is accessed twice, the first few once
            more.
        persons: the person of each case.
        num_classes: K.
        partner_classes: for each class its partner on the other side (`LabelTable.partner_classes`); None if mirror
            images are not plausible anatomy.
    """
    symmetric = partner_classes is not None
    deviation = _typical_size(cases)
    size = block_size(deviation)

    def scan(index: int) -> Scan:
        case = cases[index]
        return scan_of(case.image, case.spacing, size)

    scans = mapped(scan, range(len(cases)))
    trained = train_template(scans, persons, deviation, symmetric=symmetric)
    lattice = _finer(trained.template.lattice, [case.geometry.spacing for case in scans])
    by_person: dict[str, list[Votes]] = {person: [] for person in persons}

    def votes_of(index: int) -> Votes:
        return _votes(cases[index], trained.frames[index], lattice, num_classes)

    for index, votes in enumerate(mapped(votes_of, range(len(cases)))):
        by_person[persons[index]] += [votes]
        if partner_classes is not None:
            by_person[persons[index]] += [mirrored(votes, partner_classes)]
    own = {person: added(votes) for person, votes in by_person.items()}
    total = smoothed(added(list(own.values())))
    return TrainedAtlas(trained.template, trained.frames, tuple(persons), own, total)


def _typical_size(cases: Sequence[LabelledScan]) -> Tensor:
    few = [cases[index] for index in range(min(SCANS_FOR_SIZE, len(cases)))]
    return typical_deviation(extent_of(foreground_of(case.image), case.spacing) for case in few)


def _finer(lattice: Lattice, spacings: Sequence[Spacing]) -> Lattice:
    """Lattice of the atlas: cells half as long as those of the template, but not finer than typical voxels."""
    typical = torch.tensor(spacings, dtype=torch.float64).median(0).values.tolist()
    x, y, z = (
        max(cell / CELLS_PER_BLOCK, voxel)
        for cell, voxel in zip(lattice.cell_mm, typical, strict=True)
    )
    a, b, c = lattice.half_extent_mm.tolist()
    return Lattice.covering((a, b, c), (x, y, z))


def _votes(case: LabelledScan, frame: Frame, lattice: Lattice, num_classes: int) -> Votes:
    X, Y, Z = case.classes.shape
    x, y, z = (
        max(int(cell / voxel + 0.1), 1)
        for cell, voxel in zip(lattice.cell_mm, case.spacing, strict=True)
    )  # voxels of a block vote in the cell of its centre, which takes a third of the time
    blocks = frame.positions((x, y, z))
    cells = lattice.cells(blocks.flatten(1).T).view(blocks.shape[1:])
    for axis, step in enumerate((x, y, z)):
        cells = cells.repeat_interleave(step, axis)
    cells = cells[:X, :Y, :Z].flatten()
    return count_votes(case.classes.flatten().numpy(), cells.numpy(), lattice, num_classes)
