"""Cases of 60 voxels, small enough to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import write_image, write_label_map

SHAPE = (3, 4, 5)
GRID = Grid.of(SHAPE, np.diag([1, 1, 2, 1]))
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1, 1:3, 1:4] = 1  # six voxels
LABEL[2, 2, 2] = 4


def nifti_bytes(
    voxels: NDArray[Any], affine: Any = GRID.array, version: int = 1, **fields: Any
) -> bytes:
    """A NIfTI file's bytes, with header fields overwritten afterwards as no library would write them."""
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(voxels, None, dtype=voxels.dtype)
    image.header.set_sform(affine, 2)
    image.header.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    raw = bytearray(image.to_bytes())
    dtype = nib.nifti1.header_dtype if version == 1 else nib.nifti2.header_dtype
    header = np.frombuffer(raw, dtype, 1)  # shares the bytes
    for name, value in fields.items():
        header[name][0] = value
    return bytes(raw)


def write_case(
    image: Path, label: Path | None = None, *, seed: int = 0, grid: Grid = GRID, values: Any = LABEL
) -> Case:
    """A case of 60 voxels on disk."""
    for path in (image, *([label] if label else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, np.random.default_rng(seed).normal(size=SHAPE), GRID)
    if label:
        write_label_map(label, values, grid)
    return Case(image.name.removesuffix(".nii.gz"), (image,), label)


def write_empty(*paths: Path) -> None:
    """Files of the right names with nothing in them: finding opens none."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
