"""Padding: volumes to multiples of 16 voxels and at least the size of the patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from monai.transforms.croppad.array import DivisiblePad
from monai.transforms.croppad.dictionary import DivisiblePadd, Padd
from typing_extensions import override

from monaiseg.data import MULTIPLE, Shape, padded_up


class DivisibleFloorPad(DivisiblePad):
    """Pads to multiples of 16 voxels and at least the patch, equally on both sides.

    MONAI's `DivisiblePad` has no minimum size, fills all channels with one value, and cannot mirror or repeat an image
    by more than its own size (torch: "Padding size should be less than the corresponding input dimension").

    Args:
        patch_shape: voxels along X, Y, Z.
        padding_mode: one of `_CONTINUATIONS`, or "constant".
        with_floor: in mode "constant", pad each channel with its minimum rather than with 0, the background. After
            `zscore`, 0 is the mean of an image, and a grey slab beside the head looks like tissue.
    """

    def __init__(self, patch_shape: Shape, padding_mode: str, *, with_floor: bool) -> None:
        super().__init__(MULTIPLE)
        self.patch_shape, self.padding_mode = patch_shape, padding_mode
        self.with_floor = with_floor
        self.continuation = _CONTINUATIONS.get(padding_mode)

    @override
    def compute_pad_width(self, spatial_shape: Sequence[int]) -> Any:
        x, y, z = spatial_shape
        target = padded_up((x, y, z), self.patch_shape)
        added = [wanted - size for wanted, size in zip(target, spatial_shape, strict=True)]
        return ((0, 0), *((width // 2, width - width // 2) for width in added))

    @override
    def __call__(self, img: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # as Pad's own
        padded: Any = super().__call__(img, *args, **kwargs)  # also records affine and operations
        widths = self.compute_pad_width(img.shape[1:])[1:]
        channels, padded_channels = img.as_tensor().numpy(), padded.as_tensor().numpy()
        for channel, whole in zip(channels, padded_channels, strict=True):
            if self.continuation is None:
                around = channel.min() if self.with_floor else 0
                whole[...] = np.pad(channel, widths, constant_values=around)
            else:
                whole[...] = np.pad(channel, widths, mode=self.continuation)
        return padded


class DivisibleFloorPadd(DivisiblePadd):
    """Pads `image` and, if asked for, `label` by `DivisibleFloorPad`.

    Both use the same mode, so tissue that continues into the padding of the image is not background in the label map.
    """

    def __init__(self, keys: str, patch_shape: Shape, padding_mode: str) -> None:
        padder = DivisibleFloorPad(patch_shape, padding_mode, with_floor=keys == "image")
        Padd.__init__(self, keys, padder)


_CONTINUATIONS: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
"""numpy's names for the settings' padding modes; "constant" is not one."""
