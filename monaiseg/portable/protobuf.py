"""ONNX files, checked before a runtime reads them.

An ONNX file is a message of Google's protocol buffers: fields with a number and a value, which may be a message in turn.
Only what has to be checked is parsed, with the field numbers of onnx.proto. A file passes if it can do nothing but
compute: only known operators of the ONNX standard, no functions, no weights in other files. There is then nothing in it
that reads a file or runs code.
"""

from __future__ import annotations

from collections.abc import Iterator

OPERATORS = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "Div", "Dropout", "Expand",
    "Gather", "GroupNormalization", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "MatMul",
    "Mul", "Pow", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Sqrt", "Squeeze", "Sub",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that networks of this project consist of; none has a loop, a branch or a random number."""
STANDARD = ("", "ai.onnx")


class ModelError(ValueError):
    """A portable model that is damaged, of another kind, or not allowed."""


def metadata_of(payload: bytes) -> dict[str, str]:
    """The metadata of an ONNX file, after checking that the file can only compute.

    Raises:
        ModelError: the file is damaged, or has something that is not allowed.
    """
    metadata: dict[str, str] = {}
    has_graph = False
    for number, value in _fields(memoryview(payload)):
        match number:
            case 7:
                has_graph = True
                _check_graph(_message(value))
            case 8:
                domain = _text(dict(_fields(_message(value))).get(1, memoryview(b"")))
                _allow(domain in STANDARD, f"operators of {domain!r}")
            case 14:
                entry = dict(_fields(_message(value)))
                key = _text(entry.get(1, memoryview(b"")))
                _allow(key not in metadata, f"{key!r} twice in its metadata")
                metadata[key] = _text(entry.get(2, memoryview(b"")))
            case 20 | 25:
                _allow(False, "functions or training")
    _allow(has_graph, "no network")
    return metadata


def _check_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        match number:
            case 1:
                _check_node(_message(value))
            case 5:
                _check_tensor(_message(value))
            case 15:
                _allow(False, "sparse weights")


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node):
        match number:
            case 4:
                operator = _text(value)
                _allow(operator in OPERATORS, f"the operator {operator!r}")
            case 5:
                for inner, content in _fields(_message(value)):
                    if inner == 5:
                        _check_tensor(_message(content))
                    _allow(inner not in (6, 10, 11, 22, 23), "a graph inside its graph")
            case 7:
                _allow(_text(value) in STANDARD, f"an operator of {_text(value)!r}")


def _check_tensor(tensor: memoryview) -> None:
    numbers = {number for number, _ in _fields(tensor)}
    _allow(not numbers & {13, 14}, "weights in another file")


def _allow(allowed: bool, what: str) -> None:
    if not allowed:
        raise ModelError(
            f"contains {what}, which models of monaiseg never do; use a file that `monaiseg export` wrote"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message: an integer, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _damaged()
        if at + size > len(message):
            raise _damaged()
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _damaged()


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _damaged()
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError as error:
        raise _damaged() from error


def _damaged() -> ModelError:
    return ModelError("is not an ONNX file, or is damaged; copy it again")
