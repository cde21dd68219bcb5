"""Fuzzers of checkpoints: the file's bytes, its header, its document, what it means, and its record."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import torch

from checkpoint_files import ZEROS, apart, document_of, joined, saying, sealed, text_of
from fuzz import Fuzzer
from fuzz.mutators import NASTY_NUMBERS, NASTY_TEXTS, as_json, mutated, mutated_document, nasty
from monaiseg.data.labels import LabelTable
from monaiseg.networks.residual_unet import network_of
from monaiseg.prediction import Predictor
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.writing import dump_settings
from monaiseg.training.checkpoint import Checkpoint, commit, load_checkpoint, newest
from monaiseg.training.checkpoint_file import decode, encode_record

SETTINGS = settings_from_dict(
    {
        "dataset": {"seg": {"patch_size": [8, 8, 8]}},
        "tsk_set": {"network": {"channels": 2, "num_stages": 2, "deep_supervision_heads": 1}},
    }
)
TABLE = LabelTable.from_values([1, 2], {1: "left", 2: "right"})
SPACING = (1.0, 1.0, 1.2)
warnings.filterwarnings("ignore")  # torch's, on what it is handed
torch.set_num_threads(
    1
)  # forked processes would wait for ever for OpenMP's threads, which they do not inherit


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
        conditions={"threads": 1},
        optimizer={"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        history=({"epoch": 1, "loss": 0.5},),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = commit(Path(folder), whole)
        return path.read_bytes(), path.with_suffix(".json").read_bytes()


def feed_checkpoint(raw: bytes, folder: Path) -> None:
    """A checkpoint that loads holds dense finite tensors, no larger than its file, and plain values."""
    path = folder / "model.safetensors"
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


# ---------------------------------------------------------------- bytes, header, document


def draw_bytes(rng: Random) -> bytes:
    """The file with harmed bytes, more often where its header lies; its checksum is put right now and then."""
    raw = sound()[0]
    length = 8 + int.from_bytes(raw[:8], "little")
    kind = rng.randrange(3)
    if kind == 0:
        return mutated(raw, rng)
    if kind == 1:
        return mutated(raw[:length], rng) + raw[length:]
    return resealed(raw[:length] + mutated(raw[length:], rng))


def draw_header(rng: Random) -> bytes:
    """A sound file under a harmed header: other types, shapes, places, names, lengths, forms of JSON."""
    header, data = apart(sound()[0])
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        kind = rng.randrange(7)
        if kind == 0:
            header[name] = entry | {"dtype": rng.choice(_DTYPES)}
        elif kind == 1:
            header[name] = entry | {"shape": [rng.choice(NASTY_NUMBERS) for _ in entry["shape"]]}
        elif kind == 2:
            places = entry["data_offsets"]
            header[name] = entry | {
                "data_offsets": [place + rng.choice((-4, -1, 0, 4, 2**40)) for place in places]
            }
        elif kind == 3:
            header[rng.choice(NASTY_TEXTS)] = header.pop(name)
        elif kind == 4:
            header[rng.choice(NASTY_TEXTS)] = entry
        elif kind == 5:
            header[name] = entry | {"shape": entry["shape"][::-1] + [1] * rng.randrange(8)}
        else:
            header = mutated_document(header, rng, 1)
            break  # its entries may be anything now
        if len(header) < 3:
            break
    raw = as_json(header, rng)
    length = (
        rng.choice((0, 1, len(raw) - 1, len(raw) + 1, 2**32, 2**63)) if rng.random() < 0.1 else None
    )
    return resealed(joined(raw, data, length))


_DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "F8_E4M3",
    "F4",
    "U64",
    "",
    "f32",
)


def draw_document(rng: Random) -> bytes:
    """A sound file around a harmed document, with the right checksum."""
    header, data = apart(sound()[0])
    del header["__metadata__"]
    document = {"sha256": ZEROS, "state": document_of(sound()[0])["state"]}
    kind = rng.randrange(4)
    if kind == 0:
        text = mutated(text_of(document).encode(), rng).decode("utf-8", "replace")
    elif kind == 1:
        text = as_json(document, rng).decode("utf-8", "replace")
    else:
        part = rng.choice(list(document["state"]))
        mark = rng.choice(("$tensor", "$number", "$numbered"))
        planted = {mark: rng.choice(("nan", "network", rng.choice(list(header)), nasty(rng)))}
        state = document["state"] | {part: planted}
        document["state"] = mutated_document(document["state"], rng) if kind == 2 else state
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=rng.random() < 0.2)
    return sealed(text, header, data)


def resealed(raw: bytes) -> bytes:
    """The file with the checksum that belongs to its content, where it still holds the sound one's."""
    blank = raw.replace(document_of(sound()[0])["sha256"].encode(), ZEROS.encode(), 1)
    return blank.replace(ZEROS.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


# ---------------------------------------------------------------- what it means


@functools.cache
def meaning() -> dict[str, Any]:
    """The state in the sound file."""
    return decode(sound()[0], "the sound checkpoint")


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
        return saying(state)
    except (TypeError, UnicodeError):  # what no document can hold
        return b""


def feed_meaning(raw: bytes, folder: Path) -> None:
    """A checkpoint that a Predictor accepts has a network that labels an image."""
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    predictor = Predictor(path, device="cpu")
    channels = predictor.settings.network_channels
    if max(predictor.settings.patch_shape) <= 16 and channels <= 7:
        with torch.no_grad():
            logits = predictor.network(torch.zeros(1, channels, *predictor.settings.patch_shape))
        assert logits.shape[1] == predictor.table.num_classes


# ---------------------------------------------------------------- the record


def draw_record(rng: Random) -> bytes:
    """A harmed record; its checksum is put right now and then."""
    if rng.random() < 0.3:
        return mutated(sound()[1], rng)
    record = json.loads(sound()[1])
    if rng.random() < 0.3:
        return json.dumps(mutated_document(record, rng)).encode("utf-8", "replace")
    del record["record_sha256"]
    try:
        return encode_record(mutated_document(record, rng))
    except (TypeError, ValueError):  # what no record can hold
        return b""


def feed_record(raw: bytes, folder: Path) -> None:
    """A record that is accepted belongs to its checkpoint."""
    (folder / "step-000000003.safetensors").write_bytes(sound()[0])
    (folder / "step-000000003.json").write_bytes(raw)
    assert newest(folder).step == 3


FUZZERS = (
    Fuzzer("checkpoint_bytes", lambda: sound()[0], draw_bytes, feed_checkpoint),
    Fuzzer("checkpoint_headers", lambda: sound()[0], draw_header, feed_checkpoint),
    Fuzzer("checkpoint_documents", lambda: sound()[0], draw_document, feed_checkpoint),
    Fuzzer("checkpoint_meanings", lambda: sound()[0], draw_meaning, feed_meaning),
    Fuzzer("checkpoint_records", lambda: sound()[1], draw_record, feed_record),
)
