"""Intensities: one scale for all images, and the field that a receive coil leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.transforms.intensity.array import RandBiasField
from monai.transforms.transform import Randomizable, Transform
from monai.utils.type_conversion import convert_to_dst_type
from numpy.typing import NDArray
from typing_extensions import Self, override

from monaiseg.settings import IntensitySettings
from monaiseg.transforms.items import Item


class NormaliseChannelsd(Transform):
    """Intensities to one scale, each channel by itself."""

    def __init__(self, settings: IntensitySettings) -> None:
        self.settings = settings

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"]
        channels = image.as_tensor().numpy()
        scaled = np.stack([normalised(channel, self.settings) for channel in channels])
        return {**data, "image": convert_to_dst_type(scaled, image)[0]}


def normalised(values: NDArray[Any], settings: IntensitySettings) -> NDArray[np.float32]:
    """One channel (X, Y, Z) on the scale of `settings`; a constant one becomes constant, 0 or the lower end."""
    region = values[values > 0] if settings.region == "foreground" else values
    region = region if region.size else values
    if settings.clip_range is not None:
        values, region = (np.clip(array, *settings.clip_range) for array in (values, region))
    centre, scale, offset = _scale(region, settings)
    scaled = np.empty(values.shape, np.float32)
    for plane, source in zip(scaled, values, strict=True):  # in float64, without a second volume
        plane[...] = (source.astype(np.float64) - centre) / scale + offset
    return scaled


def _scale(region: NDArray[Any], settings: IntensitySettings) -> tuple[float, float, float]:
    """Centre, scale and offset: an intensity becomes (intensity - centre) / scale + offset.

    By numpy, whose sums do not depend on the number of threads.
    """
    if settings.method == "none":
        return 0.0, 1.0, 0.0
    least, most = float(region.min()), float(region.max())
    if settings.method == "zscore":
        spread = float(region.std(dtype=np.float64)) if least < most else 1.0
        return float(region.mean(dtype=np.float64)), spread, 0.0
    top, length = most, 2.0
    if settings.method == "percentile":
        percentile = float(np.percentile(region, settings.percentile))
        if percentile > least:  # else nearly all is background: the greatest serves
            top, length = percentile, 1.9
    return least, (top - least) / length if least < most else 1.0, -1.0


class RandCoilFieldd(Randomizable, Transform):
    """MONAI's `RandBiasField` on intensities above the floor: air stays air, whatever the normalisation made of it.

    `RandBiasFieldd` multiplies normalised intensities, of which 0 is the mean or the middle: air would show the field, and
    tissue of the mean intensity would not.
    """

    def __init__(self, probability: float, strength: float) -> None:
        self.probability, self.strength = probability, strength
        self.field = RandBiasField(coeff_range=(-strength, strength), prob=probability)

    @override
    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> Self:
        super().set_random_state(seed, state)
        self.field.set_random_state(seed, state)
        return self

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image, floor = data["image"], data["floor"][:, None, None, None]
        self.field.randomize(image.shape[1:])
        if not self.field._do_transform:
            return dict(data)
        return {**data, "image": self.field(image - floor, randomize=False) + floor}
