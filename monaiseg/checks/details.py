"""Details: what a check measures in the voxels of a case, beyond the facts that preparation stores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.checks.structures import Structure, measure_structures
from monaiseg.data import Grid, VolumeHeader

THUMB = 16
"""Voxels along each axis of the reduced image by which images are compared."""


@dataclass
class CaseDetails:
    """Measurements of one case. Its method `look` fills them in while the files of the case are read."""

    image_dtypes: list[np.dtype[Any]] = field(default_factory=list)
    label_dtype: np.dtype[Any] | None = None
    grid: Grid | None = None
    """Of the first image."""
    reduced: NDArray[np.float32] | None = None
    """The first image, reduced to `THUMB` voxels along each axis of RAS, with mean 0 and length 1."""
    label_digest: str = ""
    """SHA-256 of the label values."""
    structures: dict[int, Structure] = field(default_factory=dict)

    def look(self, what: str, voxels: NDArray[Any], header: VolumeHeader) -> None:
        """Measure an image or a label map."""
        if what == "label map":
            self.label_dtype = header.dtype
            self.label_digest = hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest()
            self.structures = measure_structures(voxels, header.grid)
            return
        self.image_dtypes.append(header.dtype)
        if self.reduced is None:
            self.grid = header.grid
            self.reduced = reduced_image(
                voxels if voxels.ndim == 3 else voxels[..., 0], header.grid
            )


def reduced_image(image: NDArray[Any], grid: Grid) -> NDArray[np.float32]:
    """Means over `THUMB` x `THUMB` x `THUMB` blocks of an image in RAS orientation, with mean 0 and length 1."""
    blocks: NDArray[Any] = image.astype(np.float32)
    for axis in range(3):
        size = blocks.shape[axis]
        edges = np.linspace(0, size, min(THUMB, size) + 1).astype(int)
        sums = np.add.reduceat(blocks, edges[:-1], axis=axis)
        lengths = np.diff(edges).reshape([-1 if other == axis else 1 for other in range(3)])
        blocks = sums / lengths
        if size < THUMB:
            blocks = blocks.take(np.arange(THUMB) * size // THUMB, axis=axis)
    turned = nib.orientations.apply_orientation(blocks, nib.io_orientation(grid.array))
    flat = turned.ravel() - turned.mean()
    length = float(np.linalg.norm(flat))
    return np.asarray(flat / length if length else flat, dtype=np.float32)
