"""Bilateral filter: smoothing that keeps edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms.transform import Randomizable, Transform
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from monaiseg.settings import BilateralSettings
from monaiseg.transforms.items import Item


class RandBilaterald(Randomizable, Transform):
    """Smooths the image at random and preserves its edges."""

    def __init__(self, settings: BilateralSettings) -> None:
        self.settings = settings

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        if self.R.rand() < self.settings.probability:
            sigmas = self.settings.domain_sigma, self.settings.range_sigma
            d["image"] = bilateral(d["image"], *sigmas)
        return d


def bilateral(image: Tensor, domain_sigma: float, range_sigma: float) -> Tensor:
    """Mean of each voxel's neighbours in an image (C, X, Y, Z), weighted by distance in space and in intensity.

    Tomasi and Manduchi, ICCV 1998. Like ITK's filter, it is truncated at 2.5 standard deviations.
    """
    radius = math.ceil(2.5 * domain_sigma)
    padded = F.pad(image[None], [radius] * 6, mode="replicate")[0]
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    for offset in itertools.product(range(2 * radius + 1), repeat=3):
        x, y, z = (slice(o, o + size) for o, size in zip(offset, image.shape[1:], strict=True))
        neighbour = padded[:, x, y, z]
        far = sum((o - radius) ** 2 for o in offset) / domain_sigma**2
        unlike = ((neighbour - image) / range_sigma) ** 2
        weight = ((unlike + far) / -2).exp_()
        total += weight * neighbour
        weights += weight
    return total / weights
