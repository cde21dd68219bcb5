"""The reader: NIfTI files for MONAI's `LoadImaged`, with the checks of `monaiseg.data`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple
from numpy.typing import NDArray
from typing_extensions import override

from monaiseg.data import Grid, check_same_grid, is_volume_name, read_label_map, read_volume
from monaiseg.errors import DataError, counted

Paths = Sequence[PathLike[str] | str] | PathLike[str] | str


class CheckedReader(ImageReader):
    """Reads the files that `monaiseg.data.read_volume` accepts, and refuses others with its message.

    Use it in any chain as `LoadImaged("image", reader=CheckedReader)`. Several files are the channels of one image and
    must have the same grid. Files are read in `get_data`, not in `read`: an error in `read` makes `LoadImage` try
    MONAI's other readers, which would accept the truncated and damaged files that this one refuses.

    Args:
        num_channels: channels that an image must have, one per file or those of 4-D files; None for any number.
        labels: read label maps, which are integers with one channel.
        orientation: axis directions, such as RAS, of images whose headers do not give any; None refuses these.
    """

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        labels: bool = False,
        orientation: str | None = None,
    ) -> None:
        self.num_channels, self.labels, self.orientation = num_channels, labels, orientation

    @override
    def verify_suffix(self, filename: Paths) -> bool:
        return all(is_volume_name(str(name)) for name in ensure_tuple(filename))

    @override
    def read(self, data: Paths, **kwargs: Any) -> tuple[str, ...]:
        return tuple(str(path) for path in ensure_tuple(data))

    @override
    def get_data(self, img: Sequence[str]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Voxels (X, Y, Z), or (C, X, Y, Z) for several channels, and MONAI's metadata.

        Raises:
            DataError: as in `read_volume` and `read_label_map`; or the files have different grids or the wrong number
                of channels.
        """
        if self.labels:
            voxels, header = read_label_map(img[0])
            return voxels, _metadata(header.grid, has_channels=False)
        volumes, grid = _on_one_grid(img, self.orientation)
        channels = [
            plane.astype(np.float32)  # small integer types would overflow later
            for voxels in volumes
            for plane in (voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0))
        ]
        if self.num_channels not in {None, len(channels)}:
            raise DataError(
                f"{', '.join(img)}: {counted(len(channels), 'channel')}, but dataset.num_channels is {self.num_channels}; "
                "give one file for each channel, or a 4-D file, in the order of the training data"
            )
        if len(channels) == 1:
            return channels[0], _metadata(grid, has_channels=False)
        return np.stack(channels), _metadata(grid, has_channels=True)


def _on_one_grid(paths: Sequence[str], orientation: str | None) -> tuple[list[NDArray[Any]], Grid]:
    volumes: list[NDArray[Any]] = []
    grids: list[Grid] = []
    for path in paths:
        voxels, header = read_volume(path, orientation=orientation)
        volumes.append(voxels)
        grids.append(header.grid)
        check_same_grid(f"channels {paths[0]} and {path}", grids[0], header.grid)
    return volumes, grids[0]


def _metadata(grid: Grid, *, has_channels: bool) -> dict[str, Any]:
    """The metadata that MONAI's own readers give and its transforms need."""
    return {
        MetaKeys.AFFINE: grid.array,
        MetaKeys.ORIGINAL_AFFINE: grid.array,
        MetaKeys.SPATIAL_SHAPE: np.array(grid.shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if has_channels else float("nan"),
    }
