"""Loading: files to tensors, label values to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from numpy.typing import NDArray
from typing_extensions import override

from monaiseg.data import (
    Grid,
    LabelTable,
    check_same_grid,
    read_header,
    read_label_map,
    read_volume,
)
from monaiseg.errors import DataError
from monaiseg.transforms.items import Item, case_name


class ReadReferenced(Transform):
    """Adds `label`, the class indices (1, X, Y, Z) of the file `reference`, and the `spacing` of its grid."""

    def __init__(self, table: LabelTable) -> None:
        self.table = table

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"].meta["filename_or_obj"]
        grid = read_header(image).grid
        values, header = read_label_map(data["reference"], like=grid)
        check_same_grid(f"label map {header.path} and image {image}", header.grid, grid)
        classes = self.table.class_indices(values, others="background")
        label = torch.from_numpy(classes)[None]
        return {**data, "label": label, "spacing": header.grid.spacing}


class ReadCased(Transform):
    """Image (C, X, Y, Z) float32 and, where wanted, label map (1, X, Y, Z), through the gate of `volumes`.

    Not MONAI's `LoadImaged`: where the reader that it is given refuses a file, it tries its others, and so would go
    round the gate.

    Args:
        num_channels: channels that an image must have; one a file, or those of 4-D files.
        with_label: whether the label map is read.
    """

    def __init__(self, num_channels: int, *, with_label: bool) -> None:
        self.num_channels, self.with_label = num_channels, with_label

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        paths = [data["image"]] if isinstance(data["image"], str) else list(data["image"])
        image, grid = self._image(paths)
        meta = {"filename_or_obj": paths[0]}
        tensor = MetaTensor(image, affine=torch.from_numpy(grid.array), meta=meta)
        item = {**data, "image": tensor, "case_id": case_name(data)}
        if self.with_label:
            values, header = read_label_map(data["label"], like=grid)
            check_same_grid(f"label map {header.path} and image {paths[0]}", header.grid, grid)
            item["label"] = MetaTensor(torch.from_numpy(values[None]), meta=item["image"].meta)
        return item

    def _image(self, paths: Sequence[str]) -> tuple[torch.Tensor, Grid]:
        channels: list[NDArray[np.float32]] = []
        grids: list[Grid] = []
        for path in paths:
            values, header = read_volume(path)
            grids.append(header.grid)
            check_same_grid(f"channels {paths[0]} and {path}", grids[0], header.grid)
            planes = values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
            channels += [plane.astype(np.float32) for plane in planes]  # small integers overflow
        if len(channels) != self.num_channels:
            raise DataError(
                f"{', '.join(paths)}: {len(channels)} channels, but dataset.num_channels is "
                f"{self.num_channels}; give one file a channel, or a 4-D file, in the order of training"
            )
        return torch.from_numpy(np.stack(channels)), grids[0]


class ClassIndicesd(Transform):
    """Label values to class indices, by the label table."""

    def __init__(self, table: LabelTable, others: Literal["refuse", "background"]) -> None:
        self.table, self.others = table, others

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        label = data["label"]
        classes = self.table.class_indices(label.as_tensor().numpy(), others=self.others)
        return {**data, "label": MetaTensor(torch.from_numpy(classes), meta=label.meta)}


class AsPlainTensors(Transform):
    """Plain tensors for MetaTensors, which cost more than a cut; affine and floor beside them."""

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"].as_tensor().contiguous()
        return {
            "image": image,
            "label": data["label"].as_tensor().contiguous(),
            "affine": torch.as_tensor(data["image"].affine, dtype=torch.float64).clone(),
            "floor": image.amin(dim=(1, 2, 3)),
            "case_id": data["case_id"],
        }
