"""Profiles: the look of an image channel in a few hundred bytes, without the scale of its intensities.

A *profile* is the distribution of the intensities, as *quantiles*, and a picture of 6 x 6 x 6 *blocks* along the axes
of RAS. Both are measured on intensities that are scaled so that the 0.5th percentile is 0 and the 99.5th is 1: MR
intensities have no unit, and normalisation removes their scale anyway.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHARES = np.array([0.5, *range(5, 100, 5), 99.5])
"""Percentages of the voxels whose quantiles make up the distribution."""
BLOCKS = 6
"""Blocks along each axis."""
MOST_VOXELS = 1 << 20
"""Largest number of voxels that quantiles are computed from; of larger images, every n-th voxel is taken."""


@dataclass(frozen=True)
class ChannelProfile:
    """Look of a channel."""

    quantiles: tuple[float, ...]
    """Intensities at `SHARES`, from 0 to 1; all 0 if the channel is constant."""
    block_bytes: str
    """Mean of each block in 255ths, in the order of X, Y, Z: 216 bytes as base64 text."""

    @classmethod
    def of(cls, values: NDArray[Any], orientation: str) -> ChannelProfile:
        """Profile of a channel (X, Y, Z) whose axes run to `orientation`, such as "LAS"."""
        flat = values.ravel(order="K")
        found = np.percentile(flat[:: -(-flat.size // MOST_VOXELS)].astype(np.float64), SHARES)
        low, high = float(found[0]), float(found[-1])
        if low == high:  # nearly all voxels have one value: measure the others
            low, high = float(values.min()), float(values.max())
        scale = 1 / (high - low) if low < high else 0.0
        quantiles = np.clip((found - low) * scale, 0, 1)
        levels = np.rint(255 * scale * _block_means(values, orientation, low, high))
        return cls(
            tuple(round(float(value), 4) for value in quantiles),
            base64.b64encode(levels.astype(np.uint8).tobytes()).decode(),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ChannelProfile:
        """Profile from the result of `dataclasses.asdict`, read back from JSON.

        Raises:
            ValueError: the record is not that of a profile.
        """
        profile = cls(tuple(map(float, record["quantiles"])), str(record["block_bytes"]))
        in_range = all(0 <= value <= 1 for value in profile.quantiles)
        if len(profile.quantiles) != len(SHARES) or not in_range:
            raise ValueError(f"quantiles {profile.quantiles}")
        if profile.blocks.shape != (BLOCKS,) * 3:
            raise ValueError(f"blocks {profile.blocks.shape}")
        return profile

    @property
    def blocks(self) -> NDArray[np.float64]:
        """Mean of each block (6, 6, 6), from 0 to 1, along X, Y, Z of RAS."""
        levels = np.frombuffer(base64.b64decode(self.block_bytes), np.uint8)
        return levels.reshape((BLOCKS,) * 3) / 255


def is_constant(profile: ChannelProfile) -> bool:
    """Whether a channel holds one value only."""
    return not any(profile.quantiles) and not profile.blocks.any()


def _block_means(values: NDArray[Any], orientation: str, low: float, high: float) -> NDArray[Any]:
    """Mean above `low` of each block (6, 6, 6) along RAS, of intensities that are cut off at `low` and `high`."""
    turn = nib.orientations.axcodes2ornt(orientation)
    turned = nib.orientations.apply_orientation(values, turn)  # a view
    cuts = [[size * place // BLOCKS for place in range(BLOCKS + 1)] for size in turned.shape]
    means = np.empty((BLOCKS,) * 3)
    for at in np.ndindex(means.shape):
        x, y, z = (
            slice(min(cut[n], cut[-1] - 1), max(cut[n + 1], cut[n] + 1))
            for cut, n in zip(cuts, at, strict=True)
        )
        means[at] = np.clip(turned[x, y, z], low, high).mean(dtype=np.float64) - low
    return means
