"""A folder with a small dataset to plant bad things in, and rows of the catalogue of what goes wrong with inputs.

A *refusal* is exit code 2 with a message that names the place and says what to do, no traceback, every input as it
was and nothing new on the disk. An *acceptance* is exit code 0, with a note where something was put up with.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from typer.testing import CliRunner

from drawings import GRID, SHAPE, nifti_bytes, write_case
from monaiseg.cli import app

REPOSITORY = Path(__file__).parents[1]
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.radians(0.5)) @ np.diag([1, 1, 2]))


class Bench:
    """A folder with a dataset of three cases (S1 to S3, 60 voxels each), to plant things in."""

    def __init__(self, root: Path) -> None:
        self.root, self.dataset = root, root / "data"
        for number in (1, 2, 3):
            name = f"S{number}.nii.gz"
            write_case(self.dataset / "images" / name, self.dataset / "labels" / name, seed=number)

    @property
    def prepare(self) -> list[str]:
        sizes = ["--train-size", "34", "--test-size", "33", "--val-size", "33"]
        return [
            "prepare", "--dataset-path", str(self.dataset), "-o", str(self.root / "out"), "-dtn", "task", *sizes,
        ]  # fmt: skip

    def replace(self, kind: str, raw: bytes, name: str) -> Path:
        """S1's image or label map, replaced by these bytes under this name."""
        (self.dataset / kind / "S1.nii.gz").unlink()
        path = self.dataset / kind / name
        path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith("!.nii.gz") else raw)
        return path

    def tree(self) -> dict[str, str]:
        """What stands on the disk: a digest of every file, the target of every link."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            what = "folder"
            if path.is_symlink():
                what = str(path.readlink())
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(self.root))] = what
        return found


Plant = Callable[[Bench], Sequence[str]]
"""Puts something on the bench and gives the command's words."""


@dataclass(frozen=True)
class Row:
    """One way in which a row of the catalogue shows itself."""

    number: int
    name: str
    plant: Plant
    message: str
    """Regular expression of what is said, with what to do about it."""


def call(words: Sequence[str]) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def ids(row: Row) -> str:
    return f"row-{row.number:02}-{row.name}".replace(" ", "-")


def check_refusal(row: Row, bench: Bench) -> None:
    command = row.plant(bench)
    before = bench.tree()

    result = call(command)

    assert result.exit_code == 2, result.output
    assert re.search(row.message, result.output, re.MULTILINE), result.output
    assert "Traceback" not in result.output
    assert bench.tree() == before


def settings(text: str | bytes) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        raw = text.encode() if isinstance(text, str) else text
        (bench.root / "settings.json").write_bytes(raw)
        return ["settings", "check", str(bench.root / "settings.json")]

    return plant


def task(**keys: Any) -> Plant:
    return settings(json.dumps({"tsk_set": keys}))


def scan(raw: bytes, name: str = "S1.nii") -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        bench.replace("images", raw, name)
        return bench.prepare

    return plant


def header(**fields: Any) -> Plant:
    sform_alone = {"qform_code": 0} if "srow_x" in fields else {}
    return scan(nifti_bytes(VOXELS, **sform_alone, **fields))


def values(voxels: Any, **fields: Any) -> Plant:
    return scan(nifti_bytes(np.asarray(voxels), **fields))


def label(voxels: Any, affine: Any = GRID.array, **fields: Any) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        bench.replace("labels", nifti_bytes(np.asarray(voxels), affine, **fields), "S1.nii")
        return bench.prepare

    return plant


def table(text: str) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        (bench.root / "labels.csv").write_text(text)
        return [*bench.prepare, "--label-table", str(bench.root / "labels.csv")]

    return plant


def dataset(change: Callable[[Path], Any]) -> Plant:
    """The dataset's folder after a change."""

    def plant(bench: Bench) -> Sequence[str]:
        change(bench.dataset)
        return bench.prepare

    return plant


def words(*more: str) -> Plant:
    """`prepare` on sound data with these words behind."""
    return lambda bench: [*bench.prepare, *more]
