"""Scans: images made alike in brightness and coarse enough to be registered in a second.

Scan coordinates are millimetres from the centre of the first voxel: x to the right, y to the front, z up. A *block* is a
box of voxels that counts as one in registration. Nothing here is a length for human heads: sizes follow the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from monaiseg.data import Shape, Spacing

FLAT_SHARE = 0.1
"""From this share of voxels with the lowest value on, they are a background that was cut away, and not air with noise."""
MOST_DEVIATIONS = 3.0
"""Intensities are cut off so many standard deviations from their mean: vessels, fat and artefacts do not steer."""


@dataclass(frozen=True)
class Extent:
    """Where the foreground of a scan lies: its mean and its standard deviation along x, y, z, both (3,), in scan mm."""

    centre: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Scan:
    """What registration sees of an image."""

    blocks: Tensor
    """Mean standardised intensity of each block, (X', Y', Z')."""
    foreground: Tensor
    """Blocks with or beside foreground, bool (X', Y', Z'): what registration looks at."""
    inside: Tensor
    """Blocks of nothing but foreground: what the fit is judged by, for outlines are alike in all heads."""
    extent: Extent
    geometry: Blocks


@dataclass(frozen=True)
class Blocks:
    """A volume cut into blocks."""

    shape: Shape
    """Of the volume, in voxels."""
    spacing: Spacing
    """Of the volume, in mm."""
    factors: Shape
    """Voxels of a block along X, Y, Z; the last blocks may lie partly outside."""

    @classmethod
    def near(cls, shape: Shape, spacing: Spacing, size_mm: float) -> Blocks:
        """Blocks whose sides are about `size_mm`, and at least a voxel.

        >>> Blocks.near((100, 100, 10), (1.5, 1.5, 10.0), 6.0).factors
        (4, 4, 1)
        """
        x, y, z = (max(1, round(size_mm / mm)) for mm in spacing)
        return cls(shape, spacing, (x, y, z))

    @property
    def counts(self) -> Shape:
        """Blocks along X, Y, Z."""
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
        """Mean (X', Y', Z') of each block of a volume (X, Y, Z); beyond its border its outermost voxels go on."""
        padding = [c * f - n for c, f, n in zip(self.counts, self.factors, self.shape, strict=True)]
        ends = [0, padding[2], 0, padding[1], 0, padding[0]]
        padded = F.pad(volume[None, None].float(), ends, mode="replicate")
        return F.avg_pool3d(padded, self.factors)[0, 0]


def scan_of(image: Tensor, spacing: Spacing, block_mm: float) -> Scan:
    """What registration sees of an image (C, X, Y, Z) in RAS, with blocks of about `block_mm`."""
    X, Y, Z = image.shape[1:]
    foreground = foreground_of(image)
    geometry = Blocks.near((X, Y, Z), spacing, block_mm)
    blocks = geometry.means(standardised(image, foreground))
    share = geometry.means(foreground)
    beside = F.max_pool3d((share > 0).float()[None, None], 3, 1, 1)[0, 0] > 0
    return Scan(blocks, beside, share > 0.999, extent_of(foreground, spacing), geometry)


def foreground_of(image: Tensor) -> Tensor:
    """Voxels (X, Y, Z) of an image (C, X, Y, Z) that are not cut away: all of them in a scan without flat background."""
    above = (image > image.flatten(1).amin(1)[:, None, None, None]).any(0)
    share = 1 - above.float().mean()
    return above if FLAT_SHARE <= share < 1 else torch.ones_like(above)


def standardised(image: Tensor, foreground: Tensor) -> Tensor:
    """Mean (X, Y, Z) of the channels of an image (C, X, Y, Z), each in standard deviations of its foreground."""
    inside = image.float()[:, foreground]
    mean, deviation = inside.mean(1), inside.std(1).clamp(min=1e-6)
    scores = (image - mean[:, None, None, None]) / deviation[:, None, None, None]
    return scores.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).mean(0)


def extent_of(foreground: Tensor, spacing: Spacing) -> Extent:
    """Where a foreground (X, Y, Z) lies; no axis has a deviation below a third of its voxel."""
    means, deviations = [], []
    for axis, mm in enumerate(spacing):
        counts = foreground.sum(tuple(a for a in range(3) if a != axis)).double()
        places = torch.arange(len(counts), dtype=torch.float64) * mm
        mean = (counts * places).sum() / counts.sum()
        deviation = ((counts * (places - mean) ** 2).sum() / counts.sum()).sqrt()
        means.append(mean)
        deviations.append(deviation.clamp(min=mm / 3))
    return Extent(torch.stack(means).float(), torch.stack(deviations).float())
