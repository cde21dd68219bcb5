"""Unfinished evaluations: the scores of each case are kept as they come, so that an interrupted one continues.

There is one file a case, until the report of all cases is written. It counts only for the same files, by their bytes,
and the same options; otherwise the case is scored again.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monaiseg import __version__
from monaiseg.data import LabelTable, file_sha256
from monaiseg.errors import DataError
from monaiseg.evaluation.results import CaseScores
from monaiseg.evaluation.structures import StructureScores
from monaiseg.evaluation.unscored import Unscored
from monaiseg.files import make_folder, read_json_object, remove, sha256_of, write_atomic

UNFINISHED = "unfinished"
"""Folder in that of the report."""


@dataclass(frozen=True)
class Unfinished:
    """The kept scores of an evaluation."""

    folder: Path
    options: Sequence[str]
    """All that the scores depend on besides the files."""

    @classmethod
    def of(cls, report: Path, table: LabelTable, tolerance_mm: float, *more: str) -> Unfinished:
        """The kept scores in the folder of a report; `more` tells one network, and how it predicts, from others."""
        labels = json.dumps(table.to_records())
        return cls(report / UNFINISHED, (__version__, labels, str(tolerance_mm), *more))

    def read(self, case_id: str, files: Sequence[Path]) -> CaseScores | None:
        """The scores of a case; None if there are none for these options and files."""
        path = self._path(case_id)
        if not path.is_file():
            return None
        try:
            document = read_json_object(path)
            if document["key"] != self._key(files):
                return None
            return CaseScores(
                case_id,
                tuple(_scores(record) for record in document["structures"]),
                float(document["seconds"]),
                Unscored.from_record(document["unscored"]),
                tuple((str(path), str(note)) for path, note in document["notes"]),
            )
        except (
            DataError,
            KeyError,
            TypeError,
            ValueError,
        ):  # a file is gone, or this one is damaged
            return None

    def write(self, scores: CaseScores, files: Sequence[Path]) -> None:
        """Keep the scores of a case.

        Raises:
            StorageError: they cannot be written.
        """
        document = {
            "key": self._key(files),
            "seconds": scores.seconds,
            "structures": [_record(one) for one in scores.structures],
            "unscored": asdict(scores.unscored),
            "notes": scores.notes,
        }
        make_folder(self.folder)
        write_atomic(self._path(scores.case_id), (json.dumps(document) + "\n").encode())

    def _path(self, case_id: str) -> Path:
        return self.folder / f"{case_id}.json"

    def _key(self, files: Sequence[Path]) -> str:
        return sha256_of(json.dumps([*self.options, *map(file_sha256, files)]).encode())


def forget(folder: Path) -> None:
    """Remove the kept scores in a folder, and the folder."""
    for path in folder.glob("*.json"):
        remove(path)
    with contextlib.suppress(OSError):  # it does not exist, or somebody put something else there
        folder.rmdir()


def _record(scores: StructureScores) -> dict[str, Any]:
    """Scores as a JSON-compatible record, null where they are not defined."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(scores).items()
    }


def _scores(record: dict[str, Any]) -> StructureScores:
    defined = {key: math.nan if value is None else value for key, value in record.items()}
    return StructureScores(**defined | {"values": tuple(record["values"])})
