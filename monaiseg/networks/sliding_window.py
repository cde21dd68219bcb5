"""Sliding-window inference whose memory does not grow with the number of classes.

The head of a segmentation network is linear and applies to each position separately, so scores need not be blended:
with window weights w, features f, head H and bias b, sum(w (H f + b)) = H sum(w f) + b sum(w). This module sums the
*features* of the windows instead, and applies the head once per voxel, when no later window covers it. Windows are
processed in order of their start along the longest axis, so the sums are a slab one patch thick. A network with an
atlas gives features without it; the atlas is added to the scores, because it depends on the position of a voxel alone.

For a network that gives only scores (any callable), the scores are the features and there is no head. In both cases
the result equals `monai.inferers.sliding_window_inference(...).argmax(dim=1)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.inferer import Inferer, SimpleInferer
from monai.utils.enums import BlendMode
from monai.utils.type_conversion import dtype_numpy_to_torch
from torch import Tensor
from torch.nn import functional as F

from monaiseg.data import LabelTable, Shape, index_dtype
from monaiseg.networks.atlas_prior import AtlasPrior
from monaiseg.settings import Settings

Window = tuple[slice, slice, slice]
TILE_SCORES = 1 << 23
"""Number of scores in memory at a time while classes are chosen: 32 MiB of float32."""


@runtime_checkable
class HasFeatures(Protocol):
    """A network whose scores are a linear function of features, the same at each position.

    `block` is the number of voxels (x, y, z) that one position of the features represents.
    """

    block: Shape

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F, X / x, Y / y, Z / z) of an image (B, C, X, Y, Z)."""
        ...

    def head_matrix(self) -> tuple[Tensor, Tensor]:
        """Weight (K, x, y, z, F) and bias (K, x, y, z) from features to scores."""
        ...


@torch.inference_mode()
def sliding_window_class_map(
    network: Callable[[Tensor], Tensor] | HasFeatures,
    image: Tensor,
    patch_shape: Shape,
    *,
    overlap: Sequence[float],
    num_classes: int,
    blending: str = "gaussian",
    padding_mode: str = "constant",
    window_batch: int = 2,
    device: torch.device | str = "cpu",
    sums_on: torch.device | str | None = None,
    flips: Sequence[int] = (),
    partner_classes: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    margins: Tensor | None = None,
    name: str = "the image",
) -> Tensor:
    """Class index of every voxel.

    Args:
        network: from (B, C, X, Y, Z) to logits (B, K, X, Y, Z), or one that `HasFeatures`; its mode (train or eval) is
            not changed.
        image: (1, C, X, Y, Z), with the voxel size of the network if this has an atlas. An image smaller than the patch
            is padded, and the result is cropped.
        patch_shape: shape of the window in voxels.
        overlap: share of the window, along X, Y, Z, that neighbouring windows have in common.
        num_classes: K.
        blending: "gaussian" (standard deviation an eighth of the window) or "constant".
        padding_mode: mode of `torch.nn.functional.pad`.
        window_batch: number of windows that the network processes together.
        device: device on which windows are computed.
        sums_on: device on which they are summed; None for the same.
        flips: axes (0 X, 1 Y, 2 Z) along which each window is also mirrored; the scores are averaged.
        partner_classes: class indices after mirroring left to right, required if `flips` contains 0.
        on_progress: called with the number of windows done and the number of all windows.
        margins: uint8 (X, Y, Z) on the CPU, which receives the margin between the best two classes of every voxel in
            255ths, see `_margins`; None computes none.
        name: what warnings call the image.

    Returns:
        (X, Y, Z) on the CPU, uint8 for up to 256 classes, otherwise int16.
    """
    place = torch.device(device)
    summing = place if sums_on is None else torch.device(sums_on)
    source = _source(network, num_classes, summing, tuple(flips), partner_classes)
    if source.prior is not None:
        image = torch.cat([image, source.prior.positions(image[0], name)[None].to(image)], dim=1)
    image, inside = _fitted(image, patch_shape, source.block, padding_mode)
    size = cast(Shape, tuple(image.shape[2:]))
    axis = max(range(3), key=lambda a: size[a])
    windows = _windows(size, patch_shape, overlap, axis, source.block)
    weights = window_weights(patch_shape, source.block, blending, summing)
    positions = None if source.prior is None else image[0, -3:]
    slab = _Slab(
        source,
        size,
        patch_shape,
        axis,
        num_classes,
        summing,
        positions=positions,
        with_margins=margins is not None,
    )
    done = 0
    for start, group in itertools.groupby(windows, key=lambda window: window[axis].start):
        slab.advance(start)
        for batch in _batches(list(group), window_batch):
            inputs = torch.cat([image[(slice(None), slice(None), *w)] for w in batch])
            features = source.features(inputs.to(place, non_blocking=True)).to(summing)
            for window, of_window in zip(batch, features, strict=True):
                slab.add(window, of_window, weights)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(windows))
    slab.advance(size[axis])
    if margins is not None and slab.margins is not None:
        margins.copy_(slab.margins[inside])
    return slab.classes[inside]


def window_weights(patch_shape: Shape, block: Shape, blending: str, device: torch.device) -> Tensor:
    """Weight (X / x, Y / y, Z / z) of each position of a window's features: the mean over the voxels of its block."""
    weights = compute_importance_map(
        patch_shape, mode=BlendMode(blending), sigma_scale=0.125, device=device
    )
    return F.avg_pool3d(weights[None, None].float(), block)[0, 0]


# ---------------------------------------------------------------- sums of features


@dataclass(frozen=True)
class _Source:
    """How to compute the features of windows, and classes from weighted sums of features."""

    block: Shape
    num_features: int
    features: Callable[[Tensor], Tensor]
    """Windows (B, C, X, Y, Z) to features (B, F, X / x, Y / y, Z / z)."""
    weight: Tensor | None
    """(K * x * y * z, F); None if the features are the scores."""
    bias: Tensor | None
    prior: AtlasPrior | None = None
    """What is added to the scores."""


def _source(
    network: Callable[[Tensor], Tensor] | HasFeatures,
    num_classes: int,
    device: torch.device,
    flips: tuple[int, ...],
    partner_classes: Sequence[int] | None,
) -> _Source:
    mirrors = [
        [axis for bit, axis in enumerate(flips) if n >> bit & 1] for n in range(2 ** len(flips))
    ]
    if not isinstance(network, HasFeatures):
        partners = None if partner_classes is None else list(partner_classes)

        def scores(windows: Tensor) -> Tensor:
            total = sum(_mirrored(network, windows, axes, partners) for axes in mirrors)
            return cast(Tensor, total) / len(mirrors)

        return _Source((1, 1, 1), num_classes, scores, None, None)

    weight, bias = network.head_matrix()  # (K, x, y, z, F), (K, x, y, z)
    partners = list(range(num_classes)) if partner_classes is None else list(partner_classes)
    # The features of a mirrored window are mirrored back position by position. The voxels inside a block, and left and
    # right partners, are exchanged in the head instead. The features of all mirror images are concatenated under one
    # wide head.
    heads = [_mirrored_head(weight, bias, axes, partners) for axes in mirrors]
    wide = torch.cat([w.reshape(-1, w.shape[-1]) for w, _ in heads], dim=1) / len(mirrors)
    mean_bias = torch.stack([b.reshape(-1) for _, b in heads]).mean(dim=0)

    prior = getattr(network, "prior", None)
    across = None if prior is None else -3  # the position along x

    def features(windows: Tensor) -> Tensor:
        parts = [_mirrored(network.features, windows, axes, None, across) for axes in mirrors]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    return _Source(
        network.block,
        wide.shape[1],
        features,
        wide.float().to(device),
        mean_bias.float().to(device),
        prior,
    )


def _mirrored(
    function: Callable[[Tensor], Tensor],
    windows: Tensor,
    axes: Sequence[int],
    partners: list[int] | None,
    across: int | None = None,
) -> Tensor:
    """A function's output for mirrored windows, mirrored back; mirroring left to right swaps partner channels.

    `across` is the channel with the position from left to right, which changes its sign.
    """
    dims = [axis + 2 for axis in axes]
    windows = windows.flip(dims)
    if 0 in axes and across is not None:
        windows[:, across].neg_()  # flip made a copy
    result = function(windows).float().flip(dims)
    return result[:, partners] if 0 in axes and partners is not None else result


def _mirrored_head(
    weight: Tensor, bias: Tensor, axes: Sequence[int], partners: list[int]
) -> tuple[Tensor, Tensor]:
    """The head for the features of mirrored windows after they are mirrored back."""
    dims = [axis + 1 for axis in axes]
    weight, bias = weight.flip(dims), bias.flip(dims)
    return (weight[partners], bias[partners]) if 0 in axes else (weight, bias)


class _Slab:
    """Weighted sums of features where later windows still contribute, and the classes of the part that is finished."""

    def __init__(
        self,
        source: _Source,
        size: Shape,
        patch_shape: Shape,
        axis: int,
        num_classes: int,
        device: torch.device,
        *,
        positions: Tensor | None = None,
        with_margins: bool = False,
    ) -> None:
        self.source, self.axis, self.num_classes = source, axis, num_classes
        self.positions = positions
        self.classes = torch.empty(size, dtype=dtype_numpy_to_torch(index_dtype(num_classes)))
        self.margins = torch.empty(size, dtype=torch.uint8) if with_margins else None
        thick = [n // step for n, step in zip(size, source.block, strict=True)]
        thick[axis] = patch_shape[axis] // source.block[axis]
        self.sums = torch.zeros(source.num_features, *thick, device=device)
        self.weights = torch.zeros(thick, device=device)
        self.start = 0
        """First voxel of the slab along the axis."""

    def add(self, window: Window, features: Tensor, weights: Tensor) -> None:
        """Add the features (F, ...) of a window that starts at the start of the slab."""
        place = [
            slice(part.start // step, part.stop // step)
            for part, step in zip(window, self.source.block, strict=True)
        ]
        place[self.axis] = slice(None)
        self.sums[(slice(None), *place)].addcmul_(features, weights)
        self.weights[tuple(place)] += weights

    def advance(self, start: int) -> None:
        """Choose the classes before voxel `start`, which no later window covers, and move the slab to `start`."""
        step = self.source.block[self.axis]
        moved = (start - self.start) // step
        if moved == 0:
            return
        length = self.weights.shape[self.axis]
        self._finish(min(moved, length))
        kept = length - moved
        for sums, axis in ((self.sums, self.axis + 1), (self.weights, self.axis)):
            if kept > 0:
                sums.narrow(axis, 0, kept).copy_(sums.narrow(axis, moved, kept).clone())
            sums.narrow(axis, max(kept, 0), length - max(kept, 0)).zero_()
        self.start = start

    def _finish(self, length: int) -> None:
        """Choose the classes of the first `length` positions of the slab along its axis, a few planes at a time."""
        block, axis = self.source.block, self.axis
        plane = math.prod(self.weights.shape) // self.weights.shape[axis]
        planes = max(TILE_SCORES // (plane * math.prod(block) * self.num_classes), 1)
        for first in range(0, length, planes):
            count = min(planes, length - first)
            sums = self.sums.narrow(axis + 1, first, count)
            at = self.start + first * block[axis]
            places = (
                None
                if self.positions is None
                else self.positions.narrow(axis + 1, at, count * block[axis])
            )
            scores = self._scores(sums, self.weights.narrow(axis, first, count), places)
            classes = scores.argmax(dim=0)
            form = sums.shape[1:]
            self.classes.narrow(axis, at, count * block[axis]).copy_(self._placed(classes, form))
            if self.margins is not None:
                margins = self._placed(_margins(scores, classes), form)
                self.margins.narrow(axis, at, count * block[axis]).copy_(margins)

    def _scores(self, sums: Tensor, weights: Tensor, positions: Tensor | None) -> Tensor:
        """Scores (K, block voxels * positions) of a tile, from sums of features (F, X, Y, Z) and weights (X, Y, Z).

        `positions` (3, ...) in template mm are those of its voxels, for a source with a prior.
        """
        weight, bias = self.source.weight, self.source.bias
        features = (sums / weights).reshape(len(sums), -1)
        if weight is None or bias is None:
            return features
        scores = torch.addmm(bias[:, None], weight, features).view(self.num_classes, -1)
        if self.source.prior is None or positions is None:
            return scores
        (x, y, z), (bx, by, bz) = weights.shape, self.source.block
        blocks = positions.reshape(3, x, bx, y, by, z, bz).permute(0, 2, 4, 6, 1, 3, 5)
        return self.source.prior.add_to(scores, blocks.reshape(3, -1))

    def _placed(self, values: Tensor, form: torch.Size) -> Tensor:
        """Values (block voxels * positions) of a tile as (X * x, Y * y, Z * z); `form` is (X, Y, Z)."""
        blocks, (x, y, z) = self.source.block, form
        bx, by, bz = blocks
        return values.view(*blocks, *form).permute(3, 0, 4, 1, 5, 2).reshape(x * bx, y * by, z * bz)


def _margins(scores: Tensor, classes: Tensor) -> Tensor:
    """Margin between the best two classes in 255ths, uint8 (N), from scores (K, N), which are overwritten.

    If the best two had all of the probability, this is the difference between theirs: tanh of half the difference of
    their scores, from 0 where they are equal to 1. Other than the softmax probability it does not fall with the number
    of classes, and it takes no sum over them.
    """
    best = scores.gather(0, classes[None])[0]
    second = scores.scatter_(0, classes[None], -math.inf).amax(dim=0)
    return ((best - second) / 2).tanh_().mul_(255).round_().to(torch.uint8)


# ---------------------------------------------------------------- windows


def _fitted(image: Tensor, patch: Shape, block: Shape, mode: str) -> tuple[Tensor, Window]:
    """The image padded to at least the patch so that windows start at whole blocks, and its position in the result."""
    short = [max(0, want - have) for want, have in zip(patch, image.shape[2:], strict=True)]
    before = [missing // 2 for missing in short]
    x, y, z = (
        slice(first, first + size) for first, size in zip(before, image.shape[2:], strict=True)
    )
    wanted = [
        want + -(-max(have - want, 0) // step) * step
        for want, have, step in zip(patch, image.shape[2:], block, strict=True)
    ]
    after = [
        want - have - first
        for want, have, first in zip(wanted, image.shape[2:], before, strict=True)
    ]
    if any(before) or any(after):
        pads = [n for b, a in zip(before[::-1], after[::-1], strict=True) for n in (b, a)]
        image = F.pad(image, pads, mode=mode)
    return image, (x, y, z)


def _windows(
    size: Sequence[int], patch_shape: Shape, overlap: Sequence[float], axis: int, block: Shape
) -> list[Window]:
    """The windows that cover a volume, in order of their start along `axis`."""
    interval = _intervals(size, patch_shape, overlap, block)
    windows = cast(list[Window], dense_patch_slices(size, patch_shape, interval))
    return sorted(windows, key=lambda window: window[axis].start)


def _intervals(
    size: Sequence[int], patch_shape: Shape, overlap: Sequence[float], block: Shape
) -> list[int]:
    """Distance in voxels from one window to the next along each axis, a multiple of the block."""
    return [
        patch if patch == whole else max(int(patch * (1 - share)) // step, 1) * step
        for whole, patch, share, step in zip(size, patch_shape, overlap, block, strict=True)
    ]


def count_windows(
    shape: Shape, patch_shape: Shape, overlap: Sequence[float], block: Shape = (1, 1, 1)
) -> int:
    """Number of windows that cover a volume of `shape` voxels.

    >>> count_windows((48, 64, 48), (40, 56, 48), overlap=(0.5, 0.5, 0.5))
    4
    """
    return math.prod(
        1 + max(math.ceil((size - patch) / step), 0)
        for size, patch, step in zip(
            shape, patch_shape, _intervals(shape, patch_shape, overlap, block), strict=True
        )
    )


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def window_options(settings: Settings, table: LabelTable, flips: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments for `sliding_window_class_map`: classes, overlap, blending, padding and mirrored axes.

    Raises:
        SettingsError: windows are to be mirrored left to right, and a lateral label has no partner.
    """
    partition = settings.dataset.seg.partition
    return {
        "num_classes": table.num_classes,
        "overlap": settings.window_overlap,
        "blending": partition.blending,
        "padding_mode": partition.padding_mode,
        "flips": flips,
        "partner_classes": table.partner_classes if 0 in flips else None,
    }


def window_shape(settings: Settings, size: Sequence[int]) -> Shape:
    """Shape of the window for an image of `size`: the patch, or the whole image under `use_whole_img_as_input`."""
    if not settings.dataset.seg.use_whole_img_as_input:
        return settings.patch_shape
    x, y, z = size
    return x, y, z


class SlidingWindow(Inferer):
    """The sliding window as an inferer for MONAI's engines: from a batch of one image to a class map (1, 1, X, Y, Z).

    Args:
        settings: patch, overlap, blending and mirrored axes.
        table: labels of the classes.
        device: device on which windows are computed.
        mirrored: whether windows are also mirrored if the settings ask for it. Validation during training does not
            mirror windows, because it is repeated often and has to be quick.

    Raises:
        SettingsError: windows are to be mirrored left to right, and a lateral label has no partner.
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
        self.options = window_options(settings, table, settings.window_flips) | {"device": device}
        # A label without a partner has been refused by now, and not only at the end of a training.
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
    """Forward pass of training in bfloat16 for the operations that torch's autocast considers safe.

    Weights stay in float32. bfloat16 has the range of float32, so unlike float16 it needs no loss scaling.
    """

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The network's output for its inputs."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs)
