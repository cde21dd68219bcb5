"""Templates: the mean image of the training scans, and how new scans find their place in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.registration import (
    AFFINE_BLUR,
    DEFORMATION_BLUR,
    affine_map,
    deformation,
    template_table,
)
from monaiseg.atlas.scans import Scan, scan_of
from monaiseg.data import Spacing

CELLS_PER_DEVIATION = 8
"""Cells of the template in a standard deviation of the foreground: 4 mm for a human brain, 0.3 mm for a mouse's."""
MARGIN = 1.15
"""By how much the template reaches further than the furthest training scan, as a factor."""
FILL_BLUR = 0.7
"""Cells by which the mean image is blurred, so that cells between blocks are filled."""
STRANGE_DEVIATIONS = 4.0
"""A scan does not fit if its correlation, by Fisher's z, lies so many standard deviations below the training scans'."""
LEAST_DEVIATION = 0.1
"""Of Fisher's z among training scans: few that are alike say little about others."""


@dataclass(frozen=True)
class Template:
    """A mean image in template space, and what is needed to place scans in it."""

    image: Tensor
    """Standardised intensity of each cell."""
    lattice: Lattice
    deviation: Tensor
    """Standard deviation (3,) of a typical scan's foreground, in mm."""
    correlations: Tensor
    """Of each training scan with the template that was made without it and its person."""

    @property
    def block_mm(self) -> float:
        """Side of the blocks by which scans are registered, in mm."""
        return min(self.lattice.cell_mm)

    def scan(self, image: Tensor, spacing: Spacing) -> Scan:
        """What registration to this template sees of an image (C, X, Y, Z) in RAS."""
        return scan_of(image, spacing, self.block_mm)

    def place(self, scan: Scan) -> Frame:
        """The frame of a scan, by an affine map and a deformation: a second or two."""
        table = template_table(self.image, self.lattice, AFFINE_BLUR)
        affine = affine_map(scan, table, self.lattice, self.deviation)
        table = template_table(self.image, self.lattice, DEFORMATION_BLUR)
        displacement = deformation(scan, table, self.lattice, affine)
        return self._frame(scan, affine, displacement)

    def place_roughly(self, scan: Scan, steps: int) -> Frame:
        """The frame of a scan by an affine map alone, from so many steps; 0 compares the foregrounds' extents alone."""
        table = template_table(self.image, self.lattice, AFFINE_BLUR)
        affine = affine_map(scan, table, self.lattice, self.deviation, steps)
        return self._frame(scan, affine, torch.zeros(3, *scan.blocks.shape))

    def _frame(self, scan: Scan, affine: Tensor, displacement: Tensor) -> Frame:
        frame = Frame(affine, displacement, scan.geometry, math.nan)
        return replace(frame, correlation=self._correlation(scan, frame))

    def _correlation(self, scan: Scan, frame: Frame) -> float:
        inside = scan.foreground
        positions = frame.positions(scan.geometry.factors)[:, inside].T
        seen = self.lattice.read(self.image.reshape(-1, 1), positions)[:, 0]
        both = torch.stack([seen, scan.blocks[inside]]).double()
        return float(torch.corrcoef(both)[0, 1].nan_to_num())

    @property
    def least_correlation(self) -> float:
        """Below it a scan does not fit."""
        scores = torch.atanh(self.correlations.clamp(-0.999, 0.999).double())
        spread = max(float(scores.std(correction=0)), LEAST_DEVIATION)
        return math.tanh(float(scores.mean()) - STRANGE_DEVIATIONS * spread)

    def fits(self, frame: Frame) -> bool:
        """Whether a scan looks like the training scans, as far as its correlation says."""
        return frame.correlation >= self.least_correlation
