"""Interpolation of images and label maps at points between voxels."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(image: Tensor, *parts: Tensor) -> Tensor:
    """Image (C, X, Y, Z), interpolated trilinearly at the points of a warp (X', Y', Z', 3).

    The warp is the sum of its parts, which broadcast. A rotation is given as one part per axis of the patch: at
    96 x 96 x 96 voxels this takes 0.8 of the time.
    """
    reach = torch.tensor([max(size - 1, 1) for size in image.shape[1:]])
    # The coordinates of `grid_sample` run from -1 to 1, last axis first.
    first, *others = ((2 * part / reach).flip(-1) for part in parts)
    grid = _total([first.sub_(1), *others])
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def nearest(label: Tensor, *parts: Tensor) -> Tensor:
    """Label map (1, X, Y, Z) of any integer type, at the voxel nearest to each point of a warp, see `linear`.

    This indexes the voxels, because `grid_sample` does not support integers.
    """
    _, X, Y, Z = label.shape
    x, y, z = (
        _total([part[..., axis] for part in parts]).round().int().clamp_(0, size - 1)
        for axis, size in enumerate((X, Y, Z))
    )
    places = (x * Y + y) * Z + z
    return label.reshape(-1).index_select(0, places.view(-1)).view(1, *places.shape)


def _total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of parts that broadcast, added from the last part on, which is the smallest."""
    return functools.reduce(torch.add, reversed(parts))


def cubic(image: Tensor, warp: Tensor) -> Tensor:
    """Image (C, X, Y, Z), interpolated by a cubic B-spline at the points of a warp and mirrored at its border.

    Eight trilinear lookups replace the 64 terms: Sigg and Hadwiger, GPU Gems 2, chapter 20.
    """
    coefficients = _coefficients(image)
    last = torch.tensor(image.shape[1:]) - 1
    place = torch.minimum(warp.clamp(min=0), last)
    first = place.floor()
    f = place - first
    w0, w1, w3 = (1 - f) ** 3 / 6, 2 / 3 - f**2 + f**3 / 2, f**3 / 6
    low, high = w0 + w1, 1 - w0 - w1
    places = (first - 1 + w1 / low, first + 1 + w3 / high)
    mirrored = F.pad(coefficients[None], [2] * 6, mode="reflect")[0]
    read = torch.zeros(image.shape[0], *warp.shape[:3])
    for corner in itertools.product((0, 1), repeat=3):
        where = torch.stack([places[side][..., axis] for axis, side in enumerate(corner)], dim=-1)
        weight = math.prod((low, high)[side][..., axis] for axis, side in enumerate(corner))
        read += weight * linear(mirrored, where + 2)
    return read


def _coefficients(image: Tensor) -> Tensor:
    """Coefficients of the interpolating cubic B-spline: the inverse of the (1, 4, 1) / 6 matrix along each axis."""
    for axis, size in enumerate(image.shape[1:], start=1):
        matrix = torch.eye(size, dtype=torch.float64) * 4
        inner = torch.ones(size - 1, dtype=torch.float64)
        matrix += inner.diag(1) + inner.diag(-1)
        matrix[0, 1], matrix[-1, -2] = 2, 2
        inverse = (6 * torch.linalg.inv(matrix)).to(image.dtype)
        image = torch.tensordot(image, inverse, dims=([axis], [1])).movedim(-1, axis)
    return image


def identity_warp(shape: Sequence[int]) -> Tensor:
    """The warp (X, Y, Z, 3) that maps each voxel to itself."""
    axes = [torch.arange(size, dtype=torch.float32) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
