"""Label tables: what they read, and the value that is ignored."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.data.label_files import label_table_text, load_label_table
from monaiseg.data.labels import Label, LabelTable, index_dtype
from monaiseg.errors import DataError


def table(tmp_path, text: str) -> LabelTable:
    (tmp_path / "labels.csv").write_text(text)
    return load_label_table(tmp_path / "labels.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_columns_are_parted_by_commas_semicolons_or_tabs(tmp_path, mark, start):
    rows = [["value", "name", "color"], ["1", "left; lower lobe, l", "#ff0000"], ["2", "stem", ""]]
    quoted = [mark.join(f'"{cell}"' for cell in row) for row in rows]

    found = table(tmp_path, start + "\n".join(quoted))

    assert found.names == ("background", "left; lower lobe, l", "stem")
    assert found.labels[1].color == (255, 0, 0)


def test_a_table_of_excel_in_half_of_europe_is_read(tmp_path):
    assert table(tmp_path, "value;name\r\n1;Niere links\r\n2;Niere rechts\r\n").partner_classes == (
        0,
        2,
        1,
    )


@pytest.mark.parametrize("name", ["ignore", "Ignore", " IGNORE "])
def test_the_row_named_ignore_gives_the_ignored_value(tmp_path, name):
    found = table(tmp_path, f"value,name\n1,a\n7,{name}\n9,b\n")

    assert found.values == (0, 1, 9)
    assert found.ignored_value == 7
    assert found.ignored_index == 3


def test_ignored_voxels_get_the_index_beyond_the_classes_and_find_their_value_again():
    labels = LabelTable.from_values([1, 9], ignored_value=7)
    values = np.array([0, 1, 7, 9, 7])

    classes = labels.class_indices(values)

    assert classes.tolist() == [0, 1, 3, 2, 3]
    assert labels.label_values(classes).tolist() == values.tolist()
    assert labels.restricted_to([9]).class_indices(values, "background").tolist() == [0, 0, 2, 1, 2]


def test_the_ignored_value_is_kept_beside_values_that_lie_far_apart():
    labels = LabelTable.from_values([1, 312782574], ignored_value=1 << 30)

    classes = labels.class_indices(np.array([0, 1, 312782574, 1 << 30]))

    assert classes.tolist() == [0, 1, 2, 3]
    assert labels.label_values(classes).tolist() == [0, 1, 312782574, 1 << 30]


def test_the_ignored_value_travels_with_the_table(tmp_path):
    labels = LabelTable.from_values([1, 2], {1: "left a", 2: "right a"}, ignored_value=255)

    assert LabelTable.from_records(labels.to_records()) == labels
    assert table(tmp_path, label_table_text(labels, "csv")) == labels
    assert labels.digest() != LabelTable.from_values([1, 2], {1: "left a", 2: "right a"}).digest()


def test_an_ignored_value_that_is_a_structure_is_refused():
    with pytest.raises(DataError, match="3 is both a structure and the ignored value"):
        LabelTable((Label(0, "background"), Label(3, "a")), 3)
    with pytest.raises(DataError, match="ignored label value 0"):
        LabelTable((Label(0, "background"),), 0)


def test_two_values_named_ignore_are_refused(tmp_path):
    with pytest.raises(DataError, match="is reserved for the ignored value"):
        table(tmp_path, "value,name\n1,ignore\n2,Ignore\n")


@pytest.mark.parametrize(("count", "dtype"), [(2, "uint8"), (255, "uint8"), (256, "int16")])
def test_the_type_of_class_indices_holds_the_ignored_index_too(count, dtype):
    assert index_dtype(count) == dtype
    assert np.iinfo(index_dtype(count)).max >= count
