"""Templates: the mean image of the training scans, and how new scans find their place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.registration import (
    AFFINE_BLUR,
    AFFINE_STEPS,
    DEFORMATION_BLUR,
    affine_map,
    deformation,
    template_table,
)
from monaiseg.atlas.scans import Scan, scan_of
from monaiseg.data import Spacing

STRANGE_DEVIATIONS = 4.0
"""A scan does not fit if its correlation, by Fisher's z, lies so many standard deviations below the training scans'."""
LEAST_DEVIATION = 0.1
"""Of Fisher's z among training scans: few that are alike say little about others."""
MOST_SIZE = 2.0
"""A scan whose body is so many times larger or smaller than a typical one does not fit."""


@dataclass(frozen=True)
class Template:
    """A mean image in template space, and what is needed to place scans in it."""

    image: Tensor
    """Standardised intensity of each cell, no finer than float16 holds it."""
    lattice: Lattice
    deviation: Tensor
    """Standard deviation (3,) of a typical scan's foreground, in mm."""
    correlations: Tensor
    """Of the training scans (n, 2), as `Frame` has them, with templates made without their persons."""

    @property
    def block_mm(self) -> float:
        """Side of the blocks by which scans are registered, in mm."""
        return min(self.lattice.cell_mm)

    def scan(self, image: Tensor, spacing: Spacing) -> Scan:
        """What registration to this template sees of an image (C, X, Y, Z) in RAS."""
        return scan_of(image, spacing, self.block_mm)

    def place(self, scan: Scan) -> Frame:
        """The frame of a scan, by an affine map and a deformation: a second or two."""
        start = self.place_roughly(scan)
        table = template_table(self.image, self.lattice, DEFORMATION_BLUR)
        return replace(start, displacement=deformation(scan, table, self.lattice, start.affine))

    def place_roughly(self, scan: Scan, steps: int = AFFINE_STEPS) -> Frame:
        """The frame of a scan by an affine map alone; without steps it follows from the extent of the foreground."""
        table = template_table(self.image, self.lattice, AFFINE_BLUR)
        affine = affine_map(scan, table, self.lattice, self.deviation, steps)
        frame = Frame(affine, torch.zeros(3, *scan.blocks.shape), scan.geometry, torch.zeros(2))
        positions = frame.positions(scan.geometry.factors)
        regions = (scan.inside, scan.foreground)
        found = [self._correlation(scan.blocks[r], positions[:, r].T) for r in regions]
        return replace(frame, correlations=torch.tensor(found))

    def _correlation(self, blocks: Tensor, positions: Tensor) -> float:
        """Of blocks (N,) with the template at their positions (N, 3); 0 where one of them has no contrast."""
        seen = self.lattice.read(self.image.reshape(-1, 1), positions)[:, 0]
        if len(blocks) < 2:
            return 0.0
        return float(torch.corrcoef(torch.stack([seen, blocks]).double())[0, 1].nan_to_num())

    @property
    def least_correlations(self) -> Tensor:
        """Below one of them (2,) a scan does not fit: inside the foreground, and with what lies around it."""
        scores = torch.atanh(self.correlations.clamp(-0.999, 0.999))
        spread = scores.std(0, correction=0).clamp(min=LEAST_DEVIATION)
        return torch.tanh(scores.mean(0) - STRANGE_DEVIATIONS * spread)

    def fits(self, frame: Frame) -> bool:
        """Whether a scan looks like the training scans, as far as its size and correlation say."""
        alike = 1 / MOST_SIZE <= frame.size <= MOST_SIZE
        return alike and bool((frame.correlations >= self.least_correlations).all())

    def tensors(self) -> dict[str, Tensor]:
        """All that `from_tensors` needs, for a checkpoint."""
        return {
            "shape": torch.tensor(self.lattice.shape),
            "cell_mm": torch.tensor(self.lattice.cell_mm, dtype=torch.float64),
            "image": self.image.half(),
            "deviation": self.deviation,
            "correlations": self.correlations,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Template:
        """The template of `tensors()`."""
        X, Y, Z = tensors["shape"].tolist()
        x, y, z = tensors["cell_mm"].tolist()
        lattice = Lattice((X, Y, Z), (x, y, z))
        image, deviation = tensors["image"].float(), tensors["deviation"]
        return cls(image, lattice, deviation, tensors["correlations"])
