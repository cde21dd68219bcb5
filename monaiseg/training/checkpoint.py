"""Checkpoints: everything needed to resume a run or to predict, in files that cannot run code.

A *checkpoint* is one self-describing `.safetensors` file with weights, settings, labels and history. Its *record* is
a `.json` file of the same name with the size and the SHA-256. The record is written last; only then is the checkpoint
valid, and is called a *commit*. A folder keeps two *generations* (the latest, such as `step-000000123`, and the one
before), the `best-epoch-0012` that the newest commit points to, and each `epoch-0050` that the settings ask to keep.

`checkpoint_file` defines the file format, and `checkpoint_fields` the content of each field.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from monaiseg import __version__
from monaiseg.errors import CheckpointError, DataError, MonaisegWarning, NumericsError, listed
from monaiseg.files import TEMPORARY, read_bytes, remove, sha256_of, write_atomic
from monaiseg.training.checkpoint_fields import (
    FIELDS,
    SCHEMA_VERSION,
    check_version,
    checked_fields,
)
from monaiseg.training.checkpoint_file import (
    SUFFIX,
    Weights,
    decode,
    decode_record,
    encode,
    encode_record,
    first_not_finite,
    separate,
)

MAX_BYTES = 8 << 30
"""Largest file that is read. No network of this library comes close to this size."""
MAX_RECORD_BYTES = 1 << 20
EASYREGS_BEST = "model_best.pth.tar"

_STEP_RECORD = re.compile(r"step-\d{9}\.json")
_OWN_NAME = re.compile(
    r"(step-\d{9}|best-epoch-\d{4,})(\.safetensors|(\.mirroring|\.postprocessing)?\.json)"
)


@dataclass(frozen=True)
class Best:
    """Pointer to the best checkpoint so far: its epoch, mean foreground Dice, file name and SHA-256."""

    epoch: int
    value: float
    file: str
    sha256: str


def versions() -> dict[str, str]:
    """Versions of the software that computes: monaiseg, Python, torch, monai, numpy."""
    installed = {name: importlib.metadata.version(name) for name in ("torch", "monai", "numpy")}
    return {"monaiseg": __version__, **installed, "python": platform.python_version()}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State of a run at the end of a step, as tensors and plain values. NumPy scalars become plain when written."""

    step: int
    """Number of batches since the start of the run."""
    epoch: int
    """Epoch of the step, counted from 1."""
    epoch_closed: bool
    """Whether the epoch is complete, including its validation."""
    network: Weights
    settings: str
    """The settings as canonical JSON."""
    labels: Sequence[Mapping[str, Any]]
    """The label table as records, in the order of the network's classes."""
    channels: Sequence[str]
    """Names of the image channels, in the order of the network's input."""
    spacing: tuple[float, float, float]
    """Voxel size in mm along X, Y, Z that the network was designed for."""
    conditions: Mapping[str, Any]
    """What must stay the same to reach the same weights; see `monaiseg.training.conditions`."""
    inputs: Mapping[str, Any] | None = None
    """What the training scans look like, as a record of `monaiseg.data.InputRange`. None: not known."""
    optimizer: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    scaler: Mapping[str, Any] | None = None
    averaged: Weights | None = None
    """Moving average of the weights, if there is one. Validation and prediction use it."""
    best: Best | None = None
    history: Sequence[Mapping[str, Any]] = ()
    """One row per epoch; the last row may belong to an epoch that is not complete."""
    versions: Mapping[str, str] = field(default_factory=versions)
    path: Path | None = None
    """File that the checkpoint was read from."""

    @property
    def weights(self) -> Weights:
        """The weights for prediction: the averaged weights if there are any."""
        return self.averaged or self.network


def commit(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint and its record durably, then remove files that are no longer needed. Returns the file.

    After a failure at any point, `newest` can still load a generation, if there was one before or this one was written.

    Raises:
        StorageError: the disk is full, read-only or failing.
        NumericsError: a tensor holds NaN or infinity; nothing is written.
    """
    path, _ = _write(folder, f"step-{checkpoint.step:09d}", checkpoint)
    _prune(folder, checkpoint)
    return path


def save_best(folder: Path, checkpoint: Checkpoint, value: float) -> Best:
    """Write the weights with the best validation so far, without the optimiser's state and without case ids.

    The file is ignored until a commit includes the returned pointer.
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
        conditions={part: it for part, it in checkpoint.conditions.items() if part != "data"},
    )
    path, digest = _write(folder, f"best-epoch-{checkpoint.epoch:04d}", usable)
    return Best(checkpoint.epoch, float(value), path.name, digest)


def adopt_best(folder: Path, source: Checkpoint) -> Best | None:
    """Copy the best checkpoint of the run that `source` belongs to into `folder`; None if there is none.

    A run that continues from the checkpoint of another run keeps that run's best until it has a better one.
    """
    if source.path is None:
        return None
    home = source.path.parent
    try:
        best = source.best or newest(home).best
    except CheckpointError:  # a file without its folder
        return None
    if best is None or not _is_intact(home / best.file, best.sha256):
        return None
    for path in (home / best.file, _record_path(home / best.file)):
        write_atomic(folder / path.name, _read(path, MAX_BYTES))
    return best


def keep(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint as, for example, `epoch-0050.safetensors`; commits never remove it."""
    path, _ = _write(folder, f"epoch-{checkpoint.epoch:04d}", checkpoint)
    return path


def _write(folder: Path, stem: str, checkpoint: Checkpoint) -> tuple[Path, str]:
    """Write a checkpoint and return its file and SHA-256. The record is written last: it makes the file valid."""
    path = folder / f"{stem}{SUFFIX}"
    payload = _payload(checkpoint)
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
    }
    write_atomic(path, payload)
    write_atomic(_record_path(path), encode_record(record))
    return path, digest


def _payload(checkpoint: Checkpoint) -> bytes:
    state: dict[str, Any] = {name: getattr(checkpoint, name) for name in FIELDS}
    state["best"] = None if checkpoint.best is None else asdict(checkpoint.best)
    document, tensors = separate({"schema_version": SCHEMA_VERSION, **state})
    if broken := first_not_finite(tensors):
        raise NumericsError(
            f"step {checkpoint.step}: {broken} has NaN or infinite values; nothing was written, and the "
            "earlier checkpoints are kept; lower `tsk_set.optim.lr` and resume"
        )
    return encode(document, tensors)


def _prune(folder: Path, checkpoint: Checkpoint) -> None:
    """Remove all files but those of this generation, the last intact generation before it, and the best.

    Later steps are removed as well: they belong to a run that had to resume from an older, intact generation.
    """
    current = f"step-{checkpoint.step:09d}"
    earlier = (path for path in _step_records(folder) if path.stem < current)
    older = next((path.stem for path in earlier if _is_intact(path.with_suffix(SUFFIX))), None)
    best = None if checkpoint.best is None else Path(checkpoint.best.file).stem
    own = [path for path in folder.iterdir() if _OWN_NAME.fullmatch(path.name)]
    superfluous = [
        path for path in own if path.name.partition(".")[0] not in {current, older, best}
    ]
    for path in [*superfluous, *folder.glob(TEMPORARY)]:
        remove(path)


def newest(folder: str | Path) -> Checkpoint:
    """The newest commit in a run folder or checkpoints folder. If it is damaged, the one before, with a warning.

    If the best checkpoint is missing or altered, a warning says so, and the next validation counts as the best.

    Raises:
        CheckpointError: there is no usable commit.
    """
    found = _newest(_commits_folder(Path(folder)))
    best = found.best
    if best is None or found.path is None:
        return found
    if not _is_intact(found.path.parent / best.file, best.sha256):
        warnings.warn(
            f"{found.path.parent / best.file}: the best checkpoint (epoch {best.epoch}, Dice {best.value:.4f}) is "
            "missing or has been changed; the next validation will be the best",
            MonaisegWarning,
            stacklevel=2,
        )
        return replace(found, best=None)
    return found


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint file, or the best checkpoint of a run folder (the newest before the first validation).

    EasyReg's name for the best checkpoint, `checkpoints/model_best.pth.tar`, loads the best of that folder.

    Raises:
        CheckpointError: the file is missing or damaged, is not a checkpoint, or is of another version.
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
            if sorted(folder.glob("*")) == before:  # otherwise a run has written meanwhile
                raise


def check_weights(weights: Weights, expected: Weights, where: str | Path | None = None) -> None:
    """Check that weights fit the state dictionary of a network.

    An empty tensor of the network takes one of any size, as those of an atlas do.

    Raises:
        CheckpointError: they do not; the message names the first five differing keys with their shapes.
    """
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is not in the network" for key in weights if key not in expected]
    for key, tensor in expected.items():
        if key not in weights or (tensor.numel() == 0 and _kind(weights[key]) == _kind(tensor)):
            continue
        if (ours := _form(weights[key])) != (theirs := _form(tensor)):
            problems.append(f"{key} is {ours}, but {theirs} in the network")
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
            found = _load(record.with_suffix(SUFFIX))
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
            f"{listed(damaged)}\n{folder}: no usable checkpoint is left; train again under another name"
        )
    raise CheckpointError(
        f"{folder}: has no checkpoint (step-*{SUFFIX} with its .json); give a run folder, or the path of a {SUFFIX} "
        "file"
    )


def _best_or_newest(folder: Path) -> Checkpoint:
    found = _newest(folder)
    if found.step == 0:
        raise CheckpointError(
            f"{folder}: this run has not saved a checkpoint yet; wait for the first, or give another model"
        )
    if found.best is None:
        return found
    try:
        return _load(folder / found.best.file, found.best.sha256)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or give {found.path} to use the last weights") from error


def _load(path: Path, expected_sha256: str | None = None) -> Checkpoint:
    """Load a checkpoint from one file, and check it against its record if there is one."""
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
            "best: the file was replaced; use another checkpoint"
        )
    state = checked_fields(decode(payload, path), path)
    best = state.pop("best")
    checkpoint = Checkpoint(**state, best=best and Best(**best), path=path)
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
        raise CheckpointError(f"{what}; give a {SUFFIX} file or a run folder") from error


def _read_record(path: Path) -> dict[str, Any]:
    record = decode_record(_read(path, MAX_RECORD_BYTES), path)
    check_version(record["schema_version"], path)
    return record


def _commits_folder(path: Path) -> Path:
    inner = path / "checkpoints"
    return inner if inner.is_dir() else path


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _step_records(folder: Path) -> list[Path]:
    """Records of committed steps, newest first."""
    names = [path for path in folder.glob("step-*.json") if _STEP_RECORD.fullmatch(path.name)]
    return sorted(names, reverse=True)


def _is_intact(path: Path, expected_sha256: str | None = None) -> bool:
    """Whether a file exists with the expected SHA-256; by default, with the one in its record."""
    try:
        wanted = expected_sha256 or _read_record(_record_path(path))["sha256"]
        return path.is_file() and sha256_of(path) == wanted
    except (CheckpointError, OSError):
        return False


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, int]:
    return tensor.dtype, tensor.ndim


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
