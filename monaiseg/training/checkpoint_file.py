"""The two files of a checkpoint, as bytes: a safetensors file with its content, and a JSON file with its record.

A safetensors file consists of a length, a JSON header with the type, shape and offsets of each tensor, and the bytes
of the tensors. It cannot contain code: see https://github.com/huggingface/safetensors. Everything that is not a tensor
(settings, labels, history) is a JSON *document* in the header, under the key `monaiseg` of `__metadata__`. The document
is not in the record, because a model should be one file: one of two is easily lost. In the document, a tensor is
`{"$tensor": its name}`, NaN and infinity are `{"$number": "nan"}` and so on, a dictionary with integer keys is
`{"$numbered": {"0": ...}}`, and a tuple is a list. To read a checkpoint without monaiseg:

    with safetensors.safe_open("best-epoch-0012.safetensors", "pt") as file:
        document = json.loads(file.metadata()["monaiseg"])["state"]
        weights = {key: file.get_tensor(it["$tensor"]) for key, it in document["network"].items()}

The document also holds the SHA-256 of the whole file, computed with zeros in its own place. It reveals damage even if
the record is missing. Equal content gives equal bytes. The document and the record are accepted only in the exact form
in which monaiseg writes them, so duplicate keys, NaN, 1e999 and lone surrogates need no separate checks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from monaiseg.errors import CheckpointError
from monaiseg.files import sha256_of

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 32 << 20
"""5,000 validated epochs of 57 structures take 12 MiB. Parsed JSON can take about 20 times its size in memory."""
MAX_TENSORS = 10_000
MAX_AXES = 8
Weights = Mapping[str, torch.Tensor]

_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
_KEY = "monaiseg"
_TENSOR, _NUMBER, _NUMBERED = "$tensor", "$number", "$numbered"
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_NO_DIGEST = "0" * 64
_TORCHS_STARTS = (b"PK\3\4", b"\x80")
_TORCHS_SUFFIXES = {".pt", ".pth", ".tar", ".ckpt", ".pkl", ".ts"}
_RECORD_KEYS = {"schema_version", "size", "sha256", "step"}
_PLAIN_TYPES = (str, int, bool, type(None))


# ---------------------------------------------------------------- content to bytes


def separate(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Separate nested dictionaries and lists into a document without tensors, and the tensors by name.

    The name of a tensor is its path in the document, such as `optimizer.state.0.exp_avg`. NumPy scalars become plain.

    Raises:
        TypeError: a value is neither a dense tensor nor a plain value.
    """
    tensors: dict[str, torch.Tensor] = {}
    document = {key: _plain(value, key, tensors) for key, value in state.items()}
    return document, _apart(tensors)


def first_not_finite(tensors: Weights) -> str | None:
    """Name of the first tensor with NaN or infinite values; None if there is none."""
    floats = (pair for pair in tensors.items() if pair[1].is_floating_point())
    return next((name for name, it in floats if not bool(torch.isfinite(it).all())), None)


def encode(document: Mapping[str, Any], tensors: Weights) -> bytes:
    """The bytes of the file. They are decoded once, so that no file is written that could not be read.

    Raises:
        CheckpointError: a tensor is not finite, or there are too many tensors.
    """
    text = _json({"sha256": _NO_DIGEST, "state": document})
    payload = save(dict(tensors), {_KEY: text})
    digest = _digest(payload, _NO_DIGEST)
    payload = payload.replace(_NO_DIGEST.encode(), digest.encode(), 1)
    decode(payload, "the checkpoint to be written")
    return payload


def _plain(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The value in a form for JSON; its tensors are added to `tensors`."""
    if isinstance(value, torch.Tensor):
        _put_aside(value, name, tensors)
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        items = {key: _plain(item, f"{name}.{key}", tensors) for key, item in value.items()}
        return _keyed(items, name)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        return _plain(value.item(), name, tensors)
    if type(value) is float:
        return value if math.isfinite(value) else {_NUMBER: str(value)}
    if type(value) in _PLAIN_TYPES:
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain values"
    )


def _put_aside(value: torch.Tensor, name: str, tensors: dict[str, torch.Tensor]) -> None:
    if value.layout is not torch.strided or value.dtype not in _DTYPES.values() or value.is_meta:
        raise TypeError(f"{name} is not a dense tensor of a plain type, but {value.dtype}")
    if name in tensors:
        raise TypeError(f"{name} names two tensors; rename one")
    tensors[name] = value.detach().cpu().as_subclass(torch.Tensor).contiguous()


def _keyed(items: dict[Any, Any], name: str) -> dict[str, Any]:
    """The dictionary with string keys, marked with `$numbered` if the keys were integers."""
    if items and all(type(key) is int for key in items):
        return {_NUMBERED: {str(key): item for key, item in items.items()}}
    for key in items:
        if type(key) is not str:
            raise TypeError(f"{name} has a key of type {type(key).__name__} among others; use text")
    if len(items) == 1 and next(iter(items)).startswith("$"):
        raise TypeError(f"{name} has the one key {next(iter(items))!r}, which has a meaning here")
    return items


def _apart(tensors: Weights) -> dict[str, torch.Tensor]:
    """The tensors, with a copy of each that shares memory with another: safetensors refuses to write these."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.numel() * tensor.element_size()
        apart[name] = tensor if whole and storage.data_ptr() not in seen else tensor.clone()
        seen.add(storage.data_ptr())
    return apart


# ---------------------------------------------------------------- bytes to content


def decode(payload: bytes, where: str | Path) -> dict[str, Any]:
    """The content of a file: plain values, and dense, finite CPU tensors that take no more memory than the file.

    Raises:
        CheckpointError: the bytes are not an intact checkpoint.
    """
    _refuse_torchs(payload, Path(where))
    try:
        return _decoded(payload)
    except Exception as error:  # a hostile file can make the JSON parser raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(
            f"{where}: is damaged or not a monaiseg checkpoint ({reason}); use another checkpoint"
        ) from error


def _decoded(payload: bytes) -> dict[str, Any]:
    document = _document(_survey(payload))
    stated, found = document["sha256"], _digest(payload, document["sha256"])
    if stated != found:
        raise CheckpointError(f"its SHA-256 is {found[:12]}..., but it should be {stated[:12]}...")
    tensors = load(payload)
    _check_values(tensors)
    state = {key: _restored(it, key, tensors) for key, it in document["state"].items()}
    if tensors:
        raise CheckpointError(f"its document does not name the tensor {min(tensors)!r}")
    return state


def _refuse_torchs(payload: bytes, path: Path) -> None:
    """Refuse EasyReg's and torch.save's files, with a message that says why."""
    if payload[8:9] == b"{":  # a safetensors header; the length before it can be any bytes
        return
    if payload.startswith(_TORCHS_STARTS) or path.suffix in _TORCHS_SUFFIXES:
        raise CheckpointError(
            f"{path}: is damaged or not a monaiseg checkpoint (a {SUFFIX} file). Files of torch.save, such as EasyReg's "
            "checkpoints, can contain code and are not read; train with EasyReg's settings file here, and use the "
            f"best-epoch-*{SUFFIX} of that run"
        )


def _survey(payload: bytes) -> str:
    """Check the header against the file before any tensor is created; return the text of the document.

    safetensors makes the same checks, except for the names, but does not say which tensor is at fault.
    """
    length = int.from_bytes(payload[:8], "little")
    if len(payload) < 8 or payload[8:9] != b"{":
        raise CheckpointError(f"it does not start as a {SUFFIX} file")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read"
        )
    if length > len(payload) - 8:
        raise CheckpointError(f"its header claims {length} bytes of a file of {len(payload)}")
    header = json.loads(payload[8 : 8 + length].decode(), object_pairs_hook=_once)
    metadata = header.pop("__metadata__", None)
    text = metadata.get(_KEY) if type(metadata) is dict else None
    if type(text) is not str:
        raise CheckpointError(f"its header has no {_KEY!r}; another program wrote it")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"it has {len(header)} tensors; at most {MAX_TENSORS} are read")
    _check_places(
        (_place(name, entry) for name, entry in header.items()), len(payload) - 8 - length
    )
    return text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which each key occurs once."""
    items = dict(pairs)
    if len(items) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"its header has the key {twice!r} twice")
    return items


def _place(name: str, entry: Any) -> tuple[int, int, str]:
    """Start and end offset of a tensor, in bytes, and its name; raises CheckpointError if its entry is inconsistent."""
    if not name.isprintable():
        raise CheckpointError(f"the name {name!r} of a tensor is not printable")
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise CheckpointError(f"{name!r} is of type {dtype!r}, which no checkpoint has")
    if not (_are_sizes(shape) and len(shape) <= MAX_AXES and _are_sizes(place) and len(place) == 2):
        raise CheckpointError(f"{name!r} has shape {shape!r} at {place!r}, which are not sizes")
    start, end = place
    claimed = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - start != claimed:
        raise CheckpointError(f"{name!r} needs {claimed} bytes, but has the bytes {start} to {end}")
    return start, end, name


def _are_sizes(value: Any) -> bool:
    return type(value) is list and all(type(size) is int and 0 <= size < 2**48 for size in value)


def _check_places(places: Iterable[tuple[int, int, str]], size: int) -> None:
    """Raise CheckpointError if tensors overlap, leave gaps, or do not end at the end of the file."""
    reached = 0
    for start, end, name in sorted(places):
        if start != reached:
            raise CheckpointError(f"{name!r} starts at byte {start}, but {reached} is next")
        reached = end
    if reached != size:
        raise CheckpointError(f"its tensors end at byte {reached}, but the file ends at {size}")


def _document(text: str) -> dict[str, Any]:
    document = json.loads(text)
    if (
        type(document) is not dict
        or document.keys() != {"sha256", "state"}
        or type(document["sha256"]) is not str
        or type(document["state"]) is not dict
        or _json(document) != text
    ):
        raise CheckpointError("its document does not have the form that monaiseg writes")
    text.encode()  # raises UnicodeEncodeError if it contains a lone surrogate
    return document


def _check_values(tensors: Weights) -> None:
    if broken := first_not_finite(tensors):
        raise CheckpointError(f"{broken} has NaN or infinite values")
    for name, tensor in tensors.items():
        if tensor.dtype is torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise CheckpointError(f"{name} has values other than true and false")


def _restored(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_plain`. Each tensor is taken from `tensors` once, at the path that its name gives."""
    if type(value) is list:
        return [_restored(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
    if type(value) is not dict:
        return value
    if value.keys() == {_TENSOR}:
        if value[_TENSOR] != name or name not in tensors:
            raise CheckpointError(f"{name!r} names the tensor {value[_TENSOR]!r}")
        return tensors.pop(name)
    if value.keys() == {_NUMBER}:
        return _NUMBERS[value[_NUMBER]]
    if value.keys() == {_NUMBERED}:
        return {
            _whole(key): _restored(item, f"{name}.{key}", tensors)
            for key, item in value[_NUMBERED].items()
        }
    return {key: _restored(item, f"{name}.{key}", tensors) for key, item in value.items()}


def _whole(key: str) -> int:
    if str(int(key)) != key:
        raise CheckpointError(f"{key!r} is not a whole number")
    return int(key)


def _digest(payload: bytes, own: str) -> str:
    """SHA-256 of the file with zeros in place of `own`, at its first occurrence."""
    at = payload.find(own.encode())
    digest = hashlib.sha256(memoryview(payload)[:at])
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(payload)[at + len(own) :])
    return digest.hexdigest()


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


# ---------------------------------------------------------------- the record


def encode_record(record: Mapping[str, Any]) -> bytes:
    """The bytes of the record: JSON whose last entry is the SHA-256 of the record without that entry."""
    own = sha256_of(_lines(record))
    return _lines({**record, "record_sha256": own})


def decode_record(raw: bytes, where: str | Path) -> dict[str, Any]:
    """The record, after a check that every byte is as monaiseg wrote it.

    Raises:
        CheckpointError: the bytes are damaged or are not a record.
    """
    try:
        record: dict[str, Any] = json.loads(raw)
        record.pop("record_sha256")
        intact = encode_record(record) == raw and record.keys() >= _RECORD_KEYS
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(
            f"{where}: is damaged, or not the record of a checkpoint; use another checkpoint, or remove this file to load "
            "it without the check"
        )
    return record


def _lines(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
