"""Fuzzers of checkpoints: the file's bytes, its pickle, its zip directory, what it means, and its record."""

from __future__ import annotations

import functools
import io
import json
import pickletools
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import torch

from fuzz import Fuzzer
from fuzz.mutators import NASTY_NUMBERS, mutated, mutated_document, nasty
from monaiseg.data.labels import LabelTable
from monaiseg.networks.residual_unet import network_of
from monaiseg.prediction import Predictor
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.writing import dump_settings
from monaiseg.training.checkpoint import Checkpoint, commit, load_checkpoint, newest

SETTINGS = settings_from_dict(
    {
        "dataset": {"seg": {"patch_size": [8, 8, 8]}},
        "tsk_set": {"network": {"channels": 2, "num_stages": 2, "deep_supervision_heads": 1}},
    }
)
TABLE = LabelTable.from_values([1, 2], {1: "left", 2: "right"})
SPACING = (1.0, 1.0, 1.2)
warnings.filterwarnings("ignore")  # torch's, on what it finds in a pickle


@functools.cache
def sound() -> tuple[bytes, bytes]:
    """A checkpoint of a real network, and its record."""
    torch.manual_seed(0)
    network = network_of(SETTINGS, TABLE, SPACING)
    whole = Checkpoint(
        step=3,
        epoch=1,
        epoch_closed=True,
        network=network.state_dict(),
        settings=dump_settings(SETTINGS),
        labels=TABLE.to_records(),
        channels=("t1",),
        spacing=SPACING,
        topology={"strides": [[1, 1, 1]]},
        fingerprint={"threads": 1},
        optimizer={"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        history=({"epoch": 1, "loss": 0.5},),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = commit(Path(folder), whole)
        return path.read_bytes(), path.with_suffix(".json").read_bytes()


@functools.cache
def entries() -> dict[str, bytes]:
    """The records of the sound checkpoint's zip file."""
    with zipfile.ZipFile(io.BytesIO(sound()[0])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(records: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Records as a zip file with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, record in records:
            archive.writestr(name, record)
    return buffer.getvalue()


def feed_checkpoint(raw: bytes, folder: Path) -> None:
    """A checkpoint that loads holds dense finite tensors, no larger than its file, and plain values."""
    path = folder / "model.pt"
    path.write_bytes(raw)
    check_plain(load_checkpoint(path), len(raw))


def check_plain(checkpoint: Checkpoint, size: int) -> None:
    """Asserts what the strict loader promises, by a walk of its own."""
    held = 0
    stack: list[Any] = [getattr(checkpoint, field.name) for field in fields(Checkpoint)]
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            assert type(value) is torch.Tensor
            assert value.layout is torch.strided
            assert value.is_contiguous()
            assert bool(torch.isfinite(value).all())
            held += value.numel() * value.element_size()
        elif isinstance(value, dict):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            stack += value
        else:
            assert value is None or type(value).__module__ in (
                "builtins",
                "pathlib",
                "monaiseg.training.checkpoint",
            )
    assert held <= size


# ---------------------------------------------------------------- bytes, pickle, zip directory


def draw_bytes(rng: Random) -> bytes:
    """The file with harmed bytes, where its directory lies more often."""
    raw = sound()[0]
    if rng.random() < 0.5:
        at = rng.randrange(max(len(raw) - 4000, 0), len(raw))
        return raw[:at] + mutated(raw[at:], rng)
    return mutated(raw, rng)


_NAMES = (
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "subprocess Popen",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_meta_tensor_no_storage", "torch ComplexFloatStorage", "torch HalfStorage", "torch LongStorage",
    "torch BoolStorage", "torch ByteStorage", "numpy.core.multiarray scalar", "_codecs encode", "collections Counter",
    "torch.serialization load", "torch.jit load", "runpy run_path", "builtins bytearray", "torch Tensor",
)  # fmt: skip


def draw_pickle(rng: Random) -> bytes:
    """A sound zip file around a harmed pickle: other globals, other numbers, other opcodes."""
    code = entries()["archive/data.pkl"]
    places = [(op.name, argument, at) for op, argument, at in pickletools.genops(code)]
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(5)
        if kind == 0:
            found = [(argument, at) for name, argument, at in places if name == "GLOBAL"]
            old, _ = rng.choice(found)
            code = code.replace(_line(old), _line(rng.choice(_NAMES)), rng.choice((1, -1)))
        elif kind == 1:
            at = rng.choice(
                [at for name, _, at in places if name in ("BININT", "BININT1", "BININT2")]
            )
            code = (
                code[: at + 1]
                + rng.choice((b"\xff", b"\0", b"\x7f", rng.randbytes(1)))
                + code[at + 2 :]
            )
        elif kind == 2:
            at = rng.choice(places)[2]
            code = (
                code[:at]
                + rng.choice((b"R", b"0", b"(", b"t", b"]", b"}", b"b", b"\x81", b"Q", b"2", b"."))
                + code[at:]
            )
        elif kind == 3:
            at = rng.choice(places)[2]
            number = rng.choice((2**31 - 1, -1, 10**12, 2**62))
            code = code[:at] + b"\x8a\x08" + number.to_bytes(8, "little", signed=True) + code[at:]
        else:
            code = mutated(code, rng, 2)
    return packed(
        (name, code if name.endswith("data.pkl") else it) for name, it in entries().items()
    )


def _line(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def draw_zip(rng: Random) -> bytes:
    """A zip file with records lost, doubled, renamed, swapped, packed, or with a directory that lies."""
    records = list(entries().items())
    kind = rng.randrange(7)
    if kind == 0:
        records.pop(rng.randrange(len(records)))
    elif kind == 1:
        records.append(rng.choice(records))
    elif kind == 2:
        name = rng.choice(
            (
                "../x",
                "/etc/x",
                "archive/code/x.py",
                "archive/data/99",
                "archive/constants.pkl",
                "x",
                "a\0b",
            )
        )
        records.insert(rng.randrange(len(records)), (name, rng.randbytes(10)))
    elif kind == 3:
        (a, old), (b, new) = rng.sample(records, 2)
        records = [(n, new if n == a else old if n == b else it) for n, it in records]
    elif kind == 4:
        at = rng.randrange(len(records))
        records[at] = records[at][0], mutated(records[at][1] or b"\0", rng)
    raw = packed(
        records,
        rng.choice(
            (zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        ),
    )
    if kind == 5:  # sizes and places in the central directory
        at = raw.rindex(b"PK\1\2") + rng.choice((8, 10, 16, 20, 24, 28, 30, 42))
        raw = (
            raw[:at] + rng.choice((b"\xff\xff\xff\xff", bytes(4), rng.randbytes(4))) + raw[at + 4 :]
        )
    return rng.randbytes(7) + raw if kind == 6 else raw


# ---------------------------------------------------------------- what it means


@functools.cache
def meaning() -> dict[str, Any]:
    """The state in the sound file."""
    state: dict[str, Any] = torch.load(io.BytesIO(sound()[0]), weights_only=True)
    return state


def draw_meaning(rng: Random) -> bytes:
    """A sound file that says something else: settings, labels, spacing, weights of another network."""
    state = dict(meaning())
    for _ in range(rng.randint(1, 2)):
        part = rng.choice(
            ("settings",) * 4 + ("labels",) * 3 + ("spacing", "network", "channels", "any")
        )
        if part == "settings":
            state[part] = json.dumps(mutated_document(json.loads(meaning()[part]), rng))
        elif part in ("labels", "channels"):
            state[part] = mutated_document(list(meaning()[part]), rng)
        elif part == "spacing":
            state[part] = tuple(rng.choice(NASTY_NUMBERS) for _ in range(3))
        elif part == "network":
            weights = meaning()[part]
            key = rng.choice(list(weights))
            other = rng.choice(
                (
                    torch.zeros(1),
                    torch.zeros(0),
                    torch.ones(2, 2, dtype=torch.int64),
                    weights[key][..., :1].clone(),
                )
            )
            state[part] = {**weights, key: other} if rng.random() < 0.8 else {key: other}
        else:
            state[rng.choice(list(state))] = nasty(rng)
    try:
        return saved(state)
    except (OverflowError, RuntimeError, UnicodeError):  # what no pickle can hold
        return b""


def saved(state: dict[str, Any]) -> bytes:
    """A checkpoint file's bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def feed_meaning(raw: bytes, folder: Path) -> None:
    """A checkpoint that a Predictor accepts has a network that labels an image."""
    path = folder / "model.pt"
    path.write_bytes(raw)
    predictor = Predictor(path, device="cpu")
    channels = predictor.settings.dataset.num_channels
    if max(predictor.settings.patch_shape) <= 16 and channels <= 4:
        with torch.no_grad():
            logits = predictor.network(torch.zeros(1, channels, *predictor.settings.patch_shape))
        assert logits.shape[1] == predictor.table.num_classes


# ---------------------------------------------------------------- the record


def draw_record(rng: Random) -> bytes:
    """A harmed record."""
    if rng.random() < 0.5:
        return mutated(sound()[1], rng)
    return json.dumps(mutated_document(json.loads(sound()[1]), rng)).encode("utf-8", "replace")


def feed_record(raw: bytes, folder: Path) -> None:
    """A record that is accepted belongs to its checkpoint."""
    (folder / "step-000000003.pt").write_bytes(sound()[0])
    (folder / "step-000000003.json").write_bytes(raw)
    assert newest(folder).step == 3


FUZZERS = (
    Fuzzer("checkpoint_bytes", lambda: sound()[0], draw_bytes, feed_checkpoint),
    Fuzzer("checkpoint_pickles", lambda: packed(entries().items()), draw_pickle, feed_checkpoint),
    Fuzzer("checkpoint_zips", lambda: sound()[0], draw_zip, feed_checkpoint),
    Fuzzer("checkpoint_meanings", lambda: sound()[0], draw_meaning, feed_meaning),
    Fuzzer("checkpoint_records", lambda: sound()[1], draw_record, feed_record),
)
