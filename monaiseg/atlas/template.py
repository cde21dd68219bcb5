"""Templates: the mean image of the training scans, and the registration of new scans to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.registration import (
    affine_map,
    deformation,
    template_table,
)
from monaiseg.atlas.scans import Scan, scan_of
from monaiseg.data import Spacing
from monaiseg.errors import DataError
from monaiseg.portable import (
    AFFINE_BLUR,
    AFFINE_STEPS,
    DEFORMATION_BLUR,
    LEAST_DEVIATION,
    MOST_SIZE,
    STRANGE_DEVIATIONS,
)


@dataclass(frozen=True)
class Template:
    """A mean image in template space, and the parameters for registering scans to it."""

    image: Tensor
    """Standardised intensity of each cell, with float16 precision."""
    lattice: Lattice
    deviation: Tensor
    """Standard deviation (3,) of a typical scan's foreground, in mm."""
    correlations: Tensor
    """Correlations of the training scans (n, 2), as in `Frame`, with templates made without their persons."""

    @property
    def block_mm(self) -> float:
        """Side of the blocks for registration, in mm."""
        return min(self.lattice.cell_mm)

    def scan(self, image: Tensor, spacing: Spacing) -> Scan:
        """The scan of an image (C, X, Y, Z) in RAS orientation, for registration to this template."""
        return scan_of(image, spacing, self.block_mm)

    def place(self, scan: Scan) -> Frame:
        """The frame of a scan by an affine map and a deformation; this takes a second or two."""
        start = self.place_roughly(scan)
        table = template_table(self.image, self.lattice, DEFORMATION_BLUR)
        return replace(start, displacement=deformation(scan, table, self.lattice, start.affine))

    def place_roughly(self, scan: Scan, steps: int = AFFINE_STEPS) -> Frame:
        """The frame of a scan by an affine map alone; with 0 steps it follows from the extent of the foreground."""
        table = template_table(self.image, self.lattice, AFFINE_BLUR)
        affine = affine_map(scan, table, self.lattice, self.deviation, steps)
        frame = Frame(affine, torch.zeros(3, *scan.blocks.shape), scan.geometry, torch.zeros(2))
        positions = frame.positions(scan.geometry.factors)
        regions = (scan.inside, scan.foreground)
        found = [self._correlation(scan.blocks[r], positions[:, r].T) for r in regions]
        return replace(frame, correlations=torch.tensor(found))

    def _correlation(self, blocks: Tensor, positions: Tensor) -> float:
        """Correlation of blocks (N,) with the template at their positions (N, 3); 0 if either has no contrast."""
        seen = self.lattice.read(self.image.reshape(-1, 1), positions)[:, 0]
        if len(blocks) < 2:
            return 0.0
        return float(torch.corrcoef(torch.stack([seen, blocks]).double())[0, 1].nan_to_num())

    @property
    def least_correlations(self) -> Tensor:
        """Least correlations (2,) of a scan that fits: inside the foreground, and with its surroundings."""
        scores = torch.atanh(self.correlations.clamp(-0.999, 0.999))
        spread = scores.std(0, correction=0).clamp(min=LEAST_DEVIATION)
        return torch.tanh(scores.mean(0) - STRANGE_DEVIATIONS * spread)

    def fits(self, frame: Frame) -> bool:
        """Whether a scan resembles the training scans in size and correlation."""
        alike = 1 / MOST_SIZE <= frame.size <= MOST_SIZE
        return alike and bool((frame.correlations >= self.least_correlations).all())

    def check(self) -> None:
        """Raise DataError if the tensors do not belong together, as in a damaged or forged file."""
        self.lattice.check()
        numbers = (self.image, self.deviation, self.correlations)
        fits = (
            tuple(self.image.shape) == self.lattice.shape
            and all(bool(tensor.isfinite().all()) for tensor in numbers)
            and self.deviation.shape == (3,)
            and bool((self.deviation > 0).all())
            and self.correlations.shape[1:] == (2,)
        )
        if not fits:
            raise DataError("the template of its atlas is damaged")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `from_tensors` needs, for a checkpoint."""
        return {
            "shape": torch.tensor(self.lattice.shape),
            "cell_mm": torch.tensor(self.lattice.cell_mm, dtype=torch.float64),
            "image": self.image.half(),
            "deviation": self.deviation,
            "correlations": self.correlations,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Template:
        """The template from the result of `tensors()`."""
        X, Y, Z = tensors["shape"].tolist()
        x, y, z = tensors["cell_mm"].tolist()
        lattice = Lattice((X, Y, Z), (x, y, z))
        image, deviation = tensors["image"].float(), tensors["deviation"]
        return cls(image, lattice, deviation, tensors["correlations"])
