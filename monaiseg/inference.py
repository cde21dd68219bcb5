"""Sliding-window inference that keeps only what it still needs.

A *window* is one patch of the volume, a *slab* the scores of all classes over one patch's thickness of it. Windows
run in order of their start along the longest axis; what no later window reaches is reduced to class indices at once.
Memory is that of the slab, not of K volumes, and the result is that of
`monai.inferers.sliding_window_inference(...).argmax(dim=1)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, groupby
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer
from monai.utils import BlendMode
from torch import Tensor
from torch.nn import functional as F

from monaiseg.errors import SettingsError
from monaiseg.geometry import Shape
from monaiseg.settings import Settings

Network = Callable[[Tensor], Tensor]
Window = tuple[slice, slice, slice]


@torch.no_grad()
def sliding_window_class_map(
    network: Network,
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
        flips: axes (0 X, 1 Y, 2 Z) along which each window is mirrored too, in every combination, and the scores added.
        partner_classes: for each class, the class it becomes in a left-right mirror image; wanted when `flips` holds 0.
        on_progress: called after each batch with windows done and windows in all.

    Returns:
        (X, Y, Z) on the CPU, uint8 up to 256 classes, else int16.

    Raises:
        SettingsError: the image is too small for `padding_mode` to fill a patch with.
    """
    image, inside = _padded(image, patch_shape, padding_mode)
    size = image.shape[2:]
    axis = max(range(3), key=lambda a: size[a])
    windows = _windows(size, patch_shape, overlap, axis)
    weights = compute_importance_map(
        patch_shape, mode=BlendMode(blending), sigma_scale=0.125, device=device
    )
    class_map = torch.empty(size, dtype=torch.uint8 if num_classes <= 256 else torch.int16)
    extent = [patch_shape[a] if a == axis else size[a] for a in range(3)]
    slab = torch.zeros(num_classes, *extent, device=device)
    start = done = 0
    for first, group in groupby(windows, key=lambda window: window[axis].start):
        _advance(slab, class_map, axis, start, first)
        start = first
        for batch in _batches(list(group), window_batch):
            crops = torch.cat([image[(..., *window)] for window in batch]).to(device)
            for window, scores in zip(
                batch, _scores(network, crops, flips, partner_classes), strict=True
            ):
                place = (slice(None) if a == axis else window[a] for a in range(3))
                slab[(..., *place)] += scores * weights
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(windows))
    _advance(slab, class_map, axis, start, size[axis])
    return class_map[inside]


class SlidingWindow(Inferer):
    """The sliding window as MONAI's engines call it: from a batch of one image to its class map (1, 1, X, Y, Z).

    Args:
        settings: patch, overlap and blending.
        num_classes: classes with background.
        device: where windows are computed.
    """

    def __init__(self, settings: Settings, num_classes: int, device: torch.device) -> None:
        super().__init__()
        partition = settings.dataset.seg.partition
        self.patch_shape = settings.patch_shape
        self.options: dict[str, Any] = {
            "overlap": settings.window_overlap,
            "num_classes": num_classes,
            "blending": partition.blending,
            "padding_mode": partition.padding_mode,
            "device": device,
        }

    def __call__(self, inputs: Tensor, network: Network, *_: Any, **__: Any) -> Tensor:
        """Class map (1, 1, X, Y, Z) of an image (1, C, X, Y, Z)."""
        return sliding_window_class_map(network, inputs, self.patch_shape, **self.options)[None, None]


def _padded(image: Tensor, shape: Shape, mode: str) -> tuple[Tensor, Window]:
    """The image padded on both sides to at least `shape`, and where it lies in the result."""
    size = image.shape[2:]
    short = [max(want - have, 0) for want, have in zip(shape, size, strict=True)]
    before = [missing // 2 for missing in short]
    x, y, z = (slice(first, first + have) for first, have in zip(before, size, strict=True))
    if not any(short):
        return image, (x, y, z)
    pads = [n for left, both in zip(before[::-1], short[::-1], strict=True) for n in (left, both - left)]
    try:
        return F.pad(image, pads, mode=mode), (x, y, z)
    except RuntimeError as error:
        raise SettingsError(
            f"dataset.seg.partition.padding_mode: {mode} cannot fill a patch of {shape} from an image of "
            f"{tuple(size)} voxels along X, Y, Z; use constant or replicate, or a smaller patch_size"
        ) from error


def _windows(
    size: Sequence[int], patch_shape: Shape, overlap: Sequence[float], axis: int
) -> list[Window]:
    """MONAI's windows over a volume, in order of their start along `axis`."""
    interval = [
        patch if patch == whole else max(int(patch * (1 - share)), 1)
        for whole, patch, share in zip(size, patch_shape, overlap, strict=True)
    ]
    windows = dense_patch_slices(size, patch_shape, interval)
    return sorted(windows, key=lambda window: window[axis].start)  # type: ignore[return-value]  # MONAI: tuple[slice, ...]


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def _scores(
    network: Network, windows: Tensor, flips: Sequence[int], partner_classes: Sequence[int] | None
) -> Tensor:
    """Logits (B, K, X, Y, Z) of windows, added up over their mirror images."""
    total = network(windows).float()
    for count in range(1, len(flips) + 1):
        for axes in combinations(flips, count):
            dims = [axis + 2 for axis in axes]
            logits = network(windows.flip(dims)).float().flip(dims)
            if 0 in axes and partner_classes is not None:
                logits = logits[:, list(partner_classes)]
            total = total + logits
    return total


def _advance(slab: Tensor, class_map: Tensor, axis: int, start: int, stop: int) -> None:
    """Move a slab that lies at `start` to `stop`: planes before it become class indices, new ones are zero."""
    planes, thickness = stop - start, slab.shape[1 + axis]
    if planes == 0:
        return
    retired = slab.narrow(1 + axis, 0, planes)
    class_map.narrow(axis, start, planes).copy_(retired.argmax(dim=0))
    for first in range(planes, thickness, planes):  # in steps that do not overlap: no second slab
        count = min(planes, thickness - first)
        slab.narrow(1 + axis, first - planes, count).copy_(slab.narrow(1 + axis, first, count))
    slab.narrow(1 + axis, thickness - planes, planes).zero_()
