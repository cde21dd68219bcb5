"""Settings for the loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from monaiseg.settings.section import NonNegative, Section, as_tuple


class CrossEntropySettings(Section):
    """The cross-entropy term of the loss."""

    include_background: bool = True
    """false: the cross-entropy ignores voxels whose reference label is background."""
    class_weight: (
        Annotated[tuple[NonNegative, ...], BeforeValidator(as_tuple), Field(min_length=2)] | None
    ) = None
    """One weight per class, background first. null: equal weights."""


class LossSettings(Section):
    """The loss that training minimises."""

    type: Literal["dice_ce", "ce", "focal", "dice", "gdice", "tversky"] = "dice_ce"
    """`dice_ce` is the sum of Dice and cross-entropy; `gdice` is generalised Dice."""
    ce: CrossEntropySettings = CrossEntropySettings()
    include_background: bool = False
    """Whether the overlap losses (Dice, Tversky) include the background."""
    batch_dice: bool = True
    """true: compute the overlap over the whole batch. false: compute it for each patch and take the mean."""
    only_present: bool = False
    """true: the overlap losses leave out classes that do not occur in the reference. With many classes, most patches
    hold only some of them, and the others would mainly teach the network not to predict rare classes."""
    voxels: Annotated[int, Field(ge=1)] | None = None
    """Number of voxels of a batch that the loss is computed at, drawn anew at each step, those in and beside the foreground
    eight times as often as others. null: all voxels. With many classes, head and loss otherwise take most of the time and memory
    of a step. Requires `network.deep_supervision_heads` 0."""
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss."""
    tversky_alpha: NonNegative = 0.5
    """Weight of false positives in the Tversky loss."""
    tversky_beta: NonNegative = 0.5
    """Weight of false negatives in the Tversky loss."""
