"""Warps: what EasyReg's settings ask for beyond our own augmentation, for patches that are already cut.

A *warp* says for each voxel of the patch where in the patch it is read from, in voxels. What lies beyond the patch
continues its border, in image and label map alike. All of it is off unless the settings switch it on, and all
randomness comes from `self.R`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.transform import Randomizable, Transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from monaiseg.geometry import Spacing
from monaiseg.settings import BilateralSettings, DeformationSettings, RigidSettings, Settings

Item = dict[str, Any]


def extra_transforms(settings: Settings) -> list[RandRigidd | RandDeformd | RandBilaterald]:
    """Rigid motion, deformation and bilateral filter, those that are on, for items with a cut patch.

    Items have `image` (C, X, Y, Z) float32, `label` (1, X, Y, Z) integers and `affine` (4, 4), whose voxel size the
    patch has along its own axes. Other keys pass.
    """
    change = settings.dataset.seg.augmentation
    if not change.enabled:
        return []
    chain: list[RandRigidd | RandDeformd | RandBilaterald] = []
    if change.rigid.probability:
        angles = settings.along_xyz(change.rigid.rotation)
        shifts = settings.along_xyz(change.rigid.translation)
        chain += [RandRigidd(change.rigid, angles, shifts)]
    if change.deformation.probability:
        mesh = settings.along_xyz(change.deformation.mesh_size)
        chain += [RandDeformd(change.deformation, mesh)]
    if change.bilateral.probability:
        chain += [RandBilaterald(change.bilateral)]
    return chain


# ---------------------------------------------------------------- rigid motion


class RandRigidd(Randomizable, Transform):
    """Turns and shifts a patch by normally distributed angles and voxels.

    Args:
        settings: probability, and what moves.
        degrees: two standard deviations of the angles about X, Y, Z.
        voxels: two standard deviations of the shifts along X, Y, Z.
    """

    def __init__(
        self, settings: RigidSettings, degrees: Sequence[float], voxels: Sequence[float]
    ) -> None:
        self.settings = settings
        self.degrees = np.array(degrees)
        self.voxels = np.array(voxels)

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        moves = self.R.rand() < self.settings.probability
        degrees, shift = self.R.normal(size=(2, 3)) / 2 * (self.degrees, self.voxels)
        if moves:
            x, y, z = np.linalg.norm(np.asarray(d["affine"])[:3, :3], axis=0)
            warp = rigid_warp(d["image"].shape[1:], degrees, shift, (x, y, z))
            if self.settings.target != "label":
                d["image"] = linear(d["image"], warp)
            if self.settings.target != "image":
                d["label"] = nearest(d["label"], warp)
        return d


def rigid_warp(
    shape: Sequence[int], degrees: NDArray[Any], shift: NDArray[Any], spacing: Spacing
) -> Tensor:
    """Warp (X, Y, Z, 3) that turns the anatomy about the patch's centre, then shifts it.

    Args:
        shape: of the patch.
        degrees: angles about X, then Y, then Z; positive ones turn Y to Z, Z to X and X to Y. Turning is done in mm.
        shift: along X, Y, Z, in voxels.
        spacing: of the patch, in mm.
    """
    back = torch.from_numpy(turn_matrix(degrees, 1.0, spacing).astype(np.float32))
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    offsets = _voxels(shape) - centre - torch.from_numpy(shift.astype(np.float32))
    return offsets @ back.T + centre


def turn_matrix(
    degrees: Sequence[float] | NDArray[Any], factor: float, spacing: Spacing
) -> NDArray[np.float64]:
    """Matrix (3, 3) from offsets in a turned and zoomed patch to offsets in the volume, both in voxels.

    Args:
        degrees: angles about X, then Y, then Z. Positive ones turn Y to Z, Z to X and X to Y.
        factor: above 1 structures grow.
        spacing: of the volume, in mm.
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[first, first] = step[second, second] = math.cos(angle)
        step[first, second], step[second, first] = -math.sin(angle), math.sin(angle)
        rotation = step @ rotation
    scale = np.array(spacing)
    return np.asarray(rotation.T * scale / scale[:, None] / factor)


# ---------------------------------------------------------------- deformation


class RandDeformd(Randomizable, Transform):
    """Deforms image and label map by a B-spline whose mesh points are displaced at random.

    Args:
        settings: probability, greatest displacements, degree, interpolation.
        mesh: cells along X, Y, Z.
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
            warp = _voxels(shape) + field
            read = cubic if self.settings.interpolation == "bspline" else linear
            d["image"], d["label"] = read(d["image"], warp), nearest(d["label"], warp)
        return d


def spline_field(points: Tensor, shape: Sequence[int], order: int) -> Tensor:
    """Values (X, Y, Z, 3) of the B-spline of degree `order` through control points (3, cells + order, ...).

    The mesh's cells span the patch from its first voxel to its last, as ITK's `BSplineTransform` has it.
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


# ---------------------------------------------------------------- bilateral filter


class RandBilaterald(Randomizable, Transform):
    """Smooths the image and keeps its edges."""

    def __init__(self, settings: BilateralSettings) -> None:
        self.settings = settings

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        if self.R.rand() < self.settings.probability:
            sigmas = self.settings.domain_sigma, self.settings.range_sigma
            d["image"] = bilateral(d["image"], *sigmas)
        return d


def bilateral(image: Tensor, domain_sigma: float, range_sigma: float) -> Tensor:
    """Mean of the neighbours of each voxel of (C, X, Y, Z), weighted by nearness in space and in intensity.

    Tomasi and Manduchi, ICCV 1998. Like ITK's filter it sees 2.5 standard deviations far.
    """
    radius = math.ceil(2.5 * domain_sigma)
    padded = F.pad(image[None], [radius] * 6, mode="replicate")[0]
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    for offset in itertools.product(range(2 * radius + 1), repeat=3):
        x, y, z = (slice(o, o + size) for o, size in zip(offset, image.shape[1:], strict=True))
        neighbour = padded[:, x, y, z]
        far = sum((o - radius) ** 2 for o in offset) / domain_sigma**2
        unlike = ((neighbour - image) / range_sigma) ** 2
        weight = ((unlike + far) / -2).exp_()
        total += weight * neighbour
        weights += weight
    return total / weights


# ---------------------------------------------------------------- reading between voxels


def linear(image: Tensor, warp: Tensor) -> Tensor:
    """Image (C, X, Y, Z) read by trilinear interpolation at a warp (X', Y', Z', 3)."""
    reach = torch.tensor([max(size - 1, 1) for size in image.shape[1:]])
    grid = (2 * warp / reach - 1).flip(-1)  # `grid_sample` counts from -1 to 1, the last axis first
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def nearest(label: Tensor, warp: Tensor) -> Tensor:
    """Label map (1, X, Y, Z) of any integer type, read at the voxel next to each place of a warp."""
    _, X, Y, Z = label.shape
    x, y, z = (
        warp[..., axis].round().long().clamp_(0, size - 1) for axis, size in enumerate((X, Y, Z))
    )
    return label.reshape(-1)[(x * Y + y) * Z + z][None]


def cubic(image: Tensor, warp: Tensor) -> Tensor:
    """Image (C, X, Y, Z) read by cubic B-spline interpolation, mirrored at its border.

    Eight trilinear lookups hold the 64 terms: Sigg and Hadwiger, GPU Gems 2, chapter 20.
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
    """Of the cubic B-spline through the voxels: each axis times the inverse of the (1, 4, 1) / 6 matrix."""
    for axis, size in enumerate(image.shape[1:], start=1):
        matrix = torch.eye(size, dtype=torch.float64) * 4
        inner = torch.ones(size - 1, dtype=torch.float64)
        matrix += inner.diag(1) + inner.diag(-1)
        matrix[0, 1], matrix[-1, -2] = 2, 2
        inverse = (6 * torch.linalg.inv(matrix)).to(image.dtype)
        image = torch.tensordot(image, inverse, dims=([axis], [1])).movedim(-1, axis)
    return image


def _voxels(shape: Sequence[int]) -> Tensor:
    """The warp (X, Y, Z, 3) that moves nothing."""
    axes = [torch.arange(size, dtype=torch.float32) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
