"""Settings for the optimiser and its learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monaiseg.settings.section import Count, NonNegative, Positive, Section


class AdamSettings(Section):
    """Parameters of Adam and AdamW."""

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay rate of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay rate of the second moment."""


class SgdSettings(Section):
    """Parameters of stochastic gradient descent."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Nesterov momentum. 0: no momentum."""


class StepSettings(Section):
    """Schedule `step`: the learning rate is multiplied by a factor at regular intervals."""

    step_size: Count = 50
    """Number of epochs between reductions."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor of each reduction."""


class PolynomialSettings(Section):
    """Schedule `poly`: the learning rate is multiplied by (1 - progress) to a power."""

    power: Positive = 0.9
    """Exponent of the decay."""


class PlateauSettings(Section):
    """Schedule `plateau`: the learning rate is reduced when the validation Dice stops improving."""

    patience: Annotated[int, Field(ge=0)] = 10
    """Number of validations without improvement before the learning rate is reduced."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor of each reduction."""
    threshold: NonNegative = 1e-4
    """Smallest rise of the mean foreground Dice that counts as an improvement."""
    min_lr: NonNegative = 0.0
    """Lower bound of the learning rate."""


class SchedulerSettings(Section):
    """How the learning rate changes after the warm-up."""

    type: Literal["constant", "step", "poly", "cosine", "plateau"] = "poly"
    """`constant`, `step` (EasyReg's "custom"), `poly` or `cosine` (both reach zero at the last step), or `plateau`."""
    step: StepSettings = StepSettings()
    poly: PolynomialSettings = PolynomialSettings()
    plateau: PlateauSettings = PlateauSettings()


class OptimSettings(Section):
    """The optimiser and its learning rate."""

    optim_type: Literal["adam", "adamw", "sgd"] = "adamw"
    """The optimiser."""
    lr: Positive = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegative = 1e-4
    """Weight decay: decoupled with `adamw`, an L2 term otherwise."""
    adam: AdamSettings = AdamSettings()
    sgd: SgdSettings = SgdSettings()
    lr_scheduler: SchedulerSettings = SchedulerSettings()
