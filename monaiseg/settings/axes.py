"""The order of spatial lists: z, y, x in files unless they say otherwise, x, y, z in `Settings`.

The lists of a file are reversed once, when it is read. Code that reads `Settings` never checks the order, and files
that are written say "xyz".
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
"""Paths of the lists that hold one entry per axis."""


def along_xyz(document: Mapping[str, Any]) -> dict[str, Any]:
    """A settings document in our spelling with its spatial lists in x, y, z order.

    Values that are not lists, and sections that are not objects, are left for the model to refuse.

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
    """Reverse the list at a path. Sections along the path are copied, so that the user's document is not changed."""
    value = section.get(name)
    if below and isinstance(value, Mapping):
        section[name] = dict(value)
        _reverse(section[name], *below)
    elif not below and isinstance(value, list | tuple):
        section[name] = value[::-1]
