"""Settings of the loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from monaiseg.settings.section import NonNegative, Section, as_tuple


class CrossEntropySettings(Section):
    """The cross-entropy part of a loss."""

    include_background: bool = True
    """false leaves voxels whose reference is background out of the cross-entropy."""
    class_weight: (
        Annotated[tuple[NonNegative, ...], BeforeValidator(as_tuple), Field(min_length=2)] | None
    ) = None
    """One weight a class, background first. null: all alike."""


class LossSettings(Section):
    """What training minimises."""

    type: Literal["dice_ce", "ce", "focal", "dice", "gdice", "tversky"] = "dice_ce"
    """`dice_ce` is the sum of Dice and cross-entropy; `gdice` is generalised Dice."""
    ce: CrossEntropySettings = CrossEntropySettings()
    include_background: bool = False
    """Whether the overlap losses count background as a structure."""
    batch_dice: bool = True
    """true: overlap over the voxels of the whole batch; false: patch by patch, then the mean."""
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss."""
    tversky_alpha: NonNegative = 0.5
    """Weight of false positives in the Tversky loss."""
    tversky_beta: NonNegative = 0.5
    """Weight of false negatives in the Tversky loss."""
