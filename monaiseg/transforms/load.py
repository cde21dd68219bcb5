"""Loading: the transforms after MONAI's `LoadImaged`, which give class indices and plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform
from typing_extensions import override

from monaiseg.data import (
    ChannelProfile,
    Grid,
    LabelTable,
    Placement,
    check_placed,
    check_same_grid,
    read_header,
    read_label_map,
    volume_stem,
)
from monaiseg.transforms.items import Item


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


class ProfileChannels(Transform):
    """Adds `profiles`, a `ChannelProfile` of each channel of the image as it is in the file."""

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"]
        orientation = Grid.of(image.shape[1:], image.affine).orientation
        channels = image.as_tensor().numpy()
        return {**data, "profiles": [ChannelProfile.of(each, orientation) for each in channels]}


class OnImageGridd(Transform):
    """Lays a label map onto the grid of its image (`monaiseg.data.Placement`) and gives it the image's affine.

    The headers of image and label map can differ in the last digits: resampled with its own affine, a label map could
    be one voxel larger.

    Raises:
        DataError: the label map has voxels that the image has not.
    """

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image, label = data["image"], data["label"]
        grid, own = (Grid.of(each.shape[1:], each.affine) for each in (image, label))
        values = label.as_tensor()
        if own.difference(grid) is not None:
            names = (each.meta["filename_or_obj"] for each in (label, image))
            check_placed("label map {} and image {}".format(*names), own, grid)
            placement = Placement.of(own, grid)
            assert placement is not None
            values = torch.from_numpy(placement.apply(values[0].numpy()))[None]
        return {**data, "label": MetaTensor(values, meta=image.meta)}


class ClassIndicesd(Transform):
    """Converts label values to class indices by the label table."""

    def __init__(self, table: LabelTable, others: Literal["refuse", "background"]) -> None:
        self.table, self.others = table, others

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        label = data["label"]
        classes = self.table.class_indices(label.as_tensor().numpy(), others=self.others)
        return {**data, "label": MetaTensor(torch.from_numpy(classes), meta=label.meta)}


class AsPlainTensors(Transform):
    """Replaces MetaTensors, which cost more time than a crop, by plain tensors, and adds affine and floor."""

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"].as_tensor().contiguous()
        name = data.get("case_id") or volume_stem(data["image"].meta["filename_or_obj"])
        return {
            "image": image,
            "label": data["label"].as_tensor().contiguous(),
            "affine": torch.as_tensor(data["image"].affine, dtype=torch.float64).clone(),
            "floor": image.amin(dim=(1, 2, 3)),
            "case_id": str(name),
        }
