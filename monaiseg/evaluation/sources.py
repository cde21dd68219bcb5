"""Sources: what a set of scores was computed from, in `sources.json` beside `scores.csv`.

The report finds images and label maps by this file, and says which program, command and model made the scores. Paths
inside the folder of the scores are relative, so that the folder can be moved.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monaiseg import __version__
from monaiseg.data import LabelTable
from monaiseg.errors import DataError
from monaiseg.evaluation.summaries import Part
from monaiseg.files import read_text, write_atomic

SOURCES_FILE = "sources.json"
PROGRAMS = ("torch", "monai", "numpy", "nibabel")
"""Packages whose versions are recorded."""


class CaseFiles(Part):
    """The files of one case; null if there is none."""

    image: str | None
    reference: str
    prediction: str | None


class Sources(Part):
    """The contents of `sources.json`."""

    schema_version: int = 1
    command: tuple[str, ...]
    """Words of the command that computed the scores."""
    finished: str
    """Date and time (UTC)."""
    versions: dict[str, str]
    model_sha256: str | None
    """Checksum of the checkpoint; null if the label maps came from elsewhere."""
    labels: tuple[dict[str, Any], ...]
    """Records of the label table."""
    cases: dict[str, CaseFiles]

    @property
    def table(self) -> LabelTable:
        """The label table of the scores."""
        return LabelTable.from_records(self.labels)


def write_sources(
    folder: Path,
    files: Mapping[str, tuple[Path | None, Path, Path | None]],
    table: LabelTable,
    command: Sequence[str],
    model_sha256: str | None = None,
) -> Path:
    """Write `sources.json` to the folder of the scores; `files` has image, reference and prediction of each case."""
    sources = Sources(
        command=tuple(command),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=_versions(),
        model_sha256=model_sha256,
        labels=tuple(table.to_records()),
        cases={
            case_id: CaseFiles(
                image=_noted(image, folder),
                reference=str(_noted(reference, folder)),
                prediction=_noted(prediction, folder),
            )
            for case_id, (image, reference, prediction) in files.items()
        },
    )
    write_atomic(folder / SOURCES_FILE, (sources.model_dump_json(indent=2) + "\n").encode())
    return folder / SOURCES_FILE


def read_sources(folder: Path) -> Sources | None:
    """The sources of the scores in a folder; None if there is no such file.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder / SOURCES_FILE
    if not path.is_file():
        return None
    try:
        return Sources.model_validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {where}: {first['msg']}; run `monaiseg evaluate` again to rewrite it"
        ) from error


def _noted(path: Path | None, folder: Path) -> str | None:
    """A path as it is recorded: relative to the folder of the scores if it is inside, absolute otherwise."""
    if path is None:
        return None
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _versions() -> dict[str, str]:
    installed = {name: importlib.metadata.version(name) for name in PROGRAMS}
    return {"monaiseg": __version__, **installed, "python": platform.python_version()}
