"""What Hypothesis draws from: grids, orientations, label tables, settings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.errors import SettingsError
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.schema import json_schema
from monaiseg.settings.settings import Settings

ORIENTATIONS = tuple(
    "".join(letters[sign] for letters, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
)
"""All 48 ways in which three voxel axes can run along the body's."""


def orientations() -> st.SearchStrategy[str]:
    return st.sampled_from(ORIENTATIONS)


def shapes(least: int = 4, most: int = 20) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(*[st.integers(least, most)] * 3)


def spacings(
    least: float = 0.5, most: float = 4.0
) -> st.SearchStrategy[tuple[float, float, float]]:
    """In mm, to a hundredth: what scanners write."""
    return st.tuples(*[st.floats(least, most).map(lambda mm: round(mm, 2))] * 3)


@st.composite
def grids(draw: st.DrawFn, least: int = 4, most: int = 20, oblique: bool = True) -> Grid:
    """Grids of every orientation; `oblique` ones are turned by up to 20 degrees and lie anywhere."""
    grid = phantom_grid(draw(shapes(least, most)), draw(spacings()), draw(orientations()))
    if not oblique:
        return grid
    turn = np.eye(4)
    for axis in range(3):
        angle = math.radians(draw(st.integers(-20, 20)))
        a, b = (axis + 1) % 3, (axis + 2) % 3
        plane = np.eye(4)
        plane[[a, b], [a, b]] = math.cos(angle)
        plane[a, b], plane[b, a] = -math.sin(angle), math.sin(angle)
        turn = turn @ plane
    turn[:3, 3] = draw(st.tuples(*[st.integers(-100, 100)] * 3))
    return Grid.of(grid.shape, turn @ grid.array)


@st.composite
def label_tables(draw: st.DrawFn, most: int = 12, highest: int = 300) -> LabelTable:
    """Tables of left/right pairs and single structures with values in any order."""
    values = draw(st.lists(st.integers(1, highest), unique=True, min_size=1, max_size=most))
    num_pairs = draw(st.integers(0, len(values) // 2))
    names = [f"{side} part {pair}" for pair in range(num_pairs) for side in ("left", "right")]
    names += [f"middle {number}" for number in range(len(values) - len(names))]
    return LabelTable.from_values(values, dict(zip(values, names, strict=True)))


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Settings that load, with any key at any value that its schema allows."""
    schema = json_schema()
    document = draw(_values(schema, schema))
    document.get("tsk_set", {}).get("seg", {}).pop(
        "class_num", None
    )  # must count the listed labels
    try:
        return settings_from_dict(document)
    except SettingsError:  # two values that do not go together
        assume(False)
        raise


def _values(node: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values that a node of the schema allows; objects hold some of their keys."""
    if "$ref" in node:
        return _values(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    if "anyOf" in node:
        return st.one_of([_values(option, schema) for option in node["anyOf"]])
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    kind = node["type"]
    if kind == "object":
        return _objects(node, schema)
    if kind == "array":
        return _arrays(node, schema)
    if kind == "integer":
        return _integers(node)
    return _floats(node) if kind == "number" else _PLAIN[kind]


def _objects(node: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    keys = {
        key: _values(value, schema) for key, value in node["properties"].items() if key[0] != "$"
    }
    return st.fixed_dictionaries({}, optional=keys)


def _arrays(node: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "prefixItems" not in node:
        return st.lists(
            _values(node["items"], schema), min_size=node.get("minItems", 0), max_size=6
        )
    entries = st.tuples(*(_values(item, schema) for item in node["prefixItems"])).map(list)
    return entries.map(sorted) if len(node["prefixItems"]) == 2 else entries  # ranges ascend


def _integers(node: dict[str, Any]) -> st.SearchStrategy[int]:
    least, most = node.get("minimum", 0), node.get("maximum", 10_000)
    most = min(most, node.get("exclusiveMaximum", most + 1) - 1)
    numbers = st.integers(least, most)
    return numbers.map(lambda n: n or -1) if least == -1 else numbers  # sizes: -1 or at least 1


def _floats(node: dict[str, Any]) -> st.SearchStrategy[float]:
    least = node.get("minimum", node.get("exclusiveMinimum", -1e6))
    most = node.get("maximum", node.get("exclusiveMaximum", 1e6))
    return st.floats(
        least,
        most,
        exclude_min="exclusiveMinimum" in node,
        exclude_max="exclusiveMaximum" in node,
    )


_PLAIN = {
    "boolean": st.booleans(),
    "string": st.text(st.characters(codec="utf-8"), max_size=20),
    "null": st.none(),
}
