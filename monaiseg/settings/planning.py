"""Settings of planning: what `monaiseg plan` takes for granted. They are no part of a settings file.

What a plan must know of data and machine is measured, and what things cost stands beside the function that asks for
it. Here stand choices, which a user may make otherwise: `plan(..., rules=PlanningSettings(epochs=50))`.
"""

from __future__ import annotations

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
    """What a plan takes for granted."""

    cpu_network: NetworkSettings = NetworkSettings(
        variant="folded", norm="group", deep_supervision_heads=0
    )
    """Network for a processor; the plan chooses its channels."""
    gpu_network: NetworkSettings = NetworkSettings()
    """Network for a GPU; the plan chooses its channels."""
    steps_for_width: Annotated[
        tuple[tuple[Count, Count], ...], BeforeValidator(as_tuple), Field(min_length=1)
    ] = ((16, 100), (24, 800), (32, 1500), (48, 5000), (64, 15_000))
    """Channels of the first stage that are considered, fewest first, each with the least number of steps at which it is
    taken to beat the next fewer in the same minutes; not tuned."""
    sensible_width: Count = 32
    """The network grows to so many channels on small patches; then the patch grows, and then the network again."""
    least_patch_voxels: Count = 48**3
    """Patches are not cut below this where scans are larger."""
    most_patch_voxels: Count = 128**3
    """Patches do not grow above this."""
    batch_voxels: Count = 4 * 48**3
    """A batch has so many voxels, or two patches if these have more."""
    most_patches: Count = 4
    """Patches of a batch."""
    least_steps: Count = 50
    """With fewer, nothing is learned, and no plan is made."""
    epochs: Count = 20
    """Parts that a training is divided into."""
    validations: Count = 5
    """In all, the last one included."""
    validation_share: Probability = 0.1
    """Share of the minutes that validations may take in all."""
    overlaps: Annotated[tuple[Probability, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        0.5,
        0.25,
    )
    """Overlaps of windows that are considered for validation and prediction, the preferred one first."""
    optim: OptimSettings = OptimSettings(optim_type="adamw", lr=4e-3)
    """Optimiser and learning rate."""
    warmup_epochs: NonNegative = 0.5
    """Epochs over which the learning rate rises."""
    averaged_share: Positive = 1 / 15
    """Share of the training that the average of the weights remembers, within `averaged_steps`."""
    averaged_steps: Annotated[tuple[Count, Count], BeforeValidator(as_tuple)] = (10, 500)
    """Least and most steps that it remembers."""
    augmented_passes: Count = 20
    """Times that each training scan is seen from which on augmentation is on."""
    strongly_augmented_passes: Count = 100
    """Times from which on it is strong: a network that sees no more than the default makes of its scans learns them by
    heart (benchmarks/RESULTS.md)."""
    strong_augmentation: AugmentationSettings = AugmentationSettings(
        rotation=RotationSettings(degrees=30.0),
        scaling=ScalingSettings(factor=(0.7, 1.4)),
        flip=FlipSettings(left_right=0.5),
    )
    """Strong augmentation. Where the labels do not allow a left-right flip it goes without."""
    commit_seconds: Positive = 60
    """Epochs that take longer end with a checkpoint each."""
    loss_seconds: Positive = 600
    """A power cut costs no more than this much of the training."""
    memory_share: Probability = 0.5
    """Share of the free memory that a training may take, where no limit is given."""
    cache_share: Probability = 0.4
    """Share of the memory that prepared cases may take."""
    most_workers: Count = 8
    """Processes that cut patches for a GPU."""

    @model_validator(mode="after")
    def _widths_ascend(self) -> Self:
        if list(self.widths) != sorted(set(self.widths)) or self.sensible_width not in self.widths:
            raise ValueError(
                f"steps_for_width: has the widths {self.widths}; give them ascending, with sensible_width "
                f"({self.sensible_width}) among them"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the first stage that are considered, fewest first."""
        return tuple(width for width, _ in self.steps_for_width)

    def steps_worth(self, width: int) -> int:
        """Least number of steps at which a width beats the next narrower one."""
        return dict(self.steps_for_width)[width]

    def network_for(self, device: str) -> NetworkSettings:
        """The network that suits a device, "cpu" or "cuda"."""
        return self.cpu_network if device == "cpu" else self.gpu_network
