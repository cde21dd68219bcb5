"""Mirroring, which exchanges left and right labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms.transform import Randomizable, Transform
from typing_extensions import override

from monaiseg.transforms.items import Item


class RandMirrord(Randomizable, Transform):
    """Mirrors image and label map; mirroring left to right replaces each label by its partner.

    After `RandFlipd`, the right hippocampus would have the label of the left one.

    Args:
        probabilities: probability of mirroring along X, Y, Z.
        partner_classes: for each class its partner on the other side; None if X is never mirrored.
    """

    def __init__(
        self, probabilities: tuple[float, float, float], partner_classes: Sequence[int] | None
    ) -> None:
        self.probabilities = probabilities
        known = [] if partner_classes is None else partner_classes
        self.partners = torch.tensor([*known, len(known)])  # the last: unlabelled voxels

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        mirrored = self.R.rand(3) < self.probabilities
        axes = [axis + 1 for axis in range(3) if mirrored[axis]]
        if axes:
            d |= {key: d[key].flip(axes) for key in ("image", "label", "positions") if key in d}
        if mirrored[0]:
            label = d["label"]
            partners = self.partners.to(label.dtype)
            d["label"] = partners.index_select(0, label.view(-1).int()).view(label.shape)
            if "positions" in d:
                d["positions"][0].neg_()  # the right side is now on the left; flip made a copy
        return d
