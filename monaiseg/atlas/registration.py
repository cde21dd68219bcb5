"""Registration: the position in the template that corresponds to each block of a scan.

The first step is an affine map, found by Gauss-Newton on the differences in intensity (Friston et al., Human Brain
Mapping 3, 1995) with weights that reduce the influence of outliers. The second is a smooth deformation, found by demons
(Thirion, Medical Image Analysis 2, 1998) with steps of bounded length, and with both fluid-like and elastic-like
smoothing (Vercauteren et al., NeuroImage 45, 2009). Maps lead from the scan to the template, where an atlas is
evaluated, so no map has to be inverted. Portable models do the same in NumPy, see `monaiseg.portable.registration`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monaiseg.atlas.lattice import Lattice, blurred
from monaiseg.atlas.scans import Scan
from monaiseg.portable import (
    AFFINE_STEPS,
    DEFORMATION_STEPS,
    FLAT_GRADIENT,
    LARGEST_STEP,
    RIDGE,
    SMOOTHING,
)


def template_table(template: Tensor, lattice: Lattice, sigma: float) -> Tensor:
    """Value and gradient per mm along x, y, z in each cell of a template blurred by `sigma` cells: (cells, 4)."""
    smooth = blurred(template, sigma)
    gradients = [
        torch.gradient(smooth, spacing=mm, dim=axis)[0] if smooth.shape[axis] > 1 else smooth * 0
        for axis, mm in enumerate(lattice.cell_mm)
    ]
    return torch.stack([smooth, *gradients], dim=-1).view(-1, 4).contiguous()


def affine_map(
    scan: Scan, table: Tensor, lattice: Lattice, deviation: Tensor, steps: int = AFFINE_STEPS
) -> Tensor:
    """Affine map (3, 4) from scan mm to template mm.

    The initial map sends the mean of the foreground to the origin and its standard deviations to `deviation` (3,), in
    template mm.
    """
    inside = scan.foreground
    places = (scan.geometry.centres()[inside] - scan.extent.centre) / scan.extent.deviation
    places = torch.cat([places, torch.ones(len(places), 1)], dim=1)  # (N, 4)
    wanted = scan.blocks[inside]
    matrix = torch.eye(3, 4)  # both sides in standard deviations
    for _ in range(steps):
        matrix = matrix + _gauss_newton_step(places, wanted, matrix, table, lattice, deviation)
    linear = deviation[:, None] * matrix[:, :3] / scan.extent.deviation
    shift = deviation * matrix[:, 3] - linear @ scan.extent.centre
    return torch.cat([linear, shift[:, None]], dim=1)


def _gauss_newton_step(
    places: Tensor,
    wanted: Tensor,
    matrix: Tensor,
    table: Tensor,
    lattice: Lattice,
    deviation: Tensor,
) -> Tensor:
    """Update of the map (3, 4) of points (N, 4) towards the intensities `wanted` (N,) in the template."""
    found = lattice.read(table, places @ matrix.T * deviation)
    difference = wanted - found[:, 0]
    scale = 2 * difference.abs().median() + 0.1
    weight = 1 / (1 + (difference / scale) ** 2)  # Cauchy weights
    slopes = ((found[:, 1:] * deviation)[:, :, None] * places[:, None, :]).view(-1, 12)
    normal = slopes.T @ (slopes * weight[:, None]) + RIDGE * len(places) * torch.eye(12)
    solution: Tensor = torch.linalg.solve(normal, slopes.T @ (difference * weight))
    return solution.view(3, 4)


def deformation(
    scan: Scan, table: Tensor, lattice: Lattice, affine: Tensor, steps: int = DEFORMATION_STEPS
) -> Tensor:
    """Displacement (3, X', Y', Z') of each block after the affine map, in template mm."""
    inside = scan.foreground
    start = scan.geometry.centres()[inside] @ affine[:, :3].T + affine[:, 3]
    wanted = scan.blocks[inside]
    cell = torch.tensor(lattice.cell_mm).min()
    moved = torch.zeros(3, *scan.blocks.shape)
    for _ in range(steps):
        found = lattice.read(table, start + moved[:, inside].T)
        step = torch.zeros_like(moved)
        step[:, inside] = _demons_step(wanted - found[:, 0], found[:, 1:] * cell).T * cell
        moved = blurred(moved + blurred(step, SMOOTHING), SMOOTHING)
    return moved


def _demons_step(difference: Tensor, gradient: Tensor) -> Tensor:
    """Step (N, 3) in cells that reduces differences (N,), along gradients (N, 3) of the template per cell."""
    slope = (gradient**2).sum(1) + difference**2 + FLAT_GRADIENT
    step = gradient * (difference / slope)[:, None]
    length: Tensor = torch.linalg.vector_norm(step, dim=1, keepdim=True)
    return step / (length / LARGEST_STEP).clamp(min=1)
