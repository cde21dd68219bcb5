"""Frames: the position of each voxel of a scan in template space, and how well the scan fits the template."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monaiseg.atlas.scans import Blocks
from monaiseg.data import Shape


@dataclass(frozen=True)
class Frame:
    """The map of one scan to template space."""

    affine: Tensor
    """(3, 4), from scan mm to template mm."""
    displacement: Tensor
    """(3, X', Y', Z'), displacement of each block after the affine map, in template mm."""
    blocks: Blocks
    correlations: Tensor
    """(2,), Pearson correlations of the scan's blocks with the template: inside the foreground, and with its
    surroundings. They use the affine map alone, because after a deformation even unsuitable scans look alike."""

    @property
    def size(self) -> float:
        """Length of the body in template space relative to the scan, as a factor."""
        volume = float(torch.linalg.det(self.affine[:, :3]))
        return float(abs(volume) ** (1 / 3))

    def positions(self, factors: Shape = (1, 1, 1)) -> Tensor:
        """Positions (3, X'', Y'', Z'') in template mm of the centres of blocks of `factors` voxels, by default one."""
        wanted = Blocks(self.blocks.shape, self.blocks.spacing, factors)
        field = self.displacement
        for axis in range(3):
            weights = _between(self.blocks.axis_mm(axis), wanted.axis_mm(axis))
            field = torch.tensordot(
                field, weights, dims=([1], [1])
            )  # each axis in turn is the first
        linear = torch.zeros(3, 1, 1, 1) + self.affine[:, 3].view(3, 1, 1, 1)
        for axis in range(3):
            shape = [3, 1, 1, 1]
            shape[axis + 1] = -1
            steps = self.affine[:, axis, None] * wanted.axis_mm(axis)
            linear = linear + steps.view(shape)
        return field.add_(linear)

    def points(self, voxels: Tensor) -> Tensor:
        """Positions (N, 3) in template mm of voxel indices (N, 3), which may be fractional."""
        mm = voxels * torch.tensor(self.blocks.spacing)
        factors = torch.tensor(self.blocks.factors)
        last = torch.tensor(self.blocks.counts) - 1
        places = torch.minimum(((voxels + 0.5) / factors - 0.5).clamp(min=0), last)
        grid = (2 * places / last.clamp(min=1) - 1).flip(-1).view(1, -1, 1, 1, 3)
        moved = torch.nn.functional.grid_sample(
            self.displacement[None], grid, align_corners=True, padding_mode="border"
        )
        return mm @ self.affine[:, :3].T + self.affine[:, 3] + moved.view(3, -1).T


def _between(known: Tensor, wanted: Tensor) -> Tensor:
    """Weights (len(wanted), len(known)) of linear interpolation between ascending points; constant beyond them."""
    weights = torch.zeros(len(wanted), len(known))
    if len(known) == 1:
        return weights + 1
    place = ((wanted - known[0]) / (known[1] - known[0])).clamp(0, len(known) - 1)
    low = place.floor().clamp(max=len(known) - 2)
    rows, first = torch.arange(len(wanted)), low.long()
    weights[rows, first] = 1 - (place - low)
    weights[rows, first + 1] += place - low
    return weights
