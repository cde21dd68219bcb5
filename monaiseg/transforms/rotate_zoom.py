"""Rotation and zoom: from a patch with its margin to the patch, rotated and zoomed about its centre."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.transform import Randomizable, Transform
from numpy.typing import NDArray
from torch.nn import functional as F
from typing_extensions import override

from monaiseg.data import Shape, Spacing
from monaiseg.settings import RotationSettings, ScalingSettings
from monaiseg.transforms.interpolation import linear, nearest
from monaiseg.transforms.items import Item, with_positions, without_positions
from monaiseg.transforms.rigid import turn_matrix


class RandRotateZoomd(Randomizable, Transform):
    """Extracts the patch from a crop with a margin, rotated and zoomed at random about its centre.

    `RandAffined` is not used because it has no voxels beyond the patch to fill the corners with, shears voxels that are
    not cubes (here the rotation is in millimetres), and is slower, see benchmarks/crop.py. Beyond the volume, the image
    has the floor of each channel and the label map is background.

    Items have `image` (C, X, Y, Z), `label` (1, X, Y, Z), `floor` (C,), `affine` (4, 4), which gives the voxel size,
    and `patch_start`, the first voxel of the patch. Without `patch_start` the patch is in the middle.

    Args:
        shape: shape of the patch in voxels; None for the whole image.
        rotation: probability, and the largest angle about each axis.
        scaling: probability, and the range of the zoom.
    """

    def __init__(
        self, shape: Shape | None, rotation: RotationSettings, scaling: ScalingSettings
    ) -> None:
        self.shape, self.rotation, self.scaling = shape, rotation, scaling

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        image, label, floor = with_positions(d), d["label"], d["floor"].tolist()
        floor += [None] * (len(image) - len(floor))
        volume = np.array(image.shape[1:])
        shape = np.array(self.shape or volume)
        start = d.pop("patch_start", (volume - shape) // 2)
        turn = self._turn(d["affine"])
        if turn is None:
            image = _window(image, start, start + shape, floor).clone()
            d["label"] = _window(label, start, start + shape, [0]).clone()
        else:
            centre = start + (shape - 1) / 2
            image, d["label"] = turned_patch(image, label, centre, shape, turn, floor)
        return d | without_positions(d, image)

    def margin(self, shape: NDArray[Any], spacing: Spacing) -> NDArray[Any]:
        """Voxels along X, Y, Z around a patch of `shape` that the largest rotation and zoom can reach.

        No entry of a rotation matrix about one axis exceeds 1 or, off the diagonal, the sine of its angle.
        """
        degrees = min(self.rotation.degrees, 90.0) if self.rotation.probability else 0.0
        bound = np.eye(3)
        for axis in range(3):
            first, second = (axis + 1) % 3, (axis + 2) % 3
            step = np.eye(3)
            step[first, second] = step[second, first] = math.sin(math.radians(degrees))
            bound = step @ bound
        factor = min(self.scaling.factor[0], 1.0) if self.scaling.probability else 1.0
        scale = np.array(spacing)
        half = (shape - 1) / 2
        reach = (np.minimum(bound.T, 1) * scale / scale[:, None] / factor) @ half
        return np.asarray(np.ceil(reach - half).astype(int) + _ROUNDING)

    def _turn(self, affine: torch.Tensor) -> NDArray[np.float64] | None:
        """A random matrix `turn`, see `turned_patch`; None for neither rotation nor zoom."""
        turns, zooms = self.R.rand(2) < (self.rotation.probability, self.scaling.probability)
        angles = self.R.uniform(-self.rotation.degrees, self.rotation.degrees, size=3)
        factor = self.R.uniform(*self.scaling.factor)
        if not (turns or zooms):
            return None
        x, y, z = np.linalg.norm(affine.numpy()[:3, :3], axis=0)
        return turn_matrix(angles * turns, factor if zooms else 1.0, (x, y, z))


_ROUNDING = 2
"""Voxels beyond the reach of a rotated patch, because coordinates are rounded and interpolation needs neighbours."""


def turned_patch(
    image: torch.Tensor,
    label: torch.Tensor,
    centre: NDArray[Any],
    shape: NDArray[Any],
    turn: NDArray[np.float64],
    floor: Sequence[float | None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotated patch of image (C, X, Y, Z), by linear interpolation, and label map (1, X, Y, Z), by nearest neighbour.

    Args:
        image: the volume.
        label: its class indices.
        centre: centre of the patch, in voxels of the volume.
        shape: shape of the patch in voxels.
        turn: matrix (3, 3) from offsets to the centre in the patch to offsets to the centre in the volume.
        floor: values of the channels beyond the volume, where the label is background; None repeats the border.
    """
    half = (shape - 1) / 2
    reach = np.abs(turn) @ half
    start = np.floor(centre - reach).astype(int) - 1  # one more voxel for rounding
    stop = np.ceil(centre + reach).astype(int) + 2
    image, label = _window(image, start, stop, floor), _window(label, start, stop, [0])
    along_x, along_y, along_z = (
        torch.from_numpy(np.outer(np.arange(size) - middle, column).astype(np.float32))
        for size, middle, column in zip(shape, half, turn.T, strict=True)
    )  # contribution of each axis of the patch to a point, (size, 3)
    along_x += torch.from_numpy((centre - start).astype(np.float32))
    warp = along_x[:, None, None], along_y[:, None], along_z
    return linear(image, *warp), nearest(label, *warp)


def _window(
    volume: torch.Tensor, start: NDArray[Any], stop: NDArray[Any], outside: Sequence[float | None]
) -> torch.Tensor:
    """Voxels `start` to `stop` (exclusive) of a volume (C, X, Y, Z): a view, or a copy padded with `outside`.

    A channel whose value outside is None is padded with its border.
    """
    sizes = np.array(volume.shape[1:])
    x, y, z = (
        slice(int(low), int(high))
        for low, high in zip(np.clip(start, 0, sizes), np.clip(stop, 0, sizes), strict=True)
    )
    inside = volume[:, x, y, z]
    before, after = np.maximum(-start, 0), np.maximum(stop - sizes, 0)
    widths = [int(width) for pair in zip(before[::-1], after[::-1], strict=True) for width in pair]
    if not any(widths):
        return inside
    channels = zip(inside, outside, strict=True)
    return torch.stack([_padded(channel, widths, fill) for channel, fill in channels])


def _padded(channel: torch.Tensor, widths: list[int], fill: float | None) -> torch.Tensor:
    if fill is None:
        return F.pad(channel[None, None], widths, mode="replicate")[0, 0]
    return F.pad(channel, widths, value=float(fill))
