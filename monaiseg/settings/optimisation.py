"""Settings of the optimiser and its learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monaiseg.settings.section import Count, NonNegative, Positive, Section


class AdamSettings(Section):
    """Adam and AdamW."""

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""


class SgdSettings(Section):
    """Stochastic gradient descent."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Momentum, Nesterov's where it is above 0."""


class StepSettings(Section):
    """Schedule `step`: the rate falls by a factor at regular epochs."""

    step_size: Count = 50
    """Epochs between falls."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor at each fall."""


class PolynomialSettings(Section):
    """Schedule `poly`: (1 - progress) to a power."""

    power: Positive = 0.9
    """The power."""


class PlateauSettings(Section):
    """Schedule `plateau`: the rate falls when validation Dice has stopped rising."""

    patience: Annotated[int, Field(ge=0)] = 10
    """Validations without a rise before the rate falls."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor at each fall."""
    threshold: NonNegative = 1e-4
    """A rise of mean foreground Dice by less than this does not count."""
    min_lr: NonNegative = 0.0
    """The rate does not fall below this."""


class SchedulerSettings(Section):
    """How the learning rate changes after the warm-up."""

    type: Literal["constant", "step", "poly", "cosine", "plateau"] = "poly"
    """`constant`, `step` (EasyReg's "custom"), `poly` and `cosine` (both to zero at the last step), or `plateau`."""
    step: StepSettings = StepSettings()
    poly: PolynomialSettings = PolynomialSettings()
    plateau: PlateauSettings = PlateauSettings()


class OptimSettings(Section):
    """Optimiser and learning rate."""

    optim_type: Literal["adam", "adamw", "sgd"] = "adamw"
    """The optimiser."""
    lr: Positive = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegative = 1e-4
    """Decay of the weights, decoupled under `adamw`, as an L2 term otherwise."""
    adam: AdamSettings = AdamSettings()
    sgd: SgdSettings = SgdSettings()
    lr_scheduler: SchedulerSettings = SchedulerSettings()
