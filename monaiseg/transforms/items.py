"""Items: the dictionaries that a chain of transforms takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monaiseg.data import Case, volume_stem

Item = dict[str, Any]


def case_item(case: Case) -> Item:
    """A case as an item for the load chain."""
    label = {} if case.label is None else {"label": str(case.label)}
    return {"image": [str(path) for path in case.images], **label, "case_id": case.id}


def case_name(item: Mapping[str, Any]) -> str:
    """The case's id or, in an item without one, its first image file."""
    if name := item.get("case_id"):
        return str(name)
    image = item["image"]
    return volume_stem(image if isinstance(image, str) else image[0])


def with_positions(item: Mapping[str, Any]) -> Tensor:
    """The image (C, X, Y, Z) followed by the positions of its voxels, if the item has any, as three more channels."""
    image: Tensor = item["image"]
    return image if "positions" not in item else torch.cat([image, item["positions"].to(image)])


def without_positions(item: Mapping[str, Any], moved: Tensor) -> Item:
    """The parts of `with_positions(item)` after a spatial transform has moved them, by key."""
    count = len(item["image"])
    image = {"image": moved[:count]}
    return image if "positions" not in item else {**image, "positions": moved[count:]}
