"""Scans: images with standardised intensities, coarse enough to be registered in a second.

Scan coordinates are millimetres from the centre of the first voxel: x to the right, y to the front, z up. A *block* is
a box of voxels that registration treats as one. No length is specific to human heads: all sizes follow from the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from monaiseg.data import Shape, Spacing
from monaiseg.portable import FLAT_SHARE, INSIDE, MOST_DEVIATIONS, ROUNDING


@dataclass(frozen=True)
class Extent:
    """Mean position and standard deviation of the foreground of a scan along x, y, z, both (3,), in scan mm."""

    centre: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Scan:
    """The form of an image that registration uses."""

    blocks: Tensor
    """Mean standardised intensity of each block, (X', Y', Z')."""
    foreground: Tensor
    """Blocks that contain or adjoin foreground, bool (X', Y', Z'): those that registration uses."""
    inside: Tensor
    """Blocks entirely in the foreground. They serve to judge the fit, because the outlines of all heads are alike."""
    extent: Extent
    geometry: Blocks


@dataclass(frozen=True)
class Blocks:
    """A volume divided into blocks."""

    shape: Shape
    """Shape of the volume in voxels."""
    spacing: Spacing
    """Voxel size of the volume in mm."""
    factors: Shape
    """Voxels of a block along X, Y, Z; the last blocks may be partly outside the volume."""

    @classmethod
    def near(cls, shape: Shape, spacing: Spacing, size_mm: float) -> Blocks:
        """Blocks with sides of about `size_mm`, and at least one voxel.

        >>> Blocks.near((100, 100, 10), (1.5, 1.5, 10.0), 6.0).factors
        (4, 4, 1)
        """
        x, y, z = (max(1, round(size_mm / mm)) for mm in spacing)
        return cls(shape, spacing, (x, y, z))

    @property
    def counts(self) -> Shape:
        """Number of blocks along X, Y, Z."""
        x, y, z = (-(-n // f) for n, f in zip(self.shape, self.factors, strict=True))
        return x, y, z

    def axis_mm(self, axis: int) -> Tensor:
        """Centres of the blocks along an axis, in scan mm."""
        factor = self.factors[axis]
        return (torch.arange(self.counts[axis]) * factor + (factor - 1) / 2) * self.spacing[axis]

    def centres(self) -> Tensor:
        """Centres of the blocks (X', Y', Z', 3) in scan mm."""
        axes = [self.axis_mm(axis) for axis in range(3)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def means(self, volume: Tensor) -> Tensor:
        """Mean (X', Y', Z') of each block of a volume (X, Y, Z); border voxels are repeated beyond the border."""
        padding = [c * f - n for c, f, n in zip(self.counts, self.factors, self.shape, strict=True)]
        ends = [0, padding[2], 0, padding[1], 0, padding[0]]
        padded = F.pad(volume[None, None].float(), ends, mode="replicate")
        return F.avg_pool3d(padded, self.factors)[0, 0]


def scan_of(image: Tensor, spacing: Spacing, block_mm: float) -> Scan:
    """The scan of an image (C, X, Y, Z) in RAS orientation, with blocks of about `block_mm`."""
    X, Y, Z = image.shape[1:]
    foreground = foreground_of(image)
    geometry = Blocks.near((X, Y, Z), spacing, block_mm)
    blocks = geometry.means(standardised(image, foreground))
    share = geometry.means(foreground)
    beside = F.max_pool3d((share > 0).float()[None, None], 3, 1, 1)[0, 0] > 0
    return Scan(blocks, beside, share > INSIDE, extent_of(foreground, spacing), geometry)


def foreground_of(image: Tensor) -> Tensor:
    """Voxels (X, Y, Z) of an image (C, X, Y, Z) that are not cut away; all voxels if there is no flat background."""
    lowest, highest = (end[:, None, None, None] for end in image.flatten(1).aminmax(dim=1))
    above = (image > lowest + ROUNDING * (highest - lowest)).any(0)
    share = 1 - above.float().mean()
    return above if FLAT_SHARE <= share < 1 else torch.ones_like(above)


def standardised(image: Tensor, foreground: Tensor) -> Tensor:
    """Mean (X, Y, Z) over the channels of an image (C, X, Y, Z), each in standard deviations of its foreground."""
    inside = image.float()[:, foreground]
    mean, deviation = inside.mean(1), inside.std(1).clamp(min=1e-6)
    scores = (image - mean[:, None, None, None]) / deviation[:, None, None, None]
    return scores.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).mean(0)


def extent_of(foreground: Tensor, spacing: Spacing) -> Extent:
    """Extent of a foreground (X, Y, Z); the standard deviation along an axis is at least a third of a voxel."""
    means, deviations = [], []
    for axis, mm in enumerate(spacing):
        counts = foreground.sum(tuple(a for a in range(3) if a != axis)).double()
        places = torch.arange(len(counts), dtype=torch.float64) * mm
        mean = (counts * places).sum() / counts.sum()
        deviation = ((counts * (places - mean) ** 2).sum() / counts.sum()).sqrt()
        means.append(mean)
        deviations.append(deviation.clamp(min=mm / 3))
    return Extent(torch.stack(means).float(), torch.stack(deviations).float())
