"""Words: a chain as readable text."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
from monai.transforms.transform import Transform
from pydantic import BaseModel


def in_words(chain: Iterable[object]) -> list[str]:
    """The transforms by name, each with the arguments that differ from the defaults of its class.

    >>> from monai.transforms.croppad.dictionary import RandSpatialCropd
    >>> in_words([RandSpatialCropd(("image", "label"), (40, 56, 40), random_size=False)])
    ["RandSpatialCropd(keys=('image', 'label'), roi_size=(40, 56, 40))"]
    """
    return [f"{type(step).__name__}({', '.join(_arguments(step))})" for step in chain]


def _arguments(transform: object) -> Iterable[str]:
    """The constructor's arguments, as far as the object or its parts keep them under the same names."""
    kept: dict[str, Any] = {}
    for part in vars(transform).values():
        if isinstance(part, Transform):
            kept |= vars(part)
    kept |= vars(transform)
    if readers := kept.get("readers"):
        kept["reader"] = type(readers[-1]).__name__  # the first to be tried
    for name, parameter in inspect.signature(type(transform)).parameters.items():
        value = kept.get(name)
        value = tuple(value.tolist()) if isinstance(value, np.ndarray) else value
        if isinstance(value, BaseModel):
            yield f"{name}: {value}"
        elif _is_plain(value) and not _repeats(parameter.default, value):
            yield f"{name}={value!r}"


def _repeats(default: object, value: object) -> bool:
    """Whether a value is the default, or a tuple of the default for each key."""
    return value == default or (isinstance(value, tuple) and all(item == default for item in value))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
