"""Label tables as text files, in the formats of the programs that people look at label maps with.

| format | file | what it carries besides value, name and colour |
|---|---|---|
| json | labels.json | everything |
| csv | labels.csv | everything |
| tsv | dseg.tsv (BIDS) | everything; BIDS calls the value `index` and a missing cell `n/a` |
| itksnap | labels-itksnap.txt | alpha |
| freesurfer | labels-freesurfer.txt | alpha, as transparency |
| slicer | labels.ctbl | alpha |

The last three carry no partners (they are derived from the names again), groups, tolerances, lesions or SNOMED codes,
and not every name: ITK-SNAP has no `"`, which becomes `'`; FreeSurfer and Slicer have no spaces, which become `_`, and
Slicer shows each `_` as a space. The background is invisible in all formats. The ignored value is a row with the name
"ignore".

Files are recognised by their content. Sources: "Imaging data types" in the BIDS specification; the header of ITK-SNAP's
files; `CTABreadASCII` in FreeSurfer's colortab.cpp; `vtkMRMLColorTableStorageNode` in Slicer.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from monaiseg.data.descriptions import names_in
from monaiseg.data.labels import IGNORE, OPAQUE, Label, LabelTable
from monaiseg.data.tables import rows_of
from monaiseg.errors import DataError
from monaiseg.files import is_there, read_text

LabelFormat: TypeAlias = Literal["json", "csv", "tsv", "itksnap", "freesurfer", "slicer"]
FORMATS: tuple[LabelFormat, ...] = get_args(LabelFormat)
FILE_NAMES: Mapping[LabelFormat, str] = {
    "json": "labels.json",
    "csv": "labels.csv",
    "tsv": "dseg.tsv",
    "itksnap": "labels-itksnap.txt",
    "freesurfer": "labels-freesurfer.txt",
    "slicer": "labels.ctbl",
}
"""Usual file name of each format."""
INCLUDED = ("hippocampus", "lpba40")
"""Names of the tables that come with monaiseg; see label_tables/README.md."""

Record: TypeAlias = Mapping[str, Any]
"""One label, as `LabelTable.from_records` takes it."""


def load_label_table(source: str | Path) -> LabelTable:
    """The label table in a file of any of the formats, or one that comes with monaiseg, by its name.

    >>> load_label_table("hippocampus").names
    ('background', 'anterior hippocampus', 'posterior hippocampus')

    Raises:
        DataError: the file cannot be read, is in none of the formats, or does not describe a label table.
    """
    path = Path(source)
    if str(source) in INCLUDED and (path.is_dir() or not is_there(path)):
        included = resources.files("monaiseg.data") / "label_tables" / f"{source}.csv"
        text = included.read_text(encoding="utf-8")
    else:
        text = read_text(path)
    try:
        return LabelTable.from_records(_reader(path, text)(text))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def label_table_text(table: LabelTable, format: LabelFormat) -> str:  # noqa: A002  the word that users know
    """A label table in one of the formats.

    Raises:
        DataError: two names are the same in this format, where spaces or quotation marks are replaced.
    """
    ignored = [] if table.ignored_value is None else [Label(table.ignored_value, IGNORE)]
    return _WRITERS[format]((*table.labels, *ignored))


def _reader(path: Path, text: str) -> Callable[[str], Iterable[Record]]:
    """The reader for a text; the path only tells Slicer's tables from FreeSurfer's."""
    if text.lstrip().startswith(("{", "[")):
        return _read_json
    first = next(iter(_data_lines(text)), "")
    if _ITKSNAP_ROW.fullmatch(first):
        return _read_itksnap
    if not _LUT_ROW.fullmatch(first):
        return _read_columns
    if path.suffix.lower() == ".ctbl" or text.lstrip("# ").startswith("Color table file"):
        return _read_slicer
    return _read_freesurfer


# ---------------------------------------------------------------- JSON


def _read_json(text: str) -> Iterable[Record]:
    """A list of labels, alone or as "labels" of a dataset.json; or names by value, as the Decathlon and nnU-Net write."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error}); correct it or write it again") from error
    labels = document.get("labels") if isinstance(document, dict) else document
    if isinstance(labels, dict):
        try:
            names, _ = names_in(labels)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f'{error}; "labels" pairs numbers with names') from error
        return [{"value": value, "name": name} for value, name in names.items()]
    if not isinstance(labels, list):
        raise DataError('has no "labels"; list them there, each with a value and a name')
    return labels


def _write_json(labels: Sequence[Label]) -> str:
    records = (json.dumps(label.to_record(), ensure_ascii=False) for label in labels)
    return '{"labels": [\n' + ",\n".join(records) + "\n]}\n"


# ---------------------------------------------------------------- CSV, TSV

_COLUMNS = ("value", "name", "partner", "color", "alpha", "group", "tolerance_mm", "lesion", "snomed")  # fmt: skip
_ALWAYS = _COLUMNS[:4]
_OTHER_WORDS = {
    "index": "value",  # BIDS
    "labelvalue": "value",  # Slicer
    "colour": "color",
}
_LEVELS = (("r", "g", "b"), ("red", "green", "blue"), ("color_r", "color_g", "color_b"))
"""Names of three columns for a colour, as spreadsheets and Slicer have them."""
_MISSING = ("", "n/a")


def _read_columns(text: str) -> Iterable[Record]:
    """A table with columns, separated by commas, semicolons or tabs; other columns than ours are left out."""
    columns, rows = rows_of(text, "a label table")
    if len(set(columns)) < len(columns):
        raise DataError("a column appears twice; keep one")
    words = {column: column.strip().lower() for column in columns}
    known = {column: _OTHER_WORDS.get(word, word) for column, word in words.items()}
    if not rows or not {"value", "name"} <= set(known.values()):
        raise DataError(
            "is not a label table; give a table with the columns value and name, JSON, or a file of ITK-SNAP, FreeSurfer "
            "or 3D Slicer"
        )
    return [_given({known[c]: cell for c, cell in row.items() if c in known}) for row in rows]


def _given(cells: Mapping[str, str | None]) -> Record:
    """The cells of a row that are not empty; value and name are always there."""
    record: dict[str, Any] = {
        column: cell
        for column, cell in cells.items()
        if column in ("value", "name")
        or (column in _COLUMNS and cell is not None and cell.strip() not in _MISSING)
    }
    for levels in _LEVELS:
        if "color" not in record and all(cells.get(level) for level in levels):
            record["color"] = [cells[level] for level in levels]
    return record


def _write_csv(labels: Sequence[Label]) -> str:
    return _write_columns(labels, {}, ",", "")


def _write_tsv(labels: Sequence[Label]) -> str:
    return _write_columns(labels, {"value": "index"}, "\t", "n/a")


def _write_columns(
    labels: Sequence[Label], words: Mapping[str, str], separator: str, missing: str
) -> str:
    """A table with the columns that any of the foreground labels needs."""
    records = [_cells(label) for label in labels]
    columns = [c for c in _COLUMNS if c in _ALWAYS or any(c in record for record in records)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow([words.get(column, column) for column in columns])
    writer.writerows([record.get(column, missing) for column in columns] for record in records)
    return text.getvalue()


def _cells(label: Label) -> dict[str, Any]:
    cells = {key: value for key, value in label.to_record().items() if value is not None}
    cells["color"] = "" if label.name == IGNORE else "#{:02x}{:02x}{:02x}".format(*label.color)
    if label.is_lesion:
        cells["lesion"] = "yes"
    return cells


# ---------------------------------------------------------------- ITK-SNAP, FreeSurfer, 3D Slicer

_VALUE, _NUMBER = r"([0-9]{1,10})", r"[0-9]{1,6}(?:\.[0-9]*)?"
_ITKSNAP_ROW = re.compile(
    rf'\s*{_VALUE}((?:\s+{_NUMBER}){{3}})\s+({_NUMBER})\s+[01]\s+[01]\s+"(.*)"\s*'
)
_LUT_ROW = re.compile(rf"\s*{_VALUE}\s+(\S+)((?:\s+{_NUMBER}){{3,5}})\s*(?:#.*)?")
_ITKSNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


def _data_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]


def _matches(text: str, row: re.Pattern[str], shape: str) -> Iterable[tuple[str, ...]]:
    """The groups of every row; raises DataError with the first line that is none."""
    for line in _data_lines(text):
        match = row.fullmatch(line)
        if match is None:
            raise DataError(f"the row {line.strip()!r:.80} is not {shape}; correct it")
        yield match.groups()


def _record(value: str, name: str, color: Sequence[int], alpha: int) -> dict[str, Any]:
    """A row as a record; nothing is said of how visible the background is."""
    opacity = {"alpha": alpha} if int(value) else {}
    return {"value": int(value), "name": name, "color": color, **opacity}


def _distinct(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records, with the value added to names that stand twice, as several do in FreeSurfer's own table."""
    found = list(records)
    counts = Counter(record["name"] for record in found)
    for record in found:
        if counts[record["name"]] > 1 and record["name"].strip().lower() != IGNORE:
            record["name"] = f"{record['name']} ({record['value']})"
    return found


def _read_itksnap(text: str) -> Iterable[Record]:
    rows = _matches(text, _ITKSNAP_ROW, 'IDX R G B A VIS MSH "LABEL"')
    return _distinct(
        _record(value, name, _levels(color), round(OPAQUE * min(float(alpha), 1.0)))
        for value, color, alpha, name in rows
    )


def _write_itksnap(labels: Sequence[Label]) -> str:
    names = _renamed(labels, lambda name: name.replace('"', "'"))
    rows = []
    for label, name in zip(labels, names, strict=True):
        alpha, is_shown = (label.alpha / OPAQUE, 1) if label.value else (0, 0)
        red, green, blue = label.color
        rows.append(
            f'{label.value:5d} {red:5d} {green:4d} {blue:4d} {alpha:8.4g}  {is_shown}  {is_shown}    "{name}"\n'
        )
    return _ITKSNAP_HEADER + "".join(rows)


def _read_slicer(text: str) -> Iterable[Record]:
    return _read_lut(text, lambda name: name.strip("'").replace("_", " "), is_transparency=False)


def _write_slicer(labels: Sequence[Label]) -> str:
    header = f"# Color table file {FILE_NAMES['slicer']}\n# {len(labels)} values\n"
    return header + _lut_rows(labels, is_transparency=False)


def _read_freesurfer(text: str) -> Iterable[Record]:
    return _read_lut(text, lambda name: name, is_transparency=True)


def _write_freesurfer(labels: Sequence[Label]) -> str:
    return "#No. Label Name: R G B A\n" + _lut_rows(labels, is_transparency=True)


def _read_lut(text: str, shown: Callable[[str], str], *, is_transparency: bool) -> Iterable[Record]:
    """Rows of a value, a name, red, green, blue and, optionally, opacity or transparency."""
    records = []
    for value, name, numbers in _matches(text, _LUT_ROW, "a value, a name without spaces, R G B A"):
        levels = _levels(numbers)
        last = levels[3] if len(levels) > 3 else OPAQUE * (not is_transparency)
        alpha = OPAQUE - last if is_transparency else last
        records.append(_record(value, shown(name), levels[:3], alpha))
    return _distinct(records)


def _lut_rows(labels: Sequence[Label], *, is_transparency: bool) -> str:
    names = _renamed(labels, lambda name: name.replace(" ", "_"))
    rows = []
    for label, name in zip(labels, names, strict=True):
        last = OPAQUE - label.alpha if is_transparency else label.alpha
        levels = *label.color, last if label.value else 0
        rows.append(f"{label.value} {name} {' '.join(map(str, levels))}\n")
    return "".join(rows)


def _levels(numbers: str) -> list[int]:
    return [round(float(number)) for number in numbers.split()]


def _renamed(labels: Sequence[Label], change: Callable[[str], str]) -> list[str]:
    """The names as a format can carry them; raises DataError if two become one."""
    names = [change(label.name) for label in labels]
    first: dict[str, Label] = {}
    for label, name in zip(labels, names, strict=True):
        if (other := first.setdefault(name, label)) is not label:
            raise DataError(
                f"labels {other.value} ({other.name}) and {label.value} ({label.name}) would both be {name!r} in this "
                "format; rename one, or choose another format"
            )
    return names


_WRITERS: Mapping[LabelFormat, Callable[[Sequence[Label]], str]] = {
    "json": _write_json,
    "csv": _write_csv,
    "tsv": _write_tsv,
    "itksnap": _write_itksnap,
    "freesurfer": _write_freesurfer,
    "slicer": _write_slicer,
}
