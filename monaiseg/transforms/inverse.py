"""Inversion: class maps from the network grid to the grid of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Transform
from monai.transforms.utils import convert_applied_interp_mode
from numpy.typing import NDArray
from typing_extensions import override

from monaiseg.data import LabelTable
from monaiseg.portable import labels_at, turned_back
from monaiseg.transforms.items import Item

RESAMPLING = ("SpatialResample", "Resize")
"""MONAI's names, in its record of operations, for the steps that change the voxel size."""


def to_file_grid(class_map: torch.Tensor, item: Mapping[str, Any], chain: Compose) -> NDArray[Any]:
    """Bring a class map (X, Y, Z) from the network grid back to the grid of the image's file.

    Padding, flips and the order of axes are undone exactly. Where the chain has resampled the image, each class is
    interpolated linearly between the voxels of the network grid, and the largest wins: borders become smoother than by
    nearest neighbour, at the memory of one label map, see `monaiseg.portable.labels_at`.

    Args:
        class_map: integers, the argmax of the network's output for the item's image.
        item: the output of `chain` for the case.
        chain: the inference chain.
    """
    image = item["image"]
    resampled = [step for step in image.applied_operations if step["class"] in RESAMPLING]
    if resampled:
        turn, across = _across(image)
        if _is_along_axes(across):
            inner, before = _unpadded(np.asarray(class_map.cpu()), image.applied_operations)
            x, y, z = (int(n) for n in resampled[0]["orig_size"])
            starts = across[:3, 3] - before
            there = labels_at(inner, starts.tolist(), across.diagonal()[:3].tolist(), (x, y, z))
            return turned_back(there, turn)
    return nearest_on_file_grid(class_map, item, chain)


def _across(image: MetaTensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How the file's axes were turned to RAS, and the matrix (4, 4) from its voxels, so turned, to network voxels."""
    of_file = np.asarray(image.meta["original_affine"], dtype=np.float64)
    shape = tuple(int(n) for n in image.meta["spatial_shape"])
    turn = nib.orientations.io_orientation(of_file)
    turned = of_file @ nib.orientations.inv_ornt_aff(turn, shape)
    return turn, np.linalg.solve(np.asarray(image.affine, dtype=np.float64), turned)


def _is_along_axes(across: NDArray[np.float64]) -> bool:
    """Whether resampling acted on each axis alone; it does not if the file's axes are not at right angles."""
    linear = across[:3, :3]
    return bool(np.abs(linear - np.diag(linear.diagonal())).max() < 1e-4)


def _unpadded(
    class_map: NDArray[Any], operations: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The class map without the padding of the chain's last step, and the voxels of padding before each axis."""
    padded = operations[-1]["extra_info"]["padded"][1:]  # without channels
    widths = np.array(padded, dtype=np.int64)
    low, high = widths[:, 0], np.array(class_map.shape) - widths[:, 1]
    x, y, z = (slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    return class_map[x, y, z], low


def nearest_on_file_grid(
    values: torch.Tensor, item: Mapping[str, Any], chain: Compose
) -> NDArray[Any]:
    """Values (X, Y, Z) on the network grid brought to the grid of the image's file by nearest neighbour."""
    # Invertd would invert Resize by torch's "nearest": after resizing 31 voxels to 48, the class map would return 0.8
    # voxels of the network grid too low. With "nearest-exact" it is in the right place.
    steps = [
        convert_applied_interp_mode(
            step, mode="nearest-exact" if step["class"] == "Resize" else "nearest"
        )
        for step in item["image"].applied_operations
    ]
    there = MetaTensor(values[None], affine=item["image"].affine, applied_operations=steps)
    home = chain.inverse({"image": there})["image"].as_tensor()[0]
    return np.asarray(home.to(values.dtype).cpu())


class ToFileGridd(Transform):
    """Resamples `pred`, a class map (1, X, Y, Z) on the network grid, to the grid of the image's file.

    Args:
        chain: the inference chain that loaded the image.
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        classes = to_file_grid(torch.as_tensor(data["pred"])[0], data, self.chain)
        return {**data, "pred": torch.from_numpy(classes)[None]}


class LabelValuesd(Transform):
    """Converts `pred` from class indices to the label values of the files."""

    def __init__(self, table: LabelTable) -> None:
        self.table = table

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        values = self.table.label_values(data["pred"].numpy())
        return {**data, "pred": torch.from_numpy(values)}
