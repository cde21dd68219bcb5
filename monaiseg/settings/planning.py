"""Settings for planning: the assumptions of `monaiseg plan`. They are not part of a settings file.

What a plan must know about the data and the machine is measured, and constants of the cost model are defined beside the
function that uses them. This module holds choices, which a user may change:
`plan(..., rules=PlanningSettings(epochs=50))`.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from monaiseg.settings.augmentation import (
    AugmentationSettings,
    FlipSettings,
    RotationSettings,
    ScalingSettings,
)
from monaiseg.settings.network import NetworkSettings
from monaiseg.settings.optimisation import OptimSettings
from monaiseg.settings.section import Count, NonNegative, Positive, Probability, Section, as_tuple


class PlanningSettings(Section):
    """The assumptions and preferences of a plan."""

    cpu_network: NetworkSettings = NetworkSettings(variant="folded", deep_supervision_heads=0)
    """Network for a CPU; the plan chooses the number of channels."""
    gpu_network: NetworkSettings = NetworkSettings()
    """Network for a GPU; the plan chooses the number of channels."""
    steps_for_width: Annotated[
        tuple[tuple[Count, Count], ...], BeforeValidator(as_tuple), Field(min_length=1)
    ] = ((16, 100), (24, 800), (32, 1500), (48, 5000), (64, 15_000))
    """Candidates for the channels of the first stage, in ascending order. Each comes with the minimum number of steps
    at which it is assumed to beat the next narrower candidate in the same minutes; these numbers are not tuned."""
    sensible_width: Count = 32
    """Number of channels that the network grows to on small patches. After that the patch grows, and then the network
    again."""
    least_patch_voxels: Count = 48**3
    """Patches are not made smaller than this many voxels if scans are larger."""
    most_patch_voxels: Count = 128**3
    """Maximum number of voxels in a patch."""
    atlas_explained: Probability = 0.4
    """The network starts from an atlas if the position of a voxel removes at least this share of the uncertainty about
    its label, and patches do not hold whole scans. It removes 0.86 for the structures of whole brains and 0.2 for
    tumours (benchmarks/RESULTS.md)."""
    atlas_cases: Annotated[int, Field(ge=4)] = 6
    """Number of training cases on which this share is measured."""
    most_atlas_patch_voxels: Count = 96**3
    """Maximum number of voxels in a patch of a network with an atlas, which need not see the surroundings to know where
    it is."""
    atlas_head_start: Probability = 0.5
    """Share of the steps in `steps_for_width` that are enough for a network with an atlas, which does not start from
    nothing."""
    most_atlas_channels: Count = 128
    """Maximum number of channels of any stage of a network with an atlas: its deep stages need not tell where it is."""
    most_scores: Count = 16_000_000
    """Number of logits of a batch, voxels times classes, above which the loss is computed at `loss_voxels` voxels."""
    loss_voxels: Count = 32_768
    """Number of voxels of a batch that the loss is computed at if there are too many logits."""
    batch_voxels: Count = 4 * 48**3
    """Target number of voxels in a batch; a batch has two patches if these hold more."""
    most_patches: Count = 4
    """Maximum number of patches in a batch."""
    least_steps: Count = 50
    """Minimum number of training steps. With fewer, nothing is learned, and no plan is made."""
    epochs: Count = 20
    """Number of epochs that a run is divided into."""
    validations: Count = 5
    """Total number of validations, including the last one."""
    validation_share: Probability = 0.1
    """Share of the minutes that all validations together may take."""
    overlaps: Annotated[tuple[Probability, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        0.5,
        0.25,
    )
    """Candidates for the window overlap in validation and prediction, the preferred one first."""
    optim: OptimSettings = OptimSettings(optim_type="adamw", lr=4e-3)
    """The optimiser and its learning rate."""
    warmup_epochs: NonNegative = 0.5
    """Number of warm-up epochs, in which the learning rate rises."""
    averaged_share: Positive = 1 / 15
    """Share of the run that the moving average of the weights covers, within the bounds of `averaged_steps`."""
    averaged_steps: Annotated[tuple[Count, Count], BeforeValidator(as_tuple)] = (10, 500)
    """Minimum and maximum number of steps that the average covers."""
    augmented_passes: Count = 20
    """Augmentation is switched on if each training scan is seen at least this many times."""
    strongly_augmented_passes: Count = 100
    """Augmentation is strong if each training scan is seen at least this many times. With the default augmentation the
    network would overfit to them (benchmarks/RESULTS.md)."""
    strong_augmentation: AugmentationSettings = AugmentationSettings(
        rotation=RotationSettings(degrees=30.0),
        scaling=ScalingSettings(factor=(0.7, 1.4)),
        flip=FlipSettings(left_right=0.5),
    )
    """Strong augmentation. The left-right flip is left out if the labels do not allow it."""
    commit_seconds: Positive = 60
    """If an epoch takes longer than this many seconds, every epoch ends with a checkpoint."""
    loss_seconds: Positive = 600
    """Maximum amount of training, in seconds, that a power cut may cost."""
    memory_share: Probability = 0.5
    """Share of the free memory that a run may use if no limit is given."""
    cache_share: Probability = 0.4
    """Share of the memory that the cached cases may use."""
    most_workers: Count = 8
    """Maximum number of processes that cut patches for a GPU."""

    @model_validator(mode="after")
    def _widths_ascend(self) -> Self:
        if list(self.widths) != sorted(set(self.widths)) or self.sensible_width not in self.widths:
            raise ValueError(
                f"steps_for_width: the widths {self.widths} must ascend and include sensible_width "
                f"({self.sensible_width})"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Candidates for the channels of the first stage, in ascending order."""
        return tuple(width for width, _ in self.steps_for_width)

    def steps_worth(self, width: int, *, with_atlas: bool = False) -> int:
        """Minimum number of steps at which a width beats the next narrower one."""
        steps = dict(self.steps_for_width)[width]
        return math.ceil(self.atlas_head_start * steps) if with_atlas else steps

    def network_for(self, device: str) -> NetworkSettings:
        """The network that suits a device, "cpu" or "cuda"."""
        return self.cpu_network if device == "cpu" else self.gpu_network
