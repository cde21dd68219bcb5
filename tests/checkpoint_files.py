"""Checkpoints for the tests: a small one, and files made by hand that say whatever a test wants them to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from monaiseg.data.labels import LabelTable
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training.checkpoint import Best, Checkpoint
from monaiseg.training.checkpoint_file import separate

NETWORK = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
TABLE = LabelTable.from_values([1, 4])
BEST = Best(epoch=3, value=0.75, file="best-epoch-0003.safetensors", sha256="0" * 64)
ZEROS = "0" * 64


def made(step: int = 10, **changes: Any) -> Checkpoint:
    """A checkpoint whose every weight tells its step."""
    weights = {name: torch.full_like(value, step) for name, value in NETWORK.state_dict().items()}
    whole = Checkpoint(
        step=step,
        epoch=step // 10,
        epoch_closed=True,
        network=weights,
        settings=dump_settings(Settings()),
        labels=TABLE.to_records(),
        channels=("t1",),
        spacing=(1.0, 1.0, 1.2),
        conditions={"threads": 1, "data": {"train/S01": "0f"}},
        optimizer=torch.optim.AdamW(NETWORK.parameters()).state_dict(),
        history=[{"epoch": 1, "loss": 0.5, "dice/mean": float("nan")}],
    )
    return replace(whole, **changes)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def tensor_files(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".safetensors")]


def the_only_value(checkpoint: Checkpoint) -> float:
    (value,) = {float(v) for tensor in checkpoint.network.values() for v in tensor.flatten()}
    return value


# ---------------------------------------------------------------- by hand


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What stands in the file, to be changed."""
    state = {
        one.name: getattr(checkpoint, one.name) for one in fields(checkpoint) if one.name != "path"
    }
    best = None if checkpoint.best is None else asdict(checkpoint.best)
    return {"schema_version": 1, **state, "best": best}


def apart(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, and the bytes of the tensors."""
    start = 8 + int.from_bytes(payload[:8], "little")
    return json.loads(payload[8:start]), payload[start:]


def joined(header: Mapping[str, Any] | bytes, data: bytes, length: int | None = None) -> bytes:
    """A file with this header and these bytes, and perhaps another length than the header has."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def document_of(payload: bytes) -> dict[str, Any]:
    """The document: all that is not a tensor."""
    document: dict[str, Any] = json.loads(apart(payload)[0]["__metadata__"]["monaiseg"])
    return document


def text_of(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def sealed(text: str, entries: Mapping[str, Any], data: bytes) -> bytes:
    """A file around a document's text, with the right checksum where the text has zeros for it."""
    payload = joined({"__metadata__": {"monaiseg": text}, **entries}, data)
    return payload.replace(ZEROS.encode(), hashlib.sha256(payload).hexdigest().encode(), 1)


def saying(state: Mapping[str, Any]) -> bytes:
    """A sound file with this content, whether a checkpoint may have it or not."""
    document, tensors = separate(state)
    entries, data = apart(save(tensors))
    return sealed(text_of({"sha256": ZEROS, "state": document}), entries, data)
