"""Models to plant on the bench: a sound checkpoint, folders of trainings, and what has been done to them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoint_files
from bench import Bench, Plant
from fuzz import models
from monaiseg.training.checkpoint import Checkpoint, commit, save_best

FIRST_KEY = next(iter(models.meaning()["network"]))
NARROW = json.dumps({"dataset": {"seg": {"patch_size": [8, 8, 8]}}, "tsk_set": {"network": {"channels": 4, "num_stages": 2}}})  # fmt: skip


def predict(plant: Callable[[Path], Path]) -> Plant:
    """`predict` with the model that `plant` leaves in a folder."""

    def planted(bench: Bench) -> Sequence[str]:
        folder = bench.root / "model"
        folder.mkdir()
        model = plant(folder)
        return ["predict", "-m", str(model), "-i", str(bench.dataset / "images" / "S1.nii.gz"), "-o", str(bench.root / "out"), "-g", "-1"]  # fmt: skip

    return planted


def one_file(raw: Callable[[], bytes]) -> Plant:
    """A model of these bytes alone."""

    def plant(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(raw())
        return folder / "model.safetensors"

    return predict(plant)


def saying(**changes: Any) -> Plant:
    """A sound checkpoint in which these fields say something else."""
    return one_file(lambda: checkpoint_files.saying({**models.meaning(), **changes}))


def generations(harm: Callable[[Path], Any]) -> Plant:
    """A training's folder of two generations, harmed."""

    def plant(folder: Path) -> Path:
        loaded = as_checkpoint(models.meaning())
        for step in (3, 4):
            commit(folder, replace(loaded, step=step))
        harm(folder)
        return folder

    return predict(plant)


def with_best(harm: Callable[[Path], Any]) -> Plant:
    """A training's folder whose newest commit points to a best checkpoint, harmed."""

    def plant(folder: Path) -> Path:
        loaded = as_checkpoint(models.meaning())
        best = save_best(folder, loaded, 0.9)
        commit(folder, replace(loaded, best=best))
        harm(folder / best.file)
        return folder

    return predict(plant)


def as_checkpoint(state: dict[str, Any]) -> Checkpoint:
    return Checkpoint(**{name: value for name, value in state.items() if name != "schema_version"})


def turned(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def sound_model(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(models.sound()[0])
    return folder / "model.safetensors"


def of_torch(compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    """A zip file as torch.save writes it, with these entries (`data_pkl` is `archive/data.pkl`)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, entry in entries.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", entry)
    return buffer.getvalue()


def with_header(**changes: Any) -> bytes:
    """The sound checkpoint whose header says something else about the first weight."""
    header, data = checkpoint_files.apart(models.sound()[0])
    header[f"network.{FIRST_KEY}"].update(changes)
    return checkpoint_files.joined(header, data)
