"""Topology: the number of stages of a network, and their strides, kernels and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monaiseg.data import Shape, Spacing, nearest_multiples, shape_in_words
from monaiseg.errors import SettingsError
from monaiseg.settings import NetworkSettings

MOST_HALVINGS = 4
"""How often an axis is halved at most; a network with five stages halves it four times."""
LEAST_SIZE = 4
"""An axis is halved as long as at least this many voxels remain in the coarsest stage."""


@dataclass(frozen=True)
class Topology:
    """Kernel size, stride and number of channels of each stage, finest first; sizes in voxels along X, Y, Z.

    The first stride is 1, or the size of the blocks by which the image is folded.
    """

    kernels: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    channels: tuple[int, ...]

    @property
    def total_stride(self) -> Shape:
        """Factor between the network's input and its coarsest stage; patch sizes must be multiples of it."""
        x, y, z = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return x, y, z

    def in_words(self) -> list[str]:
        """One line per stage, finest first.

        >>> Topology(((3, 3, 1),), ((1, 1, 1),), (16,)).in_words()
        ['stage 1: 16 channels, kernel 3 x 3 x 1, stride 1 x 1 x 1']
        """
        return [
            f"stage {number}: {channels} channels, kernel {shape_in_words(kernel)}, stride {shape_in_words(stride)}"
            for number, (channels, kernel, stride) in enumerate(
                zip(self.channels, self.kernels, self.strides, strict=True), start=1
            )
        ]


def plan_topology(settings: NetworkSettings, patch_shape: Shape, spacing: Spacing) -> Topology:
    """Stages for patches of `patch_shape` voxels with a voxel size of `spacing` mm, along X, Y, Z.

    An axis is halved as long as at least 4 voxels remain, at most four times. As in nnU-Net, an axis whose voxels are
    more than twice as long as the shortest is not halved, and has kernels of size 1, until the others catch up.

    Raises:
        SettingsError: the size of an axis is not a multiple of the strides that it needs, or the patch allows fewer
            stages than the settings ask for.

    >>> plan_topology(NetworkSettings(channels=16), (96, 96, 96), (1.0, 1.0, 1.0)).total_stride
    (16, 16, 16)
    >>> plan_topology(NetworkSettings(channels=16), (96, 96, 24), (1.0, 1.0, 3.0)).strides[1]
    (2, 2, 1)
    """
    left = [_halvings(size, axis) for size, axis in zip(patch_shape, "XYZ", strict=True)]
    voxel: tuple[float, ...] = spacing
    kernels: list[Shape] = []
    strides: list[Shape] = []
    while not strides or (any(left) and len(strides) < (settings.num_stages or MOST_HALVINGS + 1)):
        whole = not strides and settings.variant == "standard"
        stride = (1, 1, 1) if whole else _stride(voxel, left)
        coarser = tuple(size * step for size, step in zip(voxel, stride, strict=True))
        # Folding comes before the first convolution; later stages halve by strided convolution.
        kernels.append(_kernel(voxel if strides else coarser))
        strides.append(stride)
        left = [count - (step == 2) for count, step in zip(left, stride, strict=True)]
        voxel = coarser
    if len(strides) < (settings.num_stages or 0):
        raise SettingsError(
            f"tsk_set.network.num_stages: {settings.num_stages} stages, but patches of {patch_shape} along X, Y, Z allow "
            f"{len(strides)}; use at most {len(strides)}, null for as many as fit, or a larger patch"
        )
    channels = [
        min(settings.channels * 2**stage, settings.max_channels) for stage in range(len(strides))
    ]
    return Topology(tuple(kernels), tuple(strides), tuple(channels))


def _halvings(size: int, axis: str) -> int:
    """How often an axis of the patch is halved: once less than its size allows if only that divides it (72: 3)."""
    wanted = min(MOST_HALVINGS, int(math.log2(max(size / LEAST_SIZE, 1))))
    for count in (wanted, wanted - 1):
        if count >= 0 and size % 2**count == 0:
            return count
    below, above = nearest_multiples(size, 2**wanted)
    raise SettingsError(
        f"dataset.seg.patch_size: {size} along {axis} is not a multiple of {2**wanted} ({wanted + 1} stages "
        f"halve it {wanted} times); use {below} or {above}"
    )


def _stride(voxel: Sequence[float], left: Sequence[int]) -> Shape:
    """2 along axes that can be halved again, 1 along others and where voxels are over twice as long as the shortest."""
    finest = min((size for size, count in zip(voxel, left, strict=True) if count), default=0.0)
    x, y, z = (
        2 if count and size <= 2 * finest else 1 for size, count in zip(voxel, left, strict=True)
    )
    return x, y, z


def _kernel(voxel: Sequence[float]) -> Shape:
    x, y, z = (1 if size > 2 * min(voxel) else 3 for size in voxel)
    return x, y, z
