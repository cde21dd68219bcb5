"""Random rigid motion of a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.transform import Randomizable, Transform
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from monaiseg.data import Spacing, axis_rotation
from monaiseg.settings import RigidSettings
from monaiseg.transforms.interpolation import identity_warp, linear, nearest
from monaiseg.transforms.items import Item, with_positions, without_positions


class RandRigidd(Randomizable, Transform):
    """Rotates and shifts a patch by normally distributed angles and distances.

    Args:
        settings: probability, and whether image, label map or both move.
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
                d |= without_positions(d, linear(with_positions(d), warp))
            if self.settings.target != "image":
                d["label"] = nearest(d["label"], warp)
        return d


def rigid_warp(
    shape: Sequence[int], degrees: NDArray[Any], shift: NDArray[Any], spacing: Spacing
) -> Tensor:
    """Warp (X, Y, Z, 3) that rotates the anatomy about the centre of the patch, then shifts it.

    Args:
        shape: shape of the patch in voxels.
        degrees: angles about X, then Y, then Z. Positive angles turn Y to Z, Z to X and X to Y. The rotation is in mm.
        shift: shift along X, Y, Z, in voxels.
        spacing: voxel size of the patch in mm.
    """
    back = torch.from_numpy(turn_matrix(degrees, 1.0, spacing).astype(np.float32))
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    offsets = identity_warp(shape) - centre - torch.from_numpy(shift.astype(np.float32))
    return offsets @ back.T + centre


def turn_matrix(
    degrees: Sequence[float] | NDArray[Any], factor: float, spacing: Spacing
) -> NDArray[np.float64]:
    """Matrix (3, 3) from offsets in a rotated and zoomed patch to offsets in the volume, both in voxels.

    Args:
        degrees: angles about X, then Y, then Z. Positive angles turn Y to Z, Z to X and X to Y.
        factor: zoom; structures grow above 1.
        spacing: voxel size of the volume in mm.
    """
    rotation = np.eye(3)
    for axis, angle in enumerate(degrees):
        rotation = axis_rotation(axis, angle) @ rotation
    scale = np.array(spacing)
    return np.asarray(rotation.T * scale / scale[:, None] / factor)
