"""Intensities: normalisation to one scale, and the bias field of a receive coil."""

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
    """Normalises the intensities of each channel separately."""

    def __init__(self, settings: IntensitySettings) -> None:
        self.settings = settings

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        image = data["image"]
        channels = image.as_tensor().numpy()
        scaled = np.stack([normalised(channel, self.settings) for channel in channels])
        return {**data, "image": convert_to_dst_type(scaled, image)[0]}


def normalised(values: NDArray[Any], settings: IntensitySettings) -> NDArray[np.float32]:
    """One channel (X, Y, Z), normalised as `settings` say; a constant one becomes 0 or the lower end of the scale."""
    region = values[values > 0] if settings.region == "foreground" else values
    region = region if region.size else values
    if settings.clip_range is not None:
        values, region = (np.clip(array, *settings.clip_range) for array in (values, region))
    centre, scale, offset = _scale(region, settings)
    scaled = np.empty(values.shape, np.float32)
    for plane, source in zip(scaled, values, strict=True):  # in float64, plane by plane
        plane[...] = (source.astype(np.float64) - centre) / scale + offset
    return scaled


def _scale(region: NDArray[Any], settings: IntensitySettings) -> tuple[float, float, float]:
    """Centre, scale and offset: an intensity becomes (intensity - centre) / scale + offset.

    Computed with NumPy, whose sums do not depend on the number of threads.
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
        if percentile > least:  # otherwise nearly all is background: use the maximum
            top, length = percentile, 1.9
    return least, (top - least) / length if least < most else 1.0, -1.0


class RandCoilFieldd(Randomizable, Transform):
    """MONAI's `RandBiasField` applied to intensities above the floor: air is unchanged under every normalisation.

    `RandBiasFieldd` multiplies normalised intensities, where 0 is the mean or the middle of the range: air would show
    the field, and tissue of mean intensity would not.
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
