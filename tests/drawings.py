"""Cases of 60 voxels, small enough to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from monaiseg.cases import Case
from monaiseg.geometry import Grid
from monaiseg.volumes import write_image, write_label_map

SHAPE = (3, 4, 5)
GRID = Grid.of(SHAPE, np.diag([1, 1, 2, 1]))
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1, 1:3, 1:4] = 1  # six voxels
LABEL[2, 2, 2] = 4


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
