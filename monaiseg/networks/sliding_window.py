"""Sliding-window inference that keeps only what it still needs.

Windows are run in order of their start along the longest axis. Their scores add up in a slab one patch thick; what
no later window touches is reduced to class indices at once. Memory is that of the slab, not of K volumes, and the
result is `monai.inferers.sliding_window_inference(...).argmax(dim=1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.inferer import Inferer, SimpleInferer
from monai.utils.enums import BlendMode
from monai.utils.type_conversion import dtype_numpy_to_torch
from torch import Tensor
from torch.nn import functional as F

from monaiseg.data import LabelTable, Shape, index_dtype
from monaiseg.settings import Settings

Window = tuple[slice, slice, slice]


@torch.inference_mode()
def sliding_window_class_map(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_shape: Shape,
    *,
    overlap: Sequence[float],
    num_classes: int,
    blending: str = "gaussian",
    padding_mode: str = "constant",
    window_batch: int = 2,
    device: torch.device | str = "cpu",
    flips: Sequence[int] = (),
    partner_classes: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Class index of every voxel.

    Args:
        network: (B, C, X, Y, Z) to logits (B, K, X, Y, Z); evaluated in its current mode.
        image: (1, C, X, Y, Z). Smaller than the patch: padded, and cut back.
        patch_shape: window in voxels.
        overlap: share of the window, along X, Y, Z, that neighbours have in common.
        num_classes: K.
        blending: "gaussian" (standard deviation an eighth of the window) or "constant".
        padding_mode: of `torch.nn.functional.pad`.
        window_batch: windows that go through the network together.
        device: where windows are computed and added up.
        flips: axes (0 X, 1 Y, 2 Z) along which each window is mirrored too, and the scores averaged.
        partner_classes: class indices after a left-right mirror, wanted when `flips` holds 0.
        on_progress: called with windows done and windows in all.

    Returns:
        (X, Y, Z) on the CPU, uint8 up to 256 classes, else int16.
    """
    image, inside = _at_least(image, patch_shape, padding_mode)
    size = image.shape[2:]
    axis = max(range(3), key=lambda a: size[a])
    windows = _windows(size, patch_shape, overlap, axis)
    weights = compute_importance_map(
        patch_shape, mode=BlendMode(blending), sigma_scale=0.125, device=device
    )
    score = _Scorer(network, torch.device(device), tuple(flips), partner_classes)

    classes = torch.empty(size, dtype=dtype_numpy_to_torch(index_dtype(num_classes)))
    slab_shape = [num_classes, *size]
    slab_shape[1 + axis] = patch_shape[axis]
    slab = torch.zeros(slab_shape, device=device)
    start = done = 0
    for next_start, group in groupby(windows, key=lambda window: window[axis].start):
        slab = _advance(slab, classes, axis, start, next_start)
        start = next_start
        for batch in _batches(list(group), window_batch):
            logits = score(torch.cat([image[(slice(None), slice(None), *w)] for w in batch]))
            for window, scores in zip(batch, logits, strict=True):
                place = list(window)
                place[axis] = slice(None)
                slab[(slice(None), *place)] += scores * weights
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(windows))
    _finish(slab, classes, axis, start, size[axis])
    return classes[inside]


class _Scorer:
    """Logits of a batch of windows, averaged over mirror images where asked for."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        device: torch.device,
        flips: tuple[int, ...],
        partner_classes: Sequence[int] | None,
    ) -> None:
        self.network, self.device = network, device
        self.mirrors = [
            [axis for bit, axis in enumerate(flips) if n >> bit & 1] for n in range(2 ** len(flips))
        ]
        self.partners = None if partner_classes is None else list(partner_classes)

    def __call__(self, windows: Tensor) -> Tensor:
        windows = windows.to(self.device, non_blocking=True)
        total = self._mirrored(windows, self.mirrors[0])
        for axes in self.mirrors[1:]:
            total = total + self._mirrored(windows, axes)
        return total / len(self.mirrors)

    def _mirrored(self, windows: Tensor, axes: list[int]) -> Tensor:
        dims = [axis + 2 for axis in axes]
        logits: Tensor = self.network(windows.flip(dims)).float().flip(dims)
        return logits[:, self.partners] if 0 in axes and self.partners is not None else logits


def _at_least(image: Tensor, shape: Shape, mode: str) -> tuple[Tensor, Window]:
    """The image padded on both sides to at least `shape`, and where it lies in the result."""
    short = [max(0, want - have) for want, have in zip(shape, image.shape[2:], strict=True)]
    before = [missing // 2 for missing in short]
    x, y, z = (
        slice(first, first + size) for first, size in zip(before, image.shape[2:], strict=True)
    )
    if any(short):
        pads = [n for b, s in zip(before[::-1], short[::-1], strict=True) for n in (b, s - b)]
        image = F.pad(image, pads, mode=mode)
    return image, (x, y, z)


def _windows(
    size: Sequence[int], patch_shape: Shape, overlap: Sequence[float], axis: int
) -> list[Window]:
    """Windows that cover a volume, in order of their start along `axis`."""
    interval = _intervals(size, patch_shape, overlap)
    windows = cast(list[Window], dense_patch_slices(size, patch_shape, interval))
    return sorted(windows, key=lambda window: window[axis].start)


def _intervals(size: Sequence[int], patch_shape: Shape, overlap: Sequence[float]) -> list[int]:
    """Voxels from one window to the next, along each axis."""
    return [
        patch if patch == whole else max(int(patch * (1 - share)), 1)
        for whole, patch, share in zip(size, patch_shape, overlap, strict=True)
    ]


def count_windows(shape: Shape, patch_shape: Shape, overlap: Sequence[float]) -> int:
    """Windows that cover a volume of `shape` voxels.

    >>> count_windows((48, 64, 48), (40, 56, 48), overlap=(0.5, 0.5, 0.5))
    4
    """
    return math.prod(
        1 + max(math.ceil((size - patch) / step), 0)
        for size, patch, step in zip(
            shape, patch_shape, _intervals(shape, patch_shape, overlap), strict=True
        )
    )


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def _advance(slab: Tensor, classes: Tensor, axis: int, start: int, next_start: int) -> Tensor:
    """Reduce the part of the slab that lies before `next_start`, and move the rest to its beginning."""
    moved = next_start - start
    if moved == 0:
        return slab
    _finish(slab, classes, axis, start, next_start)
    kept = slab.shape[1 + axis] - moved
    fresh = torch.zeros_like(slab)
    if kept > 0:
        fresh.narrow(1 + axis, 0, kept).copy_(slab.narrow(1 + axis, moved, kept))
    return fresh


def _finish(slab: Tensor, classes: Tensor, axis: int, start: int, stop: int) -> None:
    length = min(stop - start, slab.shape[1 + axis])
    reduced = slab.narrow(1 + axis, 0, length).argmax(dim=0)
    classes.narrow(axis, start, length).copy_(reduced)


def window_options(
    settings: Settings, table: LabelTable, flips: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Number of classes, overlap, blending, padding and mirror images of the window, as prediction takes them.

    `flips` None: as the settings say.

    Raises:
        SettingsError: windows are to be mirrored left to right, and a label with a side has no partner.
    """
    partition = settings.dataset.seg.partition
    flips = settings.window_flips if flips is None else flips
    return {
        "num_classes": table.num_classes,
        "overlap": settings.window_overlap,
        "blending": partition.blending,
        "padding_mode": partition.padding_mode,
        "flips": flips,
        "partner_classes": table.partner_classes if 0 in flips else None,
    }


def window_shape(settings: Settings, size: Sequence[int]) -> Shape:
    """The window for an image of `size`: the patch, or the image under `use_whole_img_as_input`."""
    if not settings.dataset.seg.use_whole_img_as_input:
        return settings.patch_shape
    x, y, z = size
    return x, y, z


class SlidingWindow(Inferer):
    """The sliding window as MONAI's engines call it: from a batch of one image to its class map (1, 1, X, Y, Z).

    Args:
        settings: patch, overlap, blending and mirror images.
        table: labels of the classes.
        device: where windows are computed.
        mirrored: whether windows are mirrored too where the settings say so. Validation while training does without:
            it is one of many, and has to be quick.

    Raises:
        SettingsError: windows are to be mirrored left to right, and a label with a side has no partner.
    """

    def __init__(
        self,
        settings: Settings,
        table: LabelTable,
        device: torch.device | str = "cpu",
        *,
        mirrored: bool = True,
    ) -> None:
        super().__init__()
        self.options = window_options(settings, table) | {"device": device}
        if not mirrored:
            self.options["flips"] = ()
        self.settings = settings

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,  # noqa: ARG002  MONAI's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> Tensor:
        """Class map (1, 1, X, Y, Z) of an image (1, C, X, Y, Z)."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        window = window_shape(self.settings, image.shape[2:])
        class_map = sliding_window_class_map(network, image, window, **self.options)
        return class_map[None, None]


class InBFloat16(SimpleInferer):
    """A training's forward pass in bfloat16, where torch's autocast holds that to be safe; weights stay float32.

    bfloat16 has the range of float32: unlike float16 it needs no scaling of the loss.
    """

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """What the network makes of its inputs."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs)
