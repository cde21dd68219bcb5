"""Mutators: small harm to bytes, texts and JSON documents, drawn from a `random.Random`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NASTY_TEXTS = (
    "", " ", "\0", "..", "../../x", "/etc/passwd", "/dev/zero", "C:\\x", "\\\\host\\x", "http://host/x", "file:///x",
    "-rf", ".hidden", "CON", "nul.txt", "$(id)", "$__import__('os').system('id')", "@dataset", "%config", "{}", "%s",
    "a" * 300, "\u202e", "\ud800", "é", "e\u0301", "\U0001f9e0", "nan", "1e999", "None", "null", "true", "\r\n", "\ufeff",
    "label 1", "left", "right", "#ffffff", "0", "-1", "1.5", "9" * 40,
)  # fmt: skip
NASTY_NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 8, 16, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    2**64, 10**30, -(2**63), 0.5, -0.0, 1e-300, 1e-40, 1e30, 3.5e38, 1e308, float("inf"), float("-inf"), float("nan"),
    True, False, 1.0, 3.0,
)  # fmt: skip


def nasty(rng: Random) -> Any:
    """A JSON value that programs stumble over."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NASTY_NUMBERS)
    if kind < 5:
        return rng.choice(NASTY_TEXTS)
    if kind == 5:
        return [nasty(rng) for _ in range(rng.randrange(5))] if rng.random() < 0.9 else [0] * 5000
    if kind == 6:
        return {rng.choice(NASTY_TEXTS): nasty(rng) for _ in range(rng.randrange(3))}
    return None


def mutated(raw: bytes, rng: Random, most: int = 4) -> bytes:
    """The bytes after one to `most` small harms."""
    harms: Sequence[Callable[[bytearray, Random], None]] = (
        _flip, _flip, _set, _set, _cut, _repeat, _insert, _truncate, _fill,
    )  # fmt: skip
    harmed = bytearray(raw)
    for _ in range(rng.randint(1, most)):
        if harmed:
            rng.choice(harms)(harmed, rng)
    return bytes(harmed)


def _flip(raw: bytearray, rng: Random) -> None:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def _set(raw: bytearray, rng: Random) -> None:
    raw[rng.randrange(len(raw))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _span(raw: bytearray, rng: Random) -> slice:
    start = rng.randrange(len(raw))
    return slice(start, start + rng.randint(1, rng.choice((2, 8, 64, 1024))))


def _cut(raw: bytearray, rng: Random) -> None:
    del raw[_span(raw, rng)]


def _repeat(raw: bytearray, rng: Random) -> None:
    at = rng.randrange(len(raw))
    raw[at:at] = bytes(raw[_span(raw, rng)]) * rng.choice((1, 1, 2, 20))


def _insert(raw: bytearray, rng: Random) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.randbytes(rng.randrange(1, 9))


def _truncate(raw: bytearray, rng: Random) -> None:
    del raw[rng.randrange(len(raw)) :]


def _fill(raw: bytearray, rng: Random) -> None:
    span = _span(raw, rng)
    raw[span] = bytes([rng.choice((0, 255, rng.randrange(256)))]) * len(raw[span])


def mutated_text(text: str, rng: Random, words: Sequence[str], most: int = 4) -> bytes:
    """The text in UTF-8 after a few harms by words, and now and then by bytes or in another encoding."""
    for _ in range(rng.randint(1, most)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        end = min(end, at + rng.choice((0, 1, 5, 50)))
        text = text[:at] + rng.choice((*words, *NASTY_TEXTS)) + text[end:]
    encoding = rng.choice(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1"))
    raw = text.encode(encoding, errors="replace")
    return mutated(raw, rng, 2) if rng.random() < 0.2 else raw


def mutated_document(document: Any, rng: Random, most: int = 3) -> Any:
    """A copy of a JSON document after a few harms to its values and keys."""
    harmed = copy.deepcopy(document)
    for _ in range(rng.randint(1, most)):
        _harm(harmed, rng)
    return harmed


def _harm(document: Any, rng: Random) -> None:
    """Walks to a random place and changes what is there."""
    node = document
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.85:
            node = child
            continue
        break
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(NASTY_TEXTS)] = node.pop(key)
    elif kind == 2 and isinstance(node, list):
        node.insert(key, copy.deepcopy(rng.choice(node)))
    elif kind == 3 and isinstance(node, dict):
        node[key] = copy.deepcopy(node[rng.choice(keys)])
    elif kind == 4 and isinstance(child, int | float):
        node[key] = child + rng.choice((-1, 1, 0.5, 1e9))
    elif kind == 5 and isinstance(child, str):
        node[key] = child + rng.choice(NASTY_TEXTS)
    else:
        node[key] = nasty(rng)


def as_json(document: Any, rng: Random) -> bytes:
    """The document as JSON text; now and then with a key twice, a comment, deep nesting or other harm to the text."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1, 2)))
    raw = text.encode("utf-8", errors="surrogatepass")
    kind = rng.randrange(20)
    if kind == 0 and b'": ' in raw:
        at = raw.rindex(b'"', 0, raw.index(b'": '))
        raw = raw[:at] + raw[at : raw.index(b'": ')] + b'": 1, ' + raw[at:]
    elif kind == 1:
        depth = rng.choice((5, 50, 500, 20_000))
        raw = raw.replace(b"1", b"[" * depth + b"1" + b"]" * depth, 1)
    elif kind == 2:
        raw = raw.replace(b"0", b"9" * rng.choice((20, 400, 5000)), 1)
    elif kind == 3:
        raw = raw.replace(b",", b", /* why */", 1)
    elif kind == 4:
        raw = raw.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    elif kind < 8:
        raw = mutated(raw, rng, 3)
    return raw
