"""The way back: class maps from the network's grid to the grid of the file."""

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
    """A class map (X, Y, Z) on the network grid as class indices (X, Y, Z) on the grid of the image's file.

    Args:
        class_map: integers, as the network's argmax gives them for the item's image.
        item: what `chain` made of the case.
        chain: the inference chain, which is inverted here, step by step and by nearest neighbour.
    """
    # Invertd takes torch's "nearest" for the way back through Resize as well: of 31 voxels that were resized to 48 the
    # class map comes home 0.8 voxels of the network's grid too low, by "nearest-exact" where it belongs.
    steps = [
        convert_applied_interp_mode(
            step, mode="nearest-exact" if step["class"] == "Resize" else "nearest"
        )
        for step in item["image"].applied_operations
    ]
    there = MetaTensor(class_map[None], affine=item["image"].affine, applied_operations=steps)
    home = chain.inverse({"image": there})["image"].as_tensor()[0]
    return np.asarray(home.to(class_map.dtype).cpu())


class ToFileGridd(Transform):
    """`pred`, a class map (1, X, Y, Z) on the network grid, to the grid of the image's file.

    Args:
        chain: the inference chain that the image came by.
    """

    def __init__(self, chain: Compose) -> None:
        self.chain = chain

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        classes = to_file_grid(torch.as_tensor(data["pred"])[0], data, self.chain)
        return {**data, "pred": torch.from_numpy(classes)[None]}


class LabelValuesd(Transform):
    """`pred`, class indices, to the label values of the files."""

    def __init__(self, table: LabelTable) -> None:
        self.table = table

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        values = self.table.label_values(data["pred"].numpy())
        return {**data, "pred": torch.from_numpy(values)}
