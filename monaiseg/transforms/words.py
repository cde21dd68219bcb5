"""Words: a chain as a list that can be read aloud."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np
from monai.transforms.transform import Transform
from pydantic import BaseModel


def in_words(chain: Iterable[object]) -> list[str]:
    """The transforms by name, each with the arguments that are not its class's defaults.

    >>> from monai.transforms.croppad.dictionary import RandSpatialCropd
    >>> in_words([RandSpatialCropd(("image", "label"), (40, 56, 40), random_size=False)])
    ["RandSpatialCropd(keys=('image', 'label'), roi_size=(40, 56, 40))"]
    """
    return [f"{type(step).__name__}({', '.join(_arguments(step))})" for step in chain]


def _arguments(transform: object) -> Iterable[str]:
    """What an object was made with, as far as it or its parts keep it under the arguments' names."""
    kept: dict[str, Any] = {}
    for part in vars(transform).values():
        if isinstance(part, Transform):
            kept |= vars(part)
    kept |= vars(transform)
    if readers := kept.get("readers"):
        kept["reader"] = type(readers[-1]).__name__  # the first that is asked
    for name, parameter in inspect.signature(type(transform)).parameters.items():
        value = kept.get(name)
        value = tuple(value.tolist()) if isinstance(value, np.ndarray) else value
        if isinstance(value, BaseModel):
            yield f"{name}: {value}"
        elif _is_plain(value) and not _repeats(parameter.default, value):
            yield f"{name}={value!r}"


def _repeats(default: object, value: object) -> bool:
    """Whether a value is the default, or one for each key."""
    return value == default or (isinstance(value, tuple) and all(item == default for item in value))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
