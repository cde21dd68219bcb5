"""Batches: from the patches of a loader to the inputs and targets of a training step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monaiseg.data import Shape
from monaiseg.networks import at_places
from monaiseg.settings import Settings

ELSEWHERE = 1 / 8
"""How often a block far from the foreground is drawn, relative to one in or beside it."""


class PatchBatch:
    """Prepares a batch for MONAI's trainer, as its `prepare_batch`.

    Positions become further channels of the image, and with `tsk_set.loss.voxels` the network gets the blocks of voxels
    that it should give logits for. The draws are from torch's global random state, which `SeededSteps` sets.

    Args:
        settings: number of voxels for the loss, and whether there is an atlas.
        network: the network to train; its `block` is the shape of its blocks in voxels.
    """

    def __init__(self, settings: Settings, network: nn.Module) -> None:
        self.voxels, self.atlas = settings.tsk_set.loss.voxels, settings.tsk_set.network.atlas
        self.block: Shape = getattr(network, "block", (1, 1, 1))

    def __call__(
        self,
        batch: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Image and label map, or these with arguments of the network's `forward`."""
        image, label = (
            batch[key].to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label")
        )
        options: dict[str, Any] = {}
        if self.atlas:
            positions = batch["positions"].to(image, non_blocking=non_blocking)
            image = torch.cat([image, positions], dim=1)
            options["cases"] = list(batch["case_id"])
        if self.voxels is not None:
            count = max(self.voxels // (len(label) * math.prod(self.block)), 1)
            places = drawn_places(label, self.block, count)
            label = at_places(label, places, self.block)[..., None, None]
            options["places"] = places
        return (image, label, (), options) if options else (image, label)


def drawn_places(label: Tensor, block: Shape, count: int) -> Tensor:
    """Some blocks (B, N) of a label map (B, 1, X, Y, Z), mostly in or beside the foreground, without repeats.

    N is `count`, or the number of blocks if that is smaller.
    """
    foreground = (label > 0).float()
    beside = F.max_pool3d(F.max_pool3d(foreground, block), 3, 1, 1).flatten(1)
    weights = beside + (1 - beside) * ELSEWHERE
    return torch.multinomial(weights, min(count, weights.shape[1]))
