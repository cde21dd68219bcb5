"""A check of the voxel size of an image before it is resampled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from monai.transforms.transform import Transform
from typing_extensions import override

from monaiseg.data import Grid, Spacing, resampling_doubt
from monaiseg.errors import MonaisegWarning
from monaiseg.transforms.items import Item


class CheckSpacingd(Transform):
    """Warns if `image`, in RAS orientation, will be resampled by a factor above 3, and refuses it above 10.

    A voxel size in the wrong unit would give an empty volume, or one too large for memory.

    Args:
        spacing: target voxel size in mm along X, Y, Z.
    """

    def __init__(self, spacing: Spacing) -> None:
        self.spacing = spacing

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"]
        grid = Grid.of(image.shape[1:], image.affine)
        path = str(image.meta["filename_or_obj"])
        if doubt := resampling_doubt(path, grid.spacing, self.spacing):
            warnings.warn(doubt, MonaisegWarning, stacklevel=2)
        return {**data}
