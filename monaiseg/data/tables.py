"""Tables: text files with named columns, separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monaiseg.errors import DataError
from monaiseg.files import read_text


def read_rows(path: Path, what: str) -> tuple[Sequence[str], list[dict[str, Any]]]:
    """Columns and rows of a table in a file; see `rows_of`.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or is not a table.
    """
    text = read_text(path)
    try:
        return rows_of(text, what)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def rows_of(text: str, what: str) -> tuple[Sequence[str], list[dict[str, Any]]]:
    """Columns and rows of a table; the separator is taken from the first line, which names the columns.

    Spreadsheet programs in many European locales write semicolons.

    Args:
        text: content of the file.
        what: kind of table, for messages.

    Raises:
        DataError: it is not a table.
    """
    if text.lower().startswith("sep=") and "\n" in text:  # a hint for Excel
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    try:
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True
        )
        rows = list(table)
    except csv.Error as error:
        raise DataError(f"cannot be read as {what} ({error}); save it as CSV") from error
    columns = table.fieldnames or ()
    for number, row in enumerate(rows, start=2):
        more = [cell for cell in row.pop(None, ()) if cell.strip()]
        if more:
            raise DataError(
                f"row {number} has more cells than the {len(columns)} columns (such as {more[-1]!r}); put text with a "
                "separator in double quotes"
            )
    return columns, rows
