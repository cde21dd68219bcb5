"""Random smooth deformation of a patch by a B-spline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms.transform import Randomizable, Transform
from torch import Tensor
from typing_extensions import override

from monaiseg.settings import DeformationSettings
from monaiseg.transforms.interpolation import cubic, identity_warp, linear, nearest
from monaiseg.transforms.items import Item, with_positions, without_positions


class RandDeformd(Randomizable, Transform):
    """Deforms image and label map by a B-spline with randomly displaced control points.

    Args:
        settings: probability, largest displacement, spline degree and interpolation.
        mesh: number of mesh cells along X, Y, Z.
    """

    def __init__(self, settings: DeformationSettings, mesh: tuple[int, int, int]) -> None:
        self.settings = settings
        self.mesh = mesh

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        deforms = self.R.rand() < self.settings.probability
        points = [cells + self.settings.order for cells in self.mesh]
        displaced = self.R.normal(scale=self.settings.displacement / 2, size=(3, *points))
        if deforms:
            shape = d["image"].shape[1:]
            field = spline_field(torch.from_numpy(displaced).float(), shape, self.settings.order)
            warp = identity_warp(shape) + field
            read = cubic if self.settings.interpolation == "bspline" else linear
            d |= without_positions(d, read(with_positions(d), warp))
            d["label"] = nearest(d["label"], warp)
        return d


def spline_field(points: Tensor, shape: Sequence[int], order: int) -> Tensor:
    """Values (X, Y, Z, 3) of the B-spline of degree `order` with control points (3, cells + order, ...).

    The mesh spans the patch from its first voxel to its last, as in ITK's `BSplineTransform`.
    """
    for size, count in zip(shape, points.shape[1:], strict=True):
        basis = _basis(size, count - order, order)
        points = torch.tensordot(points, basis, dims=([1], [1]))  # (3, ..., size)
    return points.movedim(0, -1).contiguous()


def _basis(size: int, cells: int, order: int) -> Tensor:
    """Weight (size, cells + order) of each control point at each voxel."""
    voxels = torch.linspace(0, cells, size)
    points = torch.arange(cells + order) - (order - 1) / 2
    distance = (voxels[:, None] - points).abs()
    if order == 1:
        return (1 - distance).clamp(min=0)
    if order == 2:
        outer = (1.5 - distance).clamp(min=0) ** 2 / 2
        return torch.where(distance < 0.5, 0.75 - distance**2, outer)
    outer = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, outer)
