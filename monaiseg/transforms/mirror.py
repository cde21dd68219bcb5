"""Mirror images, in which left and right labels change places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms.transform import Randomizable, Transform
from typing_extensions import override

from monaiseg.transforms.items import Item


class RandMirrord(Randomizable, Transform):
    """Mirrors image and label map; left to right, labels become their partners.

    Not `RandFlipd`, after which the label of the left hippocampus lies on the right one.

    Args:
        probabilities: along X, Y, Z.
        partner_classes: for each class the class in the mirror; None where X is never mirrored.
    """

    def __init__(
        self, probabilities: tuple[float, float, float], partner_classes: Sequence[int] | None
    ) -> None:
        self.probabilities = probabilities
        known = [] if partner_classes is None else partner_classes
        self.partners = torch.tensor([*known, len(known)])  # the last: voxels that no one labelled

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        mirrored = self.R.rand(3) < self.probabilities
        axes = [axis + 1 for axis in range(3) if mirrored[axis]]
        if axes:
            d["image"], d["label"] = d["image"].flip(axes), d["label"].flip(axes)
        if mirrored[0]:
            label = d["label"]
            partners = self.partners.to(label.dtype)
            d["label"] = partners.index_select(0, label.view(-1).int()).view(label.shape)
        return d
