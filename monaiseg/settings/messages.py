"""Messages: what is wrong with a value in a settings file, and what to use instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from monaiseg.errors import nearest
from monaiseg.settings.easyreg import Translation
from monaiseg.settings.easyreg_keys import names_at
from monaiseg.settings.schema import node_at
from monaiseg.settings.section import MOST


def explain(fault: Any, translation: Translation) -> str:
    """A pydantic error as `path.to.key: what; what to use`, with the path as the user wrote it."""
    if fault["type"] == "extra_forbidden":
        path = ".".join(map(str, fault["loc"]))
        return f"{path}: {unknown_key(path)}"
    path, value = _place(fault["loc"], translation.document)
    where = f"{translation.spelled.get(path, path)}: " if path else ""
    if fault["type"] == "value_error":
        return where + str(fault["ctx"]["error"])
    return f"{where}{shown(value)} is not {_expectation(path)}"


def _place(location: tuple[Any, ...], document: Mapping[str, Any]) -> tuple[str, Any]:
    """Path and value of the key that has the error; pydantic's location continues into lists and unions."""
    names: list[str] = []
    value: Any = document
    for part in location:
        if not isinstance(value, Mapping) or part not in value:
            break
        names.append(part)
        value = value[part]
    return ".".join(names), value


def unknown_key(path: str) -> str:
    """The message for an unknown key, which suggests the nearest known one."""
    section, _, name = path.rpartition(".")
    ours, theirs = list(node_at(section).get("properties", {})), names_at(section)
    guess = nearest(name, [*ours, *theirs])
    if guess:
        return f"unknown key; did you mean {guess!r}?"
    return f"unknown key; {section or 'a settings file'} has {', '.join(ours or theirs)}"


def _expectation(path: str) -> str:
    node = node_at(path)
    default = f" (default {json.dumps(node['default'])})" if _is_plain(node.get("default")) else ""
    return _in_words(node) + default


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, dict)


def _in_words(node: dict[str, Any]) -> str:
    """A schema node as a phrase: 'a whole number of at least 1'."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_in_words(option) for option in node["anyOf"]))
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return json.dumps(node["const"])
    if node.get("type") == "array":
        items = node.get("prefixItems") or [node.get("items", {})]
        count = f"{len(items)} entries, each" if "prefixItems" in node else "entries, each"
        return f"a list of {count} {_in_words(items[0])}"
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "string": "a text",
        "null": "null",
        "object": "a section in braces",
    }
    limits = [
        f"{words} {node[key]:g}"
        for key, words in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in node and node[key] != MOST
    ]
    return " ".join([kinds.get(node.get("type", ""), "a value"), " and ".join(limits)]).strip()


def shown(value: Any) -> str:
    """A value as shown in messages: JSON, cut if it is long."""
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
