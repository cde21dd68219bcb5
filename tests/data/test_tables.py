"""Tables: what spreadsheet programs write is read, and no cell is dropped without a word."""

from __future__ import annotations

import pytest

from monaiseg.data.tables import read_rows, rows_of
from monaiseg.errors import DataError


def test_a_name_with_a_comma_is_not_cut_in_two():
    """Read as "Ventricle", the left one and the right one would have the same name."""
    with pytest.raises(
        DataError, match=r"row 3 has more cells than the 2 columns .*' left'.*double"
    ):
        rows_of("value,name\n1,Kern\n2,Ventricle, left\n", "a label table")

    _, rows = rows_of('value,name\n2,"Ventricle, left"\n', "a label table")
    assert rows == [{"value": "2", "name": "Ventricle, left"}]


def test_the_hint_that_excel_understands_is_no_header(tmp_path):
    (tmp_path / "labels.csv").write_text("sep=;\nvalue;name\n1;a\n")

    assert read_rows(tmp_path / "labels.csv", "a label table") == (
        ["value", "name"],
        [{"value": "1", "name": "a"}],
    )


def test_empty_cells_at_the_end_are_no_fault():
    assert rows_of("value,name,\n1,a,,\n", "a label table")[1] == [
        {"value": "1", "name": "a", "": ""}
    ]


def test_faults_of_a_file_name_it(tmp_path):
    (tmp_path / "labels.csv").write_text("value,name\n1,a,b\n")

    with pytest.raises(DataError, match=r"labels.csv: row 2 has more cells"):
        read_rows(tmp_path / "labels.csv", "a label table")
