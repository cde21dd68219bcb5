"""Intensities: normalisation to one scale, and the bias field of a receive coil."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.transforms.intensity.array import RandBiasField
from monai.transforms.transform import Randomizable, Transform
from monai.utils.type_conversion import convert_to_dst_type
from typing_extensions import Self, override

from monaiseg.portable import normalised
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
