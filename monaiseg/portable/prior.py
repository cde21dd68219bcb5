"""The prior of a network with an atlas: the template that scans are registered to, and what the atlas adds to scores.

See `monaiseg.atlas`, which makes both. Each cell of the atlas keeps the few classes that the training cases have there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.portable.protobuf import ModelError
from monaiseg.portable.registration import Cells, Floats, MeanImage

SURPRISE = 0.03
"""Probability of a class that the atlas does not expect, shared equally by all classes."""
MOST_CELLS = 1 << 26
"""Largest number of cells: 400 along each axis."""
POSITIONS = 3
"""Channels that a network with an atlas takes after those of the image: template mm along x, y, z."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Template and atlas of a network.

    Args:
        template: the mean training image.
        cells: lattice of the atlas.
        counts: number of classes that each row keeps, uint8 (cells + 1,): a row a cell, with 0 where no training case was,
            and a last one that these use.
        classes: the kept classes, row by row.
        logs: logarithms of their probabilities.
        frequencies: logarithms of the frequencies of all classes, (K,).
    """

    template: MeanImage
    cells: Cells
    counts: NDArray[np.uint8]
    classes: NDArray[Any]
    logs: NDArray[np.float16]
    frequencies: Floats

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First entry of each row."""
        return np.cumsum(self.counts, dtype=np.int64) - self.counts

    def add_to(self, scores: Floats, positions: Floats) -> None:
        """Add the log-probabilities at positions (N, 3) to scores (N, K) in place, up to a constant for all classes.

        Only the few classes that the atlas keeps at a position are changed.
        """
        cells = self.cells.nearest(positions)
        rows = np.where(self.counts[cells] > 0, cells, len(self.counts) - 1)
        counts = self.counts[rows][:, None]
        slot = np.arange(counts.max(initial=0))
        # Positions with fewer classes than others repeat their first one.
        entry = self._starts[rows][:, None] + np.where(slot < counts, slot, 0)
        classes = self.classes[entry].astype(np.intp)
        rest = np.float32(math.log(SURPRISE / len(self.frequencies)))
        raised = np.take_along_axis(scores, classes, 1) + (
            self.logs[entry].astype(np.float32) - rest
        )
        np.put_along_axis(scores, classes, raised, 1)


def prior_of(
    template: Mapping[str, NDArray[Any]], atlas: Mapping[str, NDArray[Any]], num_classes: int
) -> Prior:
    """The prior from the arrays of a template and an atlas, as `tensors()` of `monaiseg.atlas` names them.

    Raises:
        ModelError: the arrays do not belong together, as in a damaged or forged file.
    """
    mean = MeanImage(
        template["image"].astype(np.float32),
        _cells(template),
        template["deviation"],
        template["correlations"],
    )
    parts = (atlas[name] for name in ("counts", "classes", "logs", "frequencies"))
    prior = Prior(mean, _cells(atlas), *parts)
    numbers = (mean.image, mean.deviation, mean.correlations, prior.logs)
    entries = int(prior.counts.sum(dtype=np.int64))
    fits = (
        mean.image.shape == mean.cells.shape
        and mean.deviation.shape == (3,)
        and mean.deviation.min() > 0
        and mean.correlations.shape[1:] == (2,)
        and all(bool(np.isfinite(values).all()) for values in numbers)
        and prior.counts.dtype == np.uint8
        and prior.counts.shape == (math.prod(prior.cells.shape) + 1,)
        and prior.counts[-1] > 0
        and prior.classes.shape == prior.logs.shape == (entries,)
        and prior.frequencies.shape == (num_classes,)
        and 0 <= prior.classes.min() <= prior.classes.max() < num_classes
    )
    if not fits:
        raise ModelError("has an atlas whose parts do not match; export it again")
    return prior


def _cells(arrays: Mapping[str, NDArray[Any]]) -> Cells:
    x, y, z = map(int, arrays["shape"])
    sizes = arrays["cell_mm"]
    sensible = sizes.shape == (3,) and bool((sizes > 0).all() and np.isfinite(sizes).all())
    if min(x, y, z) < 1 or x * y * z > MOST_CELLS or not sensible:
        raise ModelError(f"has an atlas of {(x, y, z)} cells of {sizes} mm; export it again")
    return Cells((x, y, z), sizes.tolist())
