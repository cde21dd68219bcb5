"""The sliding window: class maps from the features of overlapping windows.

The head of a network is linear, so it is applied once to the weighted mean of the features at a place, in place of once
per window: see `monaiseg.networks.sliding_window`, whose class maps these are. Features are kept for a slab, one
window thick, of the longest axis. Memory does not depend on the number of classes. An atlas depends on the place alone
and is added to the scores there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.prior import POSITIONS, Prior
from monaiseg.portable.resampling import Triple

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From windows (B, C, X, Y, Z) to features (B, F, X / x, Y / y, Z / z); a feature stands for x * y * z voxels."""
TILE_SCORES = 1 << 22
"""Number of scores in memory at a time: 16 MiB."""


@dataclass(frozen=True)
class Head:
    """The last layer of a network: the scores of K classes for a block of voxels from F features."""

    weight: NDArray[Any]
    """(K, x, y, z, F)"""
    bias: NDArray[Any]
    """(K, x, y, z)"""

    @property
    def block(self) -> Triple:
        """Voxels along X, Y, Z that one position of the features stands for."""
        _, x, y, z, _ = self.weight.shape
        return x, y, z

    def with_mirrors(self, flips: Sequence[Sequence[int]], partners: Sequence[int] | None) -> Head:
        """The head for the concatenated features of mirrored windows: the mean of their scores.

        Args:
            flips: axes that each window is mirrored along; its features are mirrored back.
            partners: class of the other side for each class; it takes its scores where X is mirrored.
        """
        parts = []
        for axes in flips:
            weight, bias = (
                np.flip(a, tuple(axis + 1 for axis in axes)) for a in (self.weight, self.bias)
            )
            if 0 in axes and partners is not None:
                weight, bias = weight[list(partners)], bias[list(partners)]
            parts.append((weight, bias))
        weights, biases = zip(*parts, strict=True)
        return Head(np.concatenate(weights, axis=-1) / len(parts), np.mean(biases, axis=0))

    def scores(self, features: NDArray[Any]) -> NDArray[Any]:
        """Scores (X, Y, Z, x, y, z, K) from features (F, X, Y, Z)."""
        num_features, *shape = features.shape
        weight = np.moveaxis(self.weight, 0, -2).reshape(-1, num_features)  # (x * y * z * K, F)
        scores = features.reshape(num_features, -1).T @ np.ascontiguousarray(weight.T)
        scores += np.moveaxis(self.bias, 0, -1).reshape(-1)
        return np.asarray(scores.reshape(*shape, *self.block, -1))


def class_map(
    network: Network,
    image: NDArray[np.float32],
    head: Head,
    patch: Triple,
    overlap: Sequence[float],
    *,
    blending: str = "gaussian",
    prior: Prior | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """Class index of every voxel of an image (C, X, Y, Z), at least as large as the patch and whole blocks.

    With a prior, the last three channels are the positions of the voxels in its template.
    """
    size = image.shape[1:]
    axis = max(range(3), key=lambda a: size[a])
    starts = [window_starts(*sizes) for sizes in zip(size, patch, overlap, head.block, strict=True)]
    weights = window_weights(patch, head.block, blending)
    slab = _Slab(head, size, patch, axis, prior, image[-POSITIONS:])
    total, done = math.prod(map(len, starts)), itertools.count(1)
    for start in starts[axis]:
        slab.advance(start)
        for corner in itertools.product(*[[start] if a == axis else starts[a] for a in range(3)]):
            window = tuple(slice(s, s + n) for s, n in zip(corner, patch, strict=True))
            slab.add(corner, network(image[(np.newaxis, slice(None), *window)])[0], weights)
            if on_progress is not None:
                on_progress(next(done), total)
    slab.advance(size[axis])
    return slab.classes


def window_starts(size: int, patch: int, overlap: float, block: int) -> list[int]:
    """First voxels of the windows along one axis; the last window ends with the axis.

    >>> window_starts(80, 32, 0.5, 2)
    [0, 16, 32, 48]
    """
    interval = max(int(patch * (1 - overlap)) // block, 1) * block
    count = 1 + max(-(-(size - patch) // interval), 0)
    return [min(number * interval, size - patch) for number in range(count)]


def window_weights(patch: Triple, block: Triple, blending: str) -> NDArray[np.float32]:
    """Weight of each position of a window's features: the mean over its block of MONAI's importance map.

    "gaussian" has a standard deviation of an eighth of the window, and at least a thousandth everywhere.
    """
    weights = np.ones(patch, np.float32)
    if blending == "gaussian":
        x, y, z = (_gaussian(n) for n in patch)
        weights = x[:, None, None] * y[:, None] * z
        weights = np.maximum(weights, max(float(weights.min()), 1e-3))
    split = [n for pair in zip(patch, block, strict=True) for n in (pair[0] // pair[1], pair[1])]
    return np.asarray(weights.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32))


def _gaussian(size: int) -> NDArray[np.float32]:
    offsets = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    return np.asarray(np.exp(offsets**2 / np.float32(-2 * (size / 8) ** 2)))


class _Slab:
    """Weighted sums of features where later windows still contribute, and the classes before it."""

    def __init__(
        self,
        head: Head,
        size: Sequence[int],
        patch: Triple,
        axis: int,
        prior: Prior | None,
        positions: NDArray[np.float32],
    ) -> None:
        self.head, self.axis, self.start, self.patch = head, axis, 0, patch
        self.prior, self.positions = prior, positions
        num_classes, num_features = head.weight.shape[0], head.weight.shape[-1]
        self.classes = np.empty(size, np.uint8 if num_classes <= 256 else np.int16)
        shape = [n // step for n, step in zip(size, head.block, strict=True)]
        shape[axis] = patch[axis] // head.block[axis]
        self.sums = np.zeros((num_features, *shape), np.float32)
        self.weights = np.zeros(shape, np.float32)

    def add(
        self, corner: Sequence[int], features: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> None:
        """Add the features (F, X, Y, Z) of the window at `corner`, which starts where the slab does."""
        place = [
            slice(first // step, (first + n) // step)
            for first, n, step in zip(corner, self.patch, self.head.block, strict=True)
        ]
        place[self.axis] = slice(None)
        self.sums[(slice(None), *place)] += features * weights
        self.weights[tuple(place)] += weights

    def advance(self, start: int) -> None:
        """Choose the classes before voxel `start`, which no later window covers, and move the slab there."""
        moved = (start - self.start) // self.head.block[self.axis]
        if not moved:
            return
        for first, count in self._tiles(min(moved, self.weights.shape[self.axis])):
            self._choose(first, count)
        for array, axis in ((self.sums, self.axis + 1), (self.weights, self.axis)):
            plane_first = np.moveaxis(array, axis, 0)
            kept = max(len(plane_first) - moved, 0)
            plane_first[:kept] = plane_first[moved : moved + kept].copy()
            plane_first[kept:] = 0
        self.start = start

    def _tiles(self, length: int) -> Iterator[tuple[int, int]]:
        """First position and length of tiles that cover the first `length` positions of the slab."""
        plane = self.weights.size // self.weights.shape[self.axis]
        scores = plane * self.head.bias.size
        step = max(TILE_SCORES // scores, 1)
        return ((first, min(step, length - first)) for first in range(0, length, step))

    def _choose(self, first: int, count: int) -> None:
        step = self.head.block[self.axis]
        here: list[slice] = [slice(None)] * 3
        here[self.axis] = slice(first, first + count)
        scores = self.head.scores(self.sums[(slice(None), *here)] / self.weights[tuple(here)])
        at = self.start + first * step
        here[self.axis] = slice(at, at + count * step)
        if self.prior is not None:
            blocks = _in_blocks(self.positions[(slice(None), *here)], self.head.block)
            self.prior.add_to(scores.reshape(-1, scores.shape[-1]), blocks)
        chosen = scores.argmax(axis=-1).transpose(0, 3, 1, 4, 2, 5)  # (X, x, Y, y, Z, z)
        self.classes[tuple(here)] = chosen.reshape(self.classes[tuple(here)].shape)


def _in_blocks(positions: NDArray[np.float32], block: Triple) -> NDArray[np.float32]:
    """Positions (3, X * x, Y * y, Z * z) of voxels as (N, 3), in the order of the scores."""
    split = [
        n
        for size, step in zip(positions.shape[1:], block, strict=True)
        for n in (size // step, step)
    ]
    return positions.reshape(3, *split).transpose(1, 3, 5, 2, 4, 6, 0).reshape(-1, 3)


def mirrored(network: Network, flips: Sequence[Sequence[int]], *, placed: bool = False) -> Network:
    """A network whose features are those of mirrored windows, mirrored back and concatenated.

    `placed`: the last three channels are positions, and that from left to right changes its sign.
    """

    def features(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = []
        for axes in flips:
            dims = tuple(axis + 2 for axis in axes)
            inputs = np.flip(windows, dims).copy()
            if placed and 0 in axes:
                inputs[:, -POSITIONS] *= -1
            parts.append(np.flip(network(inputs), dims))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    return features


def every_mirror(axes: Sequence[int]) -> list[list[int]]:
    """All sets of some of the axes, the empty one first.

    >>> every_mirror([0, 2])
    [[], [0], [2], [0, 2]]
    """
    return [[axis for bit, axis in enumerate(axes) if n >> bit & 1] for n in range(2 ** len(axes))]
