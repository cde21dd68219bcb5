"""Intensities: normalisation of each channel to one scale."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class IntensityRule(Protocol):
    """How intensities are normalised; `monaiseg.settings.IntensitySettings` documents the fields."""

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def region(self) -> str: ...  # noqa: D102
    @property
    def clip_range(self) -> tuple[float, float] | None: ...  # noqa: D102
    @property
    def percentile(self) -> float: ...  # noqa: D102


class Intensity(NamedTuple):
    """The rule as a portable model records it."""

    method: str
    region: str
    clip_range: tuple[float, float] | None
    percentile: float


def normalised(values: NDArray[Any], rule: IntensityRule) -> NDArray[np.float32]:
    """One channel (X, Y, Z), normalised by `rule`; a constant one becomes 0 or the lower end of the scale."""
    region = values[values > 0] if rule.region == "foreground" else values
    region = region if region.size else values
    if rule.clip_range is not None:
        values, region = (np.clip(array, *rule.clip_range) for array in (values, region))
    centre, scale, offset = _scale(region, rule)
    scaled = np.empty(values.shape, np.float32)
    for plane, source in zip(scaled, values, strict=True):  # in float64, plane by plane
        plane[...] = (source.astype(np.float64) - centre) / scale + offset
    return scaled


def _scale(region: NDArray[Any], rule: IntensityRule) -> tuple[float, float, float]:
    """Centre, scale and offset: an intensity becomes (intensity - centre) / scale + offset.

    Computed with NumPy, whose sums do not depend on the number of threads.
    """
    if rule.method == "none":
        return 0.0, 1.0, 0.0
    least, most = float(region.min()), float(region.max())
    if rule.method == "zscore":
        spread = float(region.std(dtype=np.float64)) if least < most else 1.0
        return float(region.mean(dtype=np.float64)), spread, 0.0
    top, length = most, 2.0
    if rule.method == "percentile":
        percentile = float(np.percentile(region, rule.percentile))
        if percentile > least:  # otherwise nearly all is background: use the maximum
            top, length = percentile, 1.9
    return least, (top - least) / length if least < most else 1.0, -1.0
