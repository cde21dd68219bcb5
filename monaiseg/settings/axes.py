"""The order of spatial lists: z, y, x in files unless they say otherwise, x, y, z in `Settings`.

A file is turned once, when it is read. What reads `Settings` never asks for the order, and what is written says "xyz".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPATIAL_LISTS = (
    "dataset.img_after_resize",
    "dataset.spacing",
    "dataset.seg.patch_size",
    "dataset.seg.partition.overlap_size",
    "dataset.seg.augmentation.rigid.rotation",
    "dataset.seg.augmentation.rigid.translation",
    "dataset.seg.augmentation.deformation.mesh_size",
)
"""Paths of the lists that hold one entry an axis."""


def along_xyz(document: Mapping[str, Any]) -> dict[str, Any]:
    """A settings document in our spelling with its spatial lists in x, y, z order.

    What is not a list, or stands in no section, is left for the model to refuse.

    >>> along_xyz({"dataset": {"spacing": [3, 2, 1]}})
    {'dataset': {'spacing': [1, 2, 3], 'axis_order': 'xyz'}}
    """
    dataset = document.get("dataset", {})
    if not isinstance(dataset, Mapping) or dataset.get("axis_order", "zyx") != "zyx":
        return dict(document)
    turned: dict[str, Any] = {**document, "dataset": {**dataset, "axis_order": "xyz"}}
    for path in SPATIAL_LISTS:
        _reverse(turned, *path.split("."))
    return turned


def _reverse(section: dict[str, Any], name: str, *below: str) -> None:
    """Reverse the list at a path; the sections on the way are copied, so that the user's own stay as they are."""
    value = section.get(name)
    if below and isinstance(value, Mapping):
        section[name] = dict(value)
        _reverse(section[name], *below)
    elif not below and isinstance(value, list | tuple):
        section[name] = value[::-1]
