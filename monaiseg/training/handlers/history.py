"""History: one row an epoch, as CSV."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monaiseg.errors import MonaisegWarning
from monaiseg.files import write_atomic


class HistoryCsv:
    """One row an epoch as CSV. The rows live in the commits; the file is written anew from them each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_failed = False

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put all rows into the file; a column is empty where a row lacks it, and `nan` where Dice is undefined."""
        text = io.StringIO()
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        payload = text.getvalue().encode()
        try:
            if not (self.path.is_file() and self.path.read_bytes() == payload):
                write_atomic(self.path, payload)
        except OSError as error:
            if not self._has_failed:
                warnings.warn(
                    f"{error}. Training goes on; the rows are in its checkpoints and are written again after "
                    "every epoch",
                    MonaisegWarning,
                    stacklevel=2,
                )
            self._has_failed = True
