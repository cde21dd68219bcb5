"""Lattices: the cells of template space, and volumes on them.

*Template space* is the common space to which scans of one kind are registered. Its coordinates are template
millimetres: x to the right, y to the front, z up, with the origin in the middle of the lattice. A *lattice* divides it
into cells.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from monaiseg.data import Shape, Spacing
from monaiseg.errors import DataError
from monaiseg.portable import MOST_CELLS


@dataclass(frozen=True)
class Lattice:
    """Cells of template space: their number along x, y, z, and their size in mm."""

    shape: Shape
    cell_mm: Spacing

    @classmethod
    def covering(cls, half_extent_mm: Spacing, cell_mm: Spacing) -> Lattice:
        """The smallest lattice centred on the origin whose cell centres reach `half_extent_mm` along x, y, z.

        >>> Lattice.covering((10.0, 12.0, 3.0), (2.0, 2.0, 4.0)).shape
        (11, 13, 3)
        """
        x, y, z = (
            2 * math.ceil(half / cell) + 1
            for half, cell in zip(half_extent_mm, cell_mm, strict=True)
        )
        return cls((x, y, z), cell_mm)

    def check(self) -> None:
        """Raise DataError if it has no cells, too many, or cells without a size, as in a damaged or forged file."""
        sizes = all(0 < mm < math.inf for mm in self.cell_mm)
        if min(self.shape) < 1 or self.num_cells > MOST_CELLS or not sizes:
            raise DataError(
                f"its atlas is damaged: {self.shape} cells of {self.cell_mm} mm, where 1 to {MOST_CELLS} cells are possible"
            )

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def half_extent_mm(self) -> Tensor:
        """Distance (3,) from the origin to the centre of the outermost cell."""
        cpu = torch.device("cpu")
        return self._ends(1, cpu) / 2 * torch.tensor(self.cell_mm, device=cpu)

    def indices(self, positions: Tensor) -> Tensor:
        """Fractional indices (N, 3), in cells from the centre of the first cell, of positions (N, 3) in template mm.

        A position outside the lattice has the index of the nearest point on its border.
        """
        where = positions.device
        cell_mm = torch.tensor(self.cell_mm, device=where)
        places = (positions + self.half_extent_mm.to(where)) / cell_mm
        return torch.minimum(places.clamp(min=0), self._ends(1, where))

    def cells(self, positions: Tensor) -> Tensor:
        """Flat index (N,) of the cell that contains each position (N, 3); the last axis varies fastest."""
        x, y, z = self.indices(positions).round().long().unbind(1)
        _, Y, Z = self.shape
        return (x * Y + y) * Z + z

    def corners(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The 8 cells around each position (N, 3), and their trilinear weights: both (8, N)."""
        _, Y, Z = self.shape
        places = self.indices(positions)
        low = torch.minimum(places.floor(), self._ends(2, positions.device).clamp(min=0))
        share = (places - low).unbind(1)
        x, y, z = low.long().unbind(1)
        first = (x * Y + y) * Z + z
        steps = [
            stride if n > 1 else 0 for n, stride in zip(self.shape, (Y * Z, Z, 1), strict=True)
        ]
        cells, weights = [], []
        for corner in range(8):
            sides = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
            cells.append(first + sum(side * step for side, step in zip(sides, steps, strict=True)))
            x, y, z = (s if side else 1 - s for side, s in zip(sides, share, strict=True))
            weights.append(x * y * z)
        return torch.stack(cells), torch.stack(weights)

    def read(self, table: Tensor, positions: Tensor) -> Tensor:
        """Values (N, C) of a table (cells, C) at positions (N, 3), by trilinear interpolation."""
        last = self._ends(1, positions.device).clamp(min=1)
        # The coordinates of `grid_sample` run from -1 to 1, last axis first.
        grid = (2 * self.indices(positions) / last - 1).flip(-1)
        volume = table.T.reshape(1, -1, *self.shape)
        read = F.grid_sample(
            volume, grid.view(1, -1, 1, 1, 3), padding_mode="border", align_corners=True
        )
        return read.view(table.shape[1], -1).T.contiguous()

    def _ends(self, before: int, device: torch.device) -> Tensor:
        """The number of cells along each axis less `before`, (3,), on a device."""
        return torch.tensor(self.shape, device=device) - before

    def spread(self, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Sums and weights in each cell after distributing values (N,) to the cells around their positions (N, 3)."""
        cells, weights = self.corners(positions)
        sums = torch.bincount(cells.flatten(), (weights * values).flatten(), self.num_cells)
        total = torch.bincount(cells.flatten(), weights.flatten(), self.num_cells)
        return sums.view(self.shape).float(), total.view(self.shape).float()


def blurred(volume: Tensor, sigma: float) -> Tensor:
    """Volume (..., X, Y, Z) smoothed by a Gaussian of `sigma` voxels; border values are repeated beyond the border."""
    for axis in (-3, -2, -1):
        matrix = _blur_matrix(volume.shape[axis], sigma).to(volume)
        volume = torch.tensordot(volume, matrix, dims=([axis], [1])).movedim(-1, axis)
    return volume


@functools.lru_cache(maxsize=64)
def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Weights (size, size): row i has the weight of each voxel of a line in the blurred voxel i."""
    reach = max(1, math.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = torch.arange(size)[:, None].expand(-1, len(offsets))
    columns = (rows + offsets).clamp(0, size - 1)
    return torch.zeros(size, size).index_put_(
        (rows, columns), weights.expand(size, -1), accumulate=True
    )
