"""Checkpoints from hostile hands: each known attack on safetensors and its header is refused, and no code runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from typing import Any

import pytest
import torch

from checkpoint_files import (
    ZEROS,
    apart,
    joined,
    saying,
    sealed,
    text_of,
)
from children import in_child
from monaiseg.errors import CheckpointError
from monaiseg.training.checkpoint import load_checkpoint
from monaiseg.training.checkpoint_file import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    decode,
    decode_record,
    encode,
    encode_record,
    separate,
)

SMALL = {"a": torch.arange(4.0), "b": {"c": torch.tensor(True), "d": [0.5, "x", None]}}
# ---------------------------------------------------------------- the header

HEADER, DATA = apart(encode(*separate(SMALL)))
A, C = HEADER["a"], HEADER["b.c"]


def with_header(**changes: Any) -> bytes:
    return joined({**HEADER, **changes}, DATA)


def with_a(**changes: Any) -> bytes:
    return with_header(a={**A, **changes})


def with_text(old: str, new: str) -> bytes:
    """The header with a piece of its JSON exchanged."""
    text = json.dumps(HEADER)
    assert old in text
    return joined(text.replace(old, new, 1).encode(), DATA)


HEADERS = {
    "length beyond the file": (lambda: joined(HEADER, DATA, 10_000), "claims 10000 bytes of a file of"),
    "length over the cap": (lambda: joined(HEADER, DATA, MAX_HEADER_BYTES + 1), f"at most {MAX_HEADER_BYTES} are read"),
    "length of all ones": (lambda: joined(HEADER, DATA, 2**64 - 1), "at most"),
    "length of zero": (lambda: joined(HEADER, DATA, 0), "Expecting value"),
    "length too short": (lambda: joined(HEADER, DATA, 20), "Unterminated string"),
    "length too long": (lambda: joined(HEADER, DATA, len(json.dumps(HEADER)) + 1), "Extra data"),
    "no bytes after the length": (lambda: bytes(8), "does not start as a"),
    "seven bytes": (lambda: bytes(7), "does not start as a"),
    "a list": (lambda: joined(b"[1, 2]", DATA), "does not start as a"),
    "spaces before it": (lambda: joined(b" " + json.dumps(HEADER).encode(), DATA), "does not start as a"),
    "text after it": (lambda: joined(json.dumps(HEADER).encode() + b"{}", DATA), "Extra data"),
    "not UTF-8": (lambda: joined(b'{"\xff": 1}', DATA), "can't decode byte 0xff"),
    "UTF-16": (lambda: joined(b"{" + json.dumps(HEADER)[1:].encode("utf-16"), DATA), "decode|Expecting"),
    "nested 100,000 deep": (lambda: joined(b'{"a": ' + b"[" * 100_000, DATA), "recursion|Expecting"),
    "nested 100,000 deep and closed": (lambda: joined(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", DATA), "recursion|has no 'monaiseg'"),
    "a tensor twice": (lambda: with_text('"a": {', f'"a": {json.dumps(A)}, "a": {{'), "key 'a' twice"),
    "a tensor twice, once in escapes": (lambda: with_text('"a": {', f'"\\u0061": {json.dumps(A)}, "a": {{'), "key 'a' twice"),
    "the metadata twice": (lambda: with_text('"a": {', '"__metadata__": {}, "a": {'), "key '__metadata__' twice"),
    "the type twice": (lambda: with_text('"dtype": "F32"', '"dtype": "F64", "dtype": "F32"'), "key 'dtype' twice"),
    "no metadata": (lambda: joined({"a": A}, DATA), "no 'monaiseg'; another program wrote it"),
    "another program's metadata": (lambda: with_header(__metadata__={"format": "pt"}), "another program wrote it"),
    "metadata that is a list": (lambda: with_header(__metadata__=["monaiseg"]), "another program wrote it"),
    "a document that is no text": (lambda: with_header(__metadata__={"monaiseg": {}}), "another program wrote it"),
    "too many tensors": (lambda: joined({"__metadata__": HEADER["__metadata__"], **dict.fromkeys(map(str, range(MAX_TENSORS + 1)), 0)}, b""), f"at most {MAX_TENSORS} are read"),
    "a number for a tensor": (lambda: with_header(a=1), "must have exactly dtype, shape"),
    "an entry without a place": (lambda: with_header(a={"dtype": "F32", "shape": [4]}), "must have exactly"),
    "an entry with more": (lambda: with_a(stride=[0]), "must have exactly dtype, shape"),
    "overlapping": (lambda: with_header(e=A), "'e' starts at byte 0, but 16 is next"),
    "overlapping by a byte": (lambda: with_header(e={"dtype": "U8", "shape": [2], "data_offsets": [15, 17]}), "starts at byte 15|where 1[67] is next"),
    "a hole before the first": (lambda: joined({**HEADER, "a": {**A, "data_offsets": [1, 17]}, "b.c": {**C, "data_offsets": [17, 18]}}, DATA + b"\1"), "'a' starts at byte 1, but 0 is next"),
    "a hole between": (lambda: joined({**HEADER, "b.c": {**C, "data_offsets": [17, 18]}}, DATA + b"\1"), "'b.c' starts at byte 17, but 16 is next"),
    "bytes after the last": (lambda: joined(HEADER, DATA + b"PK\3\4"), "its tensors end at byte 17, but the file ends at 21"),
    "beyond the file": (lambda: joined(HEADER, DATA[:-1]), "its tensors end at byte 17, but the file ends at 16"),
    "far beyond the file": (lambda: with_a(shape=[2**40], data_offsets=[0, 2**42]), "starts at byte 16, but 0 is next|but 4398046511104 is next"),
    "ends before it starts": (lambda: with_a(data_offsets=[16, 0]), "'a' needs 16 bytes, but has the bytes 16 to 0"),
    "smaller than its shape": (lambda: with_a(shape=[5]), "'a' needs 20 bytes, but has the bytes 0 to 16"),
    "larger than its shape": (lambda: with_a(shape=[3]), "'a' needs 12 bytes, but has"),
    "another type of another size": (lambda: with_a(dtype="F64"), "'a' needs 32 bytes, but has"),
    "a shape whose product wraps around": (lambda: with_a(shape=[2**32, 2**32, 4]), "'a' needs 295147905179352825856 bytes"),
    "a shape of 2^62": (lambda: with_a(shape=[2**62, 4]), "which are not sizes"),
    "a shape of too many axes": (lambda: with_a(shape=[1] * 9 + [4]), "which are not sizes"),
    "a negative size": (lambda: with_a(shape=[-2, -2]), "which are not sizes"),
    "a negative place": (lambda: with_a(data_offsets=[-16, 0]), "which are not sizes"),
    "three places": (lambda: with_a(data_offsets=[0, 8, 16]), "which are not sizes"),
    "a size of 4.0": (lambda: with_a(shape=[4.0]), "which are not sizes"),
    "a size of true": (lambda: with_a(shape=[True, 4]), "which are not sizes"),
    "a shape of NaN": (lambda: with_a(shape=[float("nan")]), "which are not sizes"),
    "a shape of 1e400": (lambda: with_text('"shape": [4]', '"shape": [1e400]'), "which are not sizes"),
    "a shape of 5,000 digits": (lambda: with_text('"shape": [4]', f'"shape": [{"9" * 5000}]'), "integer string conversion|which are not sizes"),
    "a shape that is a text": (lambda: with_a(shape="4"), "which are not sizes"),
    "complex numbers": (lambda: with_a(dtype="C64", shape=[2]), "is of type 'C64', which no checkpoint has"),
    "numbers of eight bits": (lambda: with_a(dtype="F8_E4M3", shape=[16]), "which no checkpoint has"),
    "numbers of four bits": (lambda: with_a(dtype="F4", shape=[32]), "which no checkpoint has"),
    "an unknown type": (lambda: with_a(dtype="f32"), "which no checkpoint has"),
    "a type that is a list": (lambda: with_a(dtype=["F32"]), "which no checkpoint has"),
    "a name with a line break": (lambda: with_header(**{"a\nerror: x": A}), r"name 'a\\nerror: x' of a tensor is not printable"),
    "a name with NUL": (lambda: with_header(**{"a\0": A}), "is not printable"),
    "a name that turns the text around": (lambda: with_header(**{"a\u202e": A}), "is not printable"),
    "a name with an escape of a terminal": (lambda: with_header(**{"\x1b[2J": A}), "is not printable"),
    "a name of half a surrogate pair": (lambda: with_header(**{"\ud800": A}), "is not printable"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HEADERS)
def test_a_header_that_lies_is_refused_in_words(attack):
    plant, words = HEADERS[attack]

    with pytest.raises(
        CheckpointError, match=rf"a\.safetensors: is damaged or not .*{words}"
    ) as raised:
        decode(plant(), "a.safetensors")

    message = str(raised.value)
    assert message.endswith("; use another checkpoint")
    assert "\n" not in message
    assert len(message) < 500


# ---------------------------------------------------------------- the document

STATE = json.loads(HEADER["__metadata__"]["monaiseg"])["state"]
ENTRIES = {name: entry for name, entry in HEADER.items() if name != "__metadata__"}


def with_document(text: str) -> bytes:
    return sealed(text, ENTRIES, DATA)


def with_state(**changes: Any) -> bytes:
    return with_document(text_of({"sha256": ZEROS, "state": {**STATE, **changes}}))


def with_piece(old: str, new: str) -> bytes:
    """The document with a piece of its text exchanged, under a right checksum."""
    text = text_of({"sha256": ZEROS, "state": STATE})
    assert old in text
    return with_document(text.replace(old, new, 1))


def no_numbers_of_a_huge_shape() -> bytes:
    """A tensor of no bytes that claims many rows and columns of them."""
    entry = {"dtype": "F32", "shape": [2**47, 2**47, 0], "data_offsets": [17, 17]}
    text = text_of({"sha256": ZEROS, "state": {**STATE, "e": {"$tensor": "e"}}})
    return sealed(text, {**ENTRIES, "e": entry}, DATA)


FORM = "its document does not have the form that monaiseg writes"
DOCUMENTS = {
    "no JSON": (lambda: with_document("settings"), "Expecting value"),
    "a list": (lambda: with_document("[]"), FORM),
    "no content": (lambda: with_document(text_of({"sha256": ZEROS})), FORM),
    "content that is a list": (lambda: with_document(text_of({"sha256": ZEROS, "state": []})), FORM),
    "no checksum": (lambda: with_document(text_of({"state": STATE})), FORM),
    "a checksum that is a number": (lambda: with_document(text_of({"sha256": 0, "state": STATE})), FORM),
    "an empty checksum": (lambda: with_document(text_of({"sha256": "", "state": STATE})), "its SHA-256 is"),
    "another checksum": (lambda: with_document(text_of({"sha256": "f" * 64, "state": STATE})), "its SHA-256 is .*should be ffffffffffff"),
    "a key twice": (lambda: with_piece('"d":[', '"d":1,"d":['), FORM),
    "spaces": (lambda: with_piece('"d":[', '"d": ['), FORM),
    "NaN": (lambda: with_piece("0.5", "NaN"), "Out of range float|JSON compliant"),
    "infinity": (lambda: with_piece("0.5", "-Infinity"), "Out of range float|JSON compliant"),
    "1e999": (lambda: with_piece("0.5", "1e999"), "Out of range float|JSON compliant"),
    "a float of other digits": (lambda: with_piece("0.5", "0.50"), FORM),
    "5,000 digits": (lambda: with_piece("0.5", "9" * 5000), "integer string conversion"),
    "half a surrogate pair": (lambda: with_piece('"x"', '"\ud800"'), "surrogates not allowed"),
    "half a surrogate pair, escaped": (lambda: with_piece('"x"', '"\\ud800"'), FORM),
    "nested 100,000 deep": (lambda: with_piece("0.5", "[" * 100_000 + "]" * 100_000), "recursion"),
    "nested 900 deep": (lambda: with_piece("0.5", "[" * 5000 + "]" * 5000), "recursion"),
    "a tensor in two places": (lambda: with_state(e={"$tensor": "a"}), "'e' names the tensor 'a'"),
    "a tensor in another's place": (lambda: with_state(a={"$tensor": "b.c"}), "'a' names the tensor 'b.c'"),
    "a tensor that is not there": (lambda: with_state(e={"$tensor": "e"}), "'e' names the tensor 'e'"),
    "a tensor whose name is a list": (lambda: with_state(a={"$tensor": ["a"]}), r"'a' names the tensor \['a'\]"),
    "a tensor that nothing names": (lambda: with_state(a=1), "does not name the tensor 'a'"),
    "a number of another kind": (lambda: with_state(e={"$number": "1"}), "'1'"),
    "a number that is a list": (lambda: with_state(e={"$number": []}), "unhashable"),
    "a number key that is none": (lambda: with_state(e={"$numbered": {"x": 1}}), "invalid literal"),
    "a number key in other digits": (lambda: with_state(e={"$numbered": {"01": 1}}), "'01' is not a whole number"),
    "a number key of Arabic digits": (lambda: with_state(e={"$numbered": {"\u0661": 1}}), "is not a whole number"),
    "number keys in a list": (lambda: with_state(e={"$numbered": [1]}), "has no attribute"),
}  # fmt: skip


@pytest.mark.parametrize("attack", DOCUMENTS)
def test_a_document_in_another_form_is_refused_in_words(attack):
    plant, words = DOCUMENTS[attack]

    with pytest.raises(CheckpointError, match=rf"a\.safetensors: is damaged or not .*({words})"):
        decode(plant(), "a.safetensors")


def test_the_sound_document_made_by_hand_is_read():
    assert decode(with_state(), "a.safetensors")["b"] == SMALL["b"]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.tensor([1.0, float("nan")]), "a has NaN or infinite values"),
        (torch.tensor([1.0, float("inf")]).bfloat16(), "a has NaN or infinite values"),
        (torch.tensor(float("-inf"), dtype=torch.float64), "a has NaN or infinite values"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_by_name(tensor, words):
    with pytest.raises(CheckpointError, match=words):
        decode(saying({"a": tensor}), "a.safetensors")


def test_a_truth_value_of_two_is_refused():
    text = text_of({"sha256": ZEROS, "state": STATE})

    with pytest.raises(CheckpointError, match=r"b\.c has values other than true and false"):
        decode(sealed(text, ENTRIES, DATA[:-1] + b"\2"), "a.safetensors")


@pytest.mark.parametrize(
    "record",
    [b"", b"[]", b"null", b"{}", b'"x"', b"[" * 100_000, b"9" * 5000, b"\xff", b'{"record_sha256": NaN}', encode_record({"size": 1})],
)  # fmt: skip
def test_what_is_no_record_is_refused(record):
    with pytest.raises(
        CheckpointError, match=r"r\.json: is damaged, or not the record of a checkpoint"
    ):
        decode_record(record, "r.json")


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "plant",
    [
        HEADERS["length of all ones"][0],
        HEADERS["far beyond the file"][0],
        HEADERS["a shape whose product wraps around"][0],
        no_numbers_of_a_huge_shape,
    ],
)
def test_a_claim_takes_no_memory(plant):
    def read() -> str:
        with pytest.raises(CheckpointError) as raised:
            decode(plant(), "a.safetensors")
        return str(raised.value)

    assert "use another checkpoint" in in_child(read, memory_bytes=32 << 20).result


# ---------------------------------------------------------------- files of torch.save


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def of_torch(state: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


TORCHS = r"can contain code and are not read; train with EasyReg's settings file"


@pytest.mark.parametrize("switched_off", [False, True])
@pytest.mark.parametrize("name", ["model_best.pth.tar", "epoch_50_", "best-epoch-0001.safetensors"])
@pytest.mark.parametrize("form", ["zip", "legacy", *range(6)])
def test_code_in_a_file_of_torch_does_not_run(tmp_path, monkeypatch, form, name, switched_off):
    if switched_off:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(torch, "load", None)
    path, canary = tmp_path / name, tmp_path / "canary"
    state = {"epoch": 3, "state_dict": {"a": torch.ones(1)}, "best_score": Canary(canary)}
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(Canary(canary), protocol=form))
    else:
        path.write_bytes(of_torch(state, _use_new_zipfile_serialization=form == "zip"))

    told_by_suffix = name.endswith(".tar")
    told_by_start = form not in (0, 1)  # these protocols begin with their content
    words = TORCHS if told_by_suffix or told_by_start else "does not start as a .safetensors file"
    with pytest.raises(
        CheckpointError, match=rf"{path}: is damaged or not a monaiseg checkpoint .*{words}"
    ):
        load_checkpoint(path)
    assert not canary.exists()


def test_easyregs_best_is_refused_with_what_to_do_instead(tmp_path):
    """In a folder without our checkpoints the name is EasyReg's own file."""
    path = tmp_path / "model_best.pth.tar"
    path.write_bytes(of_torch({"epoch": 3, "state_dict": {}, "optimizer": {}, "global_step": {}}))

    with pytest.raises(CheckpointError, match=r"use the best-epoch-\*\.safetensors of that"):
        load_checkpoint(path)


def test_a_header_whose_length_looks_like_a_pickle_or_a_zip_is_read():
    state = {"a": "x", "b": torch.ones(1)}
    lengths = set()
    for size in range(300, 1000, 8):
        payload = encode(*separate({**state, "a": "x" * size}))
        lengths.add(payload[:1])
        assert decode(payload, "a.safetensors")["b"] == 1
    assert b"\x80" in lengths


def test_a_compressed_bomb_is_refused_without_unfolding_it(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100 << 20))

    def read() -> str:
        with pytest.raises(CheckpointError, match=TORCHS) as raised:
            load_checkpoint(path)
        return str(raised.value)

    assert "use the best" in in_child(read, memory_bytes=32 << 20).result


def test_a_torch_file_is_told_from_a_short_safetensors_file_by_its_ninth_byte():
    payload = struct.pack("<Q", 0x0403_4B50) + b"{}"  # begins as a zip file does

    with pytest.raises(CheckpointError, match="claims 67324752 bytes"):
        decode(payload, "a.safetensors")
