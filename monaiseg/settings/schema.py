"""The JSON Schema of the settings file."""

from __future__ import annotations

import functools
from typing import Any, cast

from monaiseg.settings.settings import Settings


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a settings file, with which editors complete and check it."""
    schema = Settings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["$schema"] = {
        "type": "string",
        "description": "Where an editor finds this schema.",
    }
    return schema


@functools.cache
def _schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def node_at(path: str) -> dict[str, Any]:
    """The schema of the value at `path`."""
    node = schema = _schema()
    for name in filter(None, path.split(".")):
        node = _resolved(node, schema).get("properties", {}).get(name, {})
    return {**_resolved(node, schema), **{k: v for k, v in node.items() if k != "$ref"}}


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    return cast(dict[str, Any], schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
