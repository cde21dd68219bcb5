"""Random atlases, to measure what an atlas costs before there is one."""

from __future__ import annotations

import numpy as np
import torch

from monaiseg.atlas.atlas import Atlas, atlas_of
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.template import Template
from monaiseg.atlas.votes import UNIT, Votes
from monaiseg.data import Shape, Spacing

MOST_CELLS = 50_000
"""Largest number of cells; the time to look a position up does not depend on it."""
CLASSES_PER_CELL = 4
"""Classes with votes in a cell; 3.5 on average within the brain, for 144 structures."""


def random_atlas(num_classes: int, shape: Shape, spacing: Spacing) -> tuple[Template, Atlas]:
    """A template and an atlas for a volume of `shape` voxels of `spacing` mm; the seed is fixed."""
    random = np.random.default_rng(0)
    size = max((np.prod(shape) / MOST_CELLS) ** (1 / 3), 1.0)
    x, y, z = (mm * size for mm in spacing)
    a, b, c = (n * mm / 2 for n, mm in zip(shape, spacing, strict=True))
    lattice = Lattice.covering((a, b, c), (x, y, z))
    cells = np.repeat(np.arange(lattice.num_cells), CLASSES_PER_CELL)
    classes = random.integers(num_classes, size=len(cells))
    keys = np.unique(cells * num_classes + classes)
    votes = Votes(keys, random.integers(1, UNIT, size=len(keys)), lattice, num_classes)
    template = Template(torch.zeros(lattice.shape), lattice, torch.ones(3), torch.zeros(0, 2))
    return template, atlas_of(votes)
