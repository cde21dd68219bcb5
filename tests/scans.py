"""A scan of 120 voxels on an oblique grid, as the bytes of its file."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from drawings import nifti_bytes

SHAPE = (4, 5, 6)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1, 1.5, 2.0]), [-10, 20, 30]
)


def nifti(voxels: Any = VOXELS, affine: Any = OBLIQUE, version: int = 1, **fields: Any) -> bytes:
    return nifti_bytes(voxels, affine, version, **fields)
