"""Parsing of JSON text, with the position of what is wrong in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from monaiseg.errors import SettingsError, listed
from monaiseg.settings.messages import shown

MAX_BYTES = 1 << 20
"""A settings file has a few kilobytes; a file of more than 1 MiB is something else."""
MAX_DEPTH = 8
"""Maximum number of nesting levels in a settings file, including lists."""


def parse_json(raw: bytes, source: str) -> dict[str, Any]:
    """The document in a JSON text.

    Raises:
        SettingsError: the text is not JSON, with line and column, or is not an object.
    """
    document = _loaded(_decoded(raw, source), source)
    if not isinstance(document, dict):
        raise SettingsError(
            f"{source}: is {shown(document)}; a settings file is a JSON object with the sections "
            "'dataset' and 'tsk_set'"
        )
    return document


def _decoded(raw: bytes, source: str) -> str:
    if len(raw) > MAX_BYTES:
        raise SettingsError(
            f"{source}: has {len(raw)} bytes, but a settings file has at most {MAX_BYTES}"
        )
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingsError(f"{source}: is UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{source}: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from error
    if not text.strip():
        raise SettingsError(f"{source}: is empty; `monaiseg settings init` writes a file to edit")
    return text


def _loaded(text: str, source: str) -> Any:
    """Parse JSON strictly: unlike Python's parser, refuse NaN, infinity and repeated keys."""
    repeated: list[str] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(f"{source}: {words}" for words in _repeated_keys(pairs, text))
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise SettingsError(f"{source}: {constant} is not a number in JSON; write a finite number")

    def number(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits)

    try:
        document = json.loads(
            text, object_pairs_hook=object_of, parse_constant=refuse, parse_float=number
        )
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{source}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            "JSON has no comments, and no comma after the last entry"
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"{source}: nested too deeply; settings are {MAX_DEPTH} levels deep"
        ) from error
    except SettingsError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise SettingsError(f"{source}: {error}; write a smaller number") from error
    if repeated:
        raise SettingsError(listed(repeated))
    return document


def _repeated_keys(pairs: list[tuple[str, Any]], text: str) -> Iterator[str]:
    """One message per key that is repeated within a section, with the lines where it occurs."""
    names = [name for name, _ in pairs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            lines = [
                text.count("\n", 0, match.start()) + 1
                for match in re.finditer(rf"{re.escape(json.dumps(name))}\s*:", text)
            ]
            yield (
                f"key {name!r} appears {names.count(name)} times in one section "
                f"(lines {', '.join(map(str, lines))}); keep one"
            )


def is_deep(document: Mapping[str, Any]) -> bool:
    """Whether the document is nested more deeply than `MAX_DEPTH`."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for entry in (value.values() if isinstance(value, Mapping) else value)
        ]
    return any(isinstance(value, Mapping | list | tuple) for value in level)
