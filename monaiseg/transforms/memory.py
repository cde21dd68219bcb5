"""Memory: what it takes to bring a case from its files to the network grid, estimated from its shape."""

from __future__ import annotations

import math

from monaiseg.data import SAME_SPACING, Grid
from monaiseg.settings import Settings
from monaiseg.transforms.network_grid import sampled_shape, sampled_spacing, target_shape

PREPARING_BYTES, RESAMPLING_BYTES = 30, 75
"""Memory per voxel of the network grid and channel, without and with resampling, which MONAI does in float64. Measured
at 192 x 224 x 192 voxels: 28 and 74."""
IMAGE_BYTES = 20
"""The same without resampling and without a label map. Measured: 17 to 19."""
READING_BYTES = 28
"""Memory per voxel of the file and channel if it is resampled to fewer voxels. Measured: 24 to 28."""
CERTAIN = 0.8
"""Share of the estimate that is certainly taken: a case is refused if there is less memory."""


def preparing_bytes(grid: Grid, settings: Settings, *, labelled: bool = True) -> int:
    """Memory that it takes to bring a case from files on `grid` to the network grid, with its label map or without."""
    shape, spacing = grid.along_ras
    wanted = sampled_spacing(grid, settings)
    is_resampled = settings.image_shape is not None or any(
        abs(a - b) > SAME_SPACING for a, b in zip(spacing, wanted, strict=True)
    )
    if is_resampled:  # padding afterwards takes less
        resampled = RESAMPLING_BYTES * math.prod(sampled_shape(grid, settings))
        return settings.dataset.num_channels * max(resampled, READING_BYTES * math.prod(shape))
    plain = PREPARING_BYTES if labelled else IMAGE_BYTES
    return settings.dataset.num_channels * plain * math.prod(target_shape(grid, settings))
