"""The base class of sections, and the types of their values: ranges, triples, counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def as_tuple(value: object) -> object:
    """Turn a list into a tuple: JSON has lists, and frozen settings hold tuples."""
    return tuple(value) if isinstance(value, list) else value


def all_or_positive(value: int) -> int:
    """Refuse 0, which is neither -1 (all) nor a count."""
    if value == 0:
        raise ValueError("0 is neither -1 nor a whole number of at least 1")
    return value


def all_or_classes(value: int) -> int:
    """Refuse fewer than two classes."""
    if value in {0, 1}:
        raise ValueError(f"{value} is neither -1 nor at least 2 (background and one structure)")
    return value


def ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range whose lower end is above its upper end."""
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower end {bounds[0]} is above the upper end {bounds[1]}")
    return bounds


MOST = 2**31 - 1
"""Maximum of any count: the libraries below count voxels, steps and labels with 32 bits."""
Count = Annotated[int, Field(ge=1, le=MOST)]
ChannelCount = Annotated[int, Field(ge=1, le=1 << 16)]
AllOrCount = Annotated[int, Field(ge=-1, le=MOST), AfterValidator(all_or_positive)]
BatchLimit = Annotated[int, Field(ge=-1, le=MOST)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[float, float], BeforeValidator(as_tuple), AfterValidator(ascending)]
PositiveRange = Annotated[
    tuple[Positive, Positive], BeforeValidator(as_tuple), AfterValidator(ascending)
]
Triple = Annotated[tuple[Count, Count, Count], BeforeValidator(as_tuple)]
SizeTriple = Annotated[tuple[AllOrCount, AllOrCount, AllOrCount], BeforeValidator(as_tuple)]
MarginTriple = Annotated[
    tuple[
        Annotated[int, Field(ge=0, le=MOST)],
        Annotated[int, Field(ge=0, le=MOST)],
        Annotated[int, Field(ge=0, le=MOST)],
    ],
    BeforeValidator(as_tuple),
]
SpacingTriple = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(as_tuple)]
Angle = Annotated[float, Field(ge=0, le=180)]
AngleTriple = Annotated[tuple[Angle, Angle, Angle], BeforeValidator(as_tuple)]
ShiftTriple = Annotated[tuple[NonNegative, NonNegative, NonNegative], BeforeValidator(as_tuple)]


class Section(BaseModel):
    """A part of the settings: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )
