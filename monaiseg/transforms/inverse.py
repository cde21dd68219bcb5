"""Inversion: class maps from the network grid to the grid of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Transform
from monai.transforms.utils import convert_applied_interp_mode
from numpy.typing import NDArray
from typing_extensions import override

from monaiseg.data import LabelTable
from monaiseg.transforms.items import Item


def to_file_grid(class_map: torch.Tensor, item: Mapping[str, Any], chain: Compose) -> NDArray[Any]:
    """Resample a class map (X, Y, Z) from the network grid to the grid of the image's file.

    Args:
        class_map: integers, the argmax of the network's output for the item's image.
        item: the output of `chain` for the case.
        chain: the inference chain; each step is inverted by nearest neighbour.
    """
    return nearest_on_file_grid(class_map, item, chain)


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
