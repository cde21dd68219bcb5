"""Checkpoints: what a training needs to go on and a colleague to predict, in files that cannot run code.

A *checkpoint* is one `.pt` file that describes itself: weights, settings, labels, history. Its *record*, a `.json` file
of the same name, holds size and SHA-256; it is written last, and a file of a training counts from then on: it is a
*commit*. A folder keeps two *generations*, `step-000000123` and the one before, the `best-epoch-0012` that the newest
commit points to, and for good every `epoch-0050` that was asked for.

Loading is strict. torch's weights-only reader is a fence and not a proof: it checks no CRC, inflates what is compressed
and takes tensors of any layout. So the file is surveyed first, and only plain values and dense tensors come through.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import pickletools
import platform
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monaiseg import __version__
from monaiseg.errors import CheckpointError, DataError, MonaisegWarning, NumericsError, listed
from monaiseg.files import TEMPORARY, read_bytes, remove, sha256_of, write_atomic

SCHEMA_VERSION = 1
MAX_BYTES = 8 << 30
"""No network of this library comes near; a larger file is something else."""
MAX_RECORD_BYTES = 1 << 20
MAX_ZIP_ENTRIES = 10_000
EASYREGS_BEST = "model_best.pth.tar"

_OWN_NAME = re.compile(r"(step-\d{9}|best-epoch-\d{4,})\.(pt|json)")
_BEST_NAME = re.compile(r"best-epoch-\d{4,}\.pt")
_ZIP_ENTRY = re.compile(
    r"archive/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|"
    r"\.data/serialization_id|data/\d+)"
)
_DTYPES = {
    torch.float16: "HalfStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.float32: "FloatStorage",
    torch.float64: "DoubleStorage",
    torch.uint8: "ByteStorage",
    torch.int8: "CharStorage",
    torch.int16: "ShortStorage",
    torch.int32: "IntStorage",
    torch.int64: "LongStorage",
    torch.bool: "BoolStorage",
}
_GLOBALS = {
    "collections OrderedDict",  # the (empty) hooks of every tensor
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {storage}" for storage in _DTYPES.values()),
}
# What a pickle of protocol 2 needs for plain values and tensors; none of these builds an object.
_OPCODES = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "BINUNICODE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET",
    "LONG_BINGET", "GLOBAL", "REDUCE", "BINPERSID",
}  # fmt: skip

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Best:
    """Pointer to the best checkpoint so far: its epoch, mean foreground Dice, file name and SHA-256."""

    epoch: int
    value: float
    file: str
    sha256: str


def versions() -> dict[str, str]:
    """Versions of what computes: monaiseg, Python, torch, monai, numpy."""
    installed = {name: importlib.metadata.version(name) for name in ("torch", "monai", "numpy")}
    return {"monaiseg": __version__, **installed, "python": platform.python_version()}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training at the end of a step. Only tensors and plain values; numpy scalars become plain when written."""

    step: int
    """Batches done since the start of the training."""
    epoch: int
    """Epoch that the step belongs to, from 1."""
    epoch_closed: bool
    """Whether the epoch's validation has been done as well."""
    network: Weights
    settings: str
    """The settings as canonical JSON."""
    labels: Sequence[Mapping[str, Any]]
    """The label table as records, in the order of the network's classes."""
    channels: Sequence[str]
    """Names of the image channels, in the order the network takes them."""
    spacing: tuple[float, float, float]
    """Voxel size in mm along X, Y, Z that the network was laid out for."""
    topology: Mapping[str, Any]
    """Kernels, strides and channels of the network, for readers other than monaiseg."""
    fingerprint: Mapping[str, Any]
    """What must be the same for the same weights to come out; see `fingerprint()`."""
    optimizer: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    scaler: Mapping[str, Any] | None = None
    averaged: Weights | None = None
    """Moving average of the weights, where one is kept; it is what validation and prediction use."""
    best: Best | None = None
    history: Sequence[Mapping[str, Any]] = ()
    """One row an epoch, the last perhaps of an open one."""
    versions: Mapping[str, str] = field(default_factory=versions)
    path: Path | None = None
    """File it was read from."""

    @property
    def weights(self) -> Weights:
        """The weights to predict with: the averaged ones where there are any."""
        return self.averaged or self.network


def commit(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint and its record durably, then remove what is no longer needed. Returns the `.pt` file.

    Whatever fails and whenever, a generation that `newest` loads is left, if there was one or this one was written.

    Raises:
        StorageError: the disk is full, read-only or failing.
        NumericsError: a tensor holds NaN or infinity; nothing is written.
    """
    path, _ = _write(folder, f"step-{checkpoint.step:09d}", checkpoint)
    _prune(folder, checkpoint)
    return path


def save_best(folder: Path, checkpoint: Checkpoint, value: float) -> Best:
    """Write the weights that were validated as the best so far, without optimiser state and without case ids.

    The file counts once a commit carries the returned pointer; until then it is a ghost that nobody looks at.
    """
    if not math.isfinite(value):
        raise ValueError(f"a score of {value} is not the best of anything")
    usable = replace(
        checkpoint,
        network=checkpoint.weights,
        averaged=None,
        optimizer=None,
        scheduler=None,
        scaler=None,
        best=None,
        fingerprint={part: it for part, it in checkpoint.fingerprint.items() if part != "data"},
    )
    path, digest = _write(folder, f"best-epoch-{checkpoint.epoch:04d}", usable)
    return Best(checkpoint.epoch, float(value), path.name, digest)


def adopt_best(folder: Path, source: Checkpoint) -> Best | None:
    """Copy the best checkpoint of the training that `source` is from into `folder`; None where it has none.

    So a training that goes on from another's checkpoint keeps that one's best until it has a better one.
    """
    if source.path is None:
        return None
    home = source.path.parent
    try:
        best = source.best or newest(home).best
    except CheckpointError:  # a file that was handed on by itself
        return None
    if best is None or not _is_intact(home / best.file, best.sha256):
        return None
    for path in (home / best.file, _record_path(home / best.file)):
        write_atomic(folder / path.name, _read(path, MAX_BYTES))
    return best


def keep(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint as `epoch-0050.pt`, which no commit removes."""
    path, _ = _write(folder, f"epoch-{checkpoint.epoch:04d}", checkpoint)
    return path


def _write(folder: Path, stem: str, checkpoint: Checkpoint) -> tuple[Path, str]:
    """The written file and its SHA-256. The record comes last: it is the commit point."""
    path = folder / f"{stem}.pt"
    payload = _encode(checkpoint)
    digest = sha256_of(payload)
    record = {
        "schema_version": SCHEMA_VERSION,
        "file": path.name,
        "size": len(payload),
        "sha256": digest,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "epoch_closed": checkpoint.epoch_closed,
        "best": None if checkpoint.best is None else asdict(checkpoint.best),
        "settings_sha256": sha256_of(checkpoint.settings.encode()),
        "labels": [label["name"] for label in checkpoint.labels],
        "versions": dict(checkpoint.versions),
    }
    write_atomic(path, payload)
    write_atomic(_record_path(path), (json.dumps(record, indent=2) + "\n").encode())
    return path, digest


def _encode(checkpoint: Checkpoint) -> bytes:
    """The file's bytes, already read back once by the strict loader: nothing is written that it would refuse."""
    state: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for name in _FIELDS:
        state[name] = _plain(getattr(checkpoint, name), name)
    if broken := _first_not_finite(state):
        raise NumericsError(
            f"step {checkpoint.step}: {broken} holds NaN or infinite numbers; nothing was written and the "
            "earlier checkpoints stay; lower `tsk_set.optim.lr` and resume"
        )
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    _decode(payload, f"checkpoint of step {checkpoint.step}")
    return payload


def _plain(value: Any, name: str) -> Any:
    """Rebuilt from exact built-in types and whole, dense CPU tensors, all new, so that equal values give equal bytes.

    A pickle refers back to strings that it has met as the same object: equal ones become the same here.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().as_subclass(torch.Tensor).contiguous()
        return tensor if _is_whole(tensor) else tensor.clone()
    if isinstance(value, Best):
        return asdict(value)
    if isinstance(value, Mapping):
        return {_one(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}.{index}") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in _PLAIN_TYPES:
        return _one(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain values"
    )


def _one(value: Any) -> Any:
    """The same object for equal strings."""
    return sys.intern(value) if type(value) is str else value


def _prune(folder: Path, checkpoint: Checkpoint) -> None:
    """Remove all but the present and the last intact earlier generation, and the best.

    Later steps stem from a line that was given up because its newest generation was damaged.
    """
    current = f"step-{checkpoint.step:09d}"
    earlier = (path for path in _step_records(folder) if path.stem < current)
    older = next((path.stem for path in earlier if _is_intact(path.with_suffix(".pt"))), None)
    best = None if checkpoint.best is None else Path(checkpoint.best.file).stem
    own = [path for path in folder.iterdir() if _OWN_NAME.fullmatch(path.name)]
    superfluous = [path for path in own if path.stem not in {current, older, best}]
    for path in [*superfluous, *folder.glob(TEMPORARY)]:
        remove(path)


def newest(folder: str | Path) -> Checkpoint:
    """The newest commit of a run folder or checkpoints folder; if it is damaged, the one before, with a warning.

    A best checkpoint that is missing or altered is forgotten, with a warning: the next validation makes a new one.

    Raises:
        CheckpointError: there is no commit, or none that can be used.
    """
    found = _newest(_commits_folder(Path(folder)))
    best = found.best
    if best is None or found.path is None:
        return found
    if not _is_intact(found.path.parent / best.file, best.sha256):
        warnings.warn(
            f"{found.path.parent / best.file}: the best checkpoint (epoch {best.epoch}, Dice {best.value:.4f}) is "
            "missing or altered; the next validation counts as the best",
            MonaisegWarning,
            stacklevel=2,
        )
        return replace(found, best=None)
    return found


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Checkpoint from a `.pt` file, or the best (before the first validation the newest) of a run folder.

    `checkpoints/model_best.pth.tar`, as EasyReg's users name it, is the best of that folder.

    Raises:
        CheckpointError: it is missing, damaged, no checkpoint, or of another version.
    """
    path = Path(path)
    if path.name == EASYREGS_BEST and not path.exists() and path.parent.is_dir():
        path = path.parent
    if not path.is_dir():
        return _load(path)
    folder = _commits_folder(path)
    while True:
        before = sorted(folder.glob("*"))
        try:
            return _best_or_newest(folder)
        except CheckpointError:
            if sorted(folder.glob("*")) == before:  # else a training has moved on meanwhile
                raise


def check_weights(weights: Weights, expected: Weights, where: str | Path | None = None) -> None:
    """Refuse weights that do not fit a network's own state dictionary.

    Raises:
        CheckpointError: the first five keys that differ are named with their shapes.
    """
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is not in the network" for key in weights if key not in expected]
    for key, tensor in expected.items():
        if key in weights and (ours := _form(weights[key])) != (theirs := _form(tensor)):
            problems.append(f"{key} is {ours} and {theirs} in the network")
    if problems:
        rest = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{where or 'checkpoint'}: its weights do not fit the network: {'; '.join(problems[:5])}{rest}; use "
            "the network settings and the label table that it was trained with"
        )


def _newest(folder: Path) -> Checkpoint:
    damaged: list[str] = []
    for record in _step_records(folder):
        try:
            found = _load(record.with_suffix(".pt"))
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(
                f"{listed(damaged)}\nthe older {found.path} (step {found.step}, epoch {found.epoch}) is used",
                MonaisegWarning,
                stacklevel=3,
            )
        return found
    if damaged:
        raise CheckpointError(
            f"{listed(damaged)}\n{folder}: no checkpoint is left that can be used; train again under another task name"
        )
    raise CheckpointError(
        f"{folder}: holds no committed checkpoint (step-*.pt with its .json); give the folder of a training, or the "
        "path of one .pt file"
    )


def _best_or_newest(folder: Path) -> Checkpoint:
    found = _newest(folder)
    if found.step == 0:
        raise CheckpointError(
            f"{folder}: this training has not committed a step yet; wait for the first, or give another checkpoint"
        )
    if found.best is None:
        return found
    try:
        return _load(folder / found.best.file, found.best.sha256)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or give {found.path} to use the last weights") from error


def _load(path: Path, expected_sha256: str | None = None) -> Checkpoint:
    """Checkpoint from one file, held against its record where that lies beside it."""
    payload = _read(path, MAX_BYTES)
    record_path = _record_path(path)
    record = _read_record(record_path) if record_path.exists() else None
    digest = sha256_of(payload) if record or expected_sha256 else None
    if record and (record["size"], record["sha256"]) != (len(payload), digest):
        raise CheckpointError(
            f"{path}: {len(payload)} bytes with SHA-256 {str(digest)[:12]}..., but {record_path.name} says "
            f"{record['size']} bytes with {str(record['sha256'])[:12]}...: the file is damaged; use another checkpoint"
        )
    if expected_sha256 and digest != expected_sha256:
        raise CheckpointError(
            f"{path}: has SHA-256 {str(digest)[:12]}..., but the newest commit names {expected_sha256[:12]}... as "
            "best: the file was exchanged; use another checkpoint"
        )
    checkpoint = _as_checkpoint(_decode(payload, str(path)), path)
    if record and record["step"] != checkpoint.step:
        raise CheckpointError(
            f"{path}: is of step {checkpoint.step}, but {record_path.name} says {record['step']}: the record is "
            "damaged; use another checkpoint"
        )
    return checkpoint


def _read(path: Path, most: int) -> bytes:
    try:
        return read_bytes(path, most)
    except DataError as error:
        what, _, _ = str(error).rpartition("; ")
        raise CheckpointError(f"{what}; give a .pt file or the folder of a training") from error


def _read_record(path: Path) -> dict[str, Any]:
    raw = _read(path, MAX_RECORD_BYTES)
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        record = None
    if (
        not isinstance(record, dict)
        or not {"schema_version", "size", "sha256", "step"} <= record.keys()
    ):
        raise CheckpointError(
            f"{path}: is not the record of a checkpoint: damaged; use another checkpoint, or remove this file to load "
            "without its check"
        )
    _check_version(record["schema_version"], path)
    return record


def _as_checkpoint(state: Any, path: Path) -> Checkpoint:
    if type(state) is not dict or "schema_version" not in state:
        raise CheckpointError(
            f"{path}: is not a checkpoint of monaiseg; use one that it has written"
        )
    _check_version(state.pop("schema_version"), path)
    wrong = sorted(str(name) for name in state.keys() ^ _FIELDS.keys())
    wrong += [
        name for name, kinds in _FIELDS.items() if name in state and type(state[name]) not in kinds
    ]
    if not wrong:
        wrong = [name for name, fits in _meaning(state).items() if not fits]
    if wrong:
        raise CheckpointError(
            f"{path}: {', '.join(wrong)} is missing, unknown or of the wrong kind; use another checkpoint"
        )
    best = state.pop("best")
    return Checkpoint(**state, best=best and Best(**best), path=path)


def _meaning(state: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each field holds what its users rely on."""
    best = state["best"]

    def are_weights(value: Any) -> bool:
        return bool(value) and all(
            type(key) is str and type(item) is torch.Tensor for key, item in value.items()
        )

    return {
        "step": state["step"] >= 0,
        "epoch": state["epoch"] >= 0,
        "network": are_weights(state["network"]),
        "averaged": state["averaged"] is None or are_weights(state["averaged"]),
        "spacing": len(state["spacing"]) == 3
        and all(type(mm) in (int, float) and 0 < mm < math.inf for mm in state["spacing"]),
        "labels": all(type(label) is dict for label in state["labels"]),
        "channels": all(type(name) is str for name in state["channels"]),
        "history": all(type(row) is dict for row in state["history"]),
        "best": best is None
        or (
            {name: type(item) for name, item in best.items()}
            == {"epoch": int, "value": float, "file": str, "sha256": str}
            and _BEST_NAME.fullmatch(best["file"]) is not None
        ),
    }


def _check_version(version: Any, path: Path) -> None:
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: has schema_version {version!r} and this monaiseg reads {SCHEMA_VERSION}: use it with the monaiseg "
            "that wrote it, or train again"
        )


def _commits_folder(path: Path) -> Path:
    inner = path / "checkpoints"
    return inner if inner.is_dir() else path


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _step_records(folder: Path) -> list[Path]:
    """Records of committed steps, the newest first."""
    names = [path for path in folder.glob("step-*.json") if _OWN_NAME.fullmatch(path.name)]
    return sorted(names, reverse=True)


def _is_intact(path: Path, expected_sha256: str | None = None) -> bool:
    """Whether a file is there with the SHA-256 that is expected or, by default, that its record states."""
    try:
        wanted = expected_sha256 or _read_record(_record_path(path))["sha256"]
        return path.is_file() and sha256_of(path) == wanted
    except (CheckpointError, OSError):
        return False


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


_PLAIN_TYPES = (str, int, float, bool, type(None))
_MAYBE = (dict, type(None))
_FIELDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "epoch": (int,),
    "epoch_closed": (bool,),
    "network": (dict,),
    "settings": (str,),
    "labels": (list, tuple),
    "channels": (list, tuple),
    "spacing": (tuple, list),
    "topology": (dict,),
    "fingerprint": (dict,),
    "optimizer": _MAYBE,
    "scheduler": _MAYBE,
    "scaler": _MAYBE,
    "averaged": _MAYBE,
    "best": _MAYBE,
    "history": (list, tuple),
    "versions": (dict,),
}


def _decode(payload: bytes, where: str) -> Any:
    """Plain values and dense, finite CPU tensors, nested in dictionaries, lists and tuples.

    Raises:
        CheckpointError: the bytes are anything else.
    """
    try:
        state = torch.load(_repacked(payload), map_location="cpu", weights_only=True)
        _check_tensors(state)
    except Exception as error:  # whatever a hostile file makes the zip and pickle readers raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{where}: is damaged or not a checkpoint of monaiseg ({reason}); use another checkpoint"
        ) from error
    return state


def _repacked(payload: bytes) -> io.BytesIO:
    """The same records in a new zip file, so that torch's zip reader sees only what has been checked here."""
    clean = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as source, zipfile.ZipFile(clean, "w") as target:
        entries = source.infolist()
        if (
            len({entry.filename for entry in entries}) != len(entries)
            or len(entries) > MAX_ZIP_ENTRIES
        ):
            raise CheckpointError(
                f"{len(entries)} records, some twice or more than {MAX_ZIP_ENTRIES}"
            )
        if sum(entry.file_size for entry in entries) > len(payload):
            raise CheckpointError(
                f"its records claim more than the {len(payload)} bytes of the file"
            )
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise CheckpointError(f"record {entry.filename!r} is compressed")
            if not _ZIP_ENTRY.fullmatch(entry.filename):
                raise CheckpointError(f"record {entry.filename!r} has no place in a checkpoint")
            record = source.read(entry)  # compares the CRC, which torch does not
            if entry.filename == "archive/data.pkl":
                _check_opcodes(record)
            target.writestr(zipfile.ZipInfo(entry.filename), record)
    clean.seek(0)
    return clean


def _check_opcodes(code: bytes) -> None:
    """Refuse a pickle that does more than build plain values and tensors, by reading it without running it."""
    for opcode, argument, _ in pickletools.genops(code):
        if opcode.name not in _OPCODES:
            raise CheckpointError(
                f"its pickle has the opcode {opcode.name}, which plain data does not need"
            )
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise CheckpointError(f"it refers to {argument!r}, which plain data does not need")


def _tensors(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors with their names; refuses other types, and containers that stand in two places.

    The latter could hold each other in a ring, or unfold to more than any memory.
    """
    if type(value) in (dict, list, tuple):
        if value and id(value) in seen:
            raise CheckpointError(f"{name[1:]} stands in two places")
        seen.add(id(value))
        for key, item in value.items() if type(value) is dict else enumerate(value):
            if type(key) not in (str, int):
                raise CheckpointError(f"{name[1:]} has a key of type {type(key).__name__}")
            yield from _tensors(item, f"{name}.{key}", seen)
    elif type(value) is torch.Tensor:
        yield name[1:], value
    elif type(value) not in _PLAIN_TYPES:
        raise CheckpointError(f"{name[1:]} is a {type(value).__name__}")


def _check_tensors(state: Any) -> None:
    for name, tensor in _tensors(state, "", set()):
        if not _is_whole(tensor) or tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{name} is not a dense tensor of its own, of a plain type")
    if broken := _first_not_finite(state):
        raise CheckpointError(f"{broken} holds NaN or infinite numbers")


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies densely on the CPU in a storage of just its size; asked before any value is touched."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


def _first_not_finite(state: Any) -> str | None:
    return next(
        (
            name
            for name, tensor in _tensors(state, "", set())
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
        ),
        None,
    )
