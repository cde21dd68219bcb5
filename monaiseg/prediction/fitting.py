"""Fitting: ways to compute a class map that take less and less memory of a GPU, but more time.

The class maps are the same apart from rounding. Only a lack of memory of a GPU leads to the next way: after a lack of
main memory nothing else would fit either.
"""

from __future__ import annotations

import gc
import warnings
from typing import Any

import torch
from torch import Tensor

from monaiseg.data import Shape
from monaiseg.errors import MonaisegWarning
from monaiseg.networks import sliding_window_class_map

WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("two windows at a time", {"window_batch": 2}),
    ("one window at a time", {"window_batch": 1}),
    ("one window at a time, added up in main memory", {"window_batch": 1, "sums_on": "cpu"}),
)
"""Ways in words, and their options of the sliding window."""


class FittingWay:
    """The first of the ways that has fitted so far. Later scans start with it."""

    def __init__(self) -> None:
        self.number = 0

    def class_map(
        self, network: Any, image: Tensor, window: Shape, *, device: torch.device, **options: Any
    ) -> Tensor:
        """The class map of an image, see `sliding_window_class_map`; a warning says if a way did not fit.

        Raises:
            torch.OutOfMemoryError: not even the last way fits.
        """
        while True:
            _, way = WAYS[self.number]
            try:
                return sliding_window_class_map(
                    network, image, window, device=device, **options, **way
                )
            except torch.OutOfMemoryError:
                if self.number + 1 == len(WAYS):
                    raise
            # Outside of the handler, whose error holds on to the tensors that were made.
            self.number += 1
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            warnings.warn(
                f"the memory of {device} ran out; predicting with {WAYS[self.number][0]}, which is slower",
                MonaisegWarning,
                stacklevel=3,
            )
