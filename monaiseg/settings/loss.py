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
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss."""
    tversky_alpha: NonNegative = 0.5
    """Weight of false positives in the Tversky loss."""
    tversky_beta: NonNegative = 0.5
    """Weight of false negatives in the Tversky loss."""
