"""Label tables as files: every format there and back, and files as other programs write them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monaiseg.data.label_extension import parse_table, table_xml
from monaiseg.data.label_files import FILE_NAMES, FORMATS, label_table_text, load_label_table
from monaiseg.data.labels import Label, LabelTable
from monaiseg.errors import DataError

COMPLETE = "json", "csv", "tsv"


def loaded(text: str, name: str = "labels.txt") -> LabelTable:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        return load_label_table(path)


def there_and_back(table: LabelTable, format_: str) -> LabelTable:
    return loaded(label_table_text(table, format_), FILE_NAMES[format_])


NAMES = (
    st.text(st.characters(exclude_characters="$@%", codec="utf-8"), min_size=1, max_size=20)
    .map(str.strip)
    .filter(lambda name: name and name.isprintable() and name.lower() != "ignore")
)
"""Spaces, commas, semicolons, quotation marks, # and letters of any script."""


@st.composite
def tables(
    draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES, extras: bool = True
) -> LabelTable:
    """Tables with colours and opacities; with `extras` also groups, tolerances, lesions, codes and an ignored value."""
    found = draw(st.lists(names, unique=True, min_size=2, max_size=6))
    values = draw(st.lists(st.integers(1, 40_000), unique=True, min_size=len(found), max_size=len(found)))  # fmt: skip
    ignored, known = values[0], dict(zip(values[1:], found[1:], strict=True))
    plain = LabelTable.from_values(known, {**known, 0: "background"}, ignored if extras else None)
    assume("background" not in found)
    level = st.integers(0, 255)
    labels = [
        replace(label, color=draw(st.tuples(level, level, level)), alpha=draw(level))
        for label in plain.foreground
    ]
    if extras:
        groups = st.none() | NAMES.filter(lambda name: name not in {*plain.names, "n/a"})
        labels = [
            replace(
                label,
                group=draw(groups),
                tolerance_mm=draw(st.none() | st.floats(0, 10)),
                is_lesion=draw(st.booleans()),
                snomed=draw(st.none() | st.integers(10**5, 10**17).map(str)),
            )
            for label in labels
        ]
    return LabelTable((plain.labels[0], *labels), plain.ignored_value)


@pytest.mark.parametrize("format_", COMPLETE)
@given(table=tables())
def test_json_csv_and_tsv_carry_everything(format_, table):
    assert there_and_back(table, format_) == table


@given(table=tables())
def test_the_header_of_a_label_map_carries_all_but_the_ignored_value(table):
    assert parse_table(table_xml(table)) == replace(table, ignored_value=None)


@given(table=tables(extras=False))
def test_itksnap_carries_values_names_colours_and_alpha_with_other_quotation_marks(table):
    names = {label.value: label.name.replace('"', "'") for label in table.labels}
    assume(len(set(names.values())) == len(names))

    assert there_and_back(table, "itksnap") == renamed(table, names)


@given(table=tables(extras=False))
def test_freesurfer_carries_values_names_colours_and_alpha_without_spaces(table):
    names = {label.value: label.name.replace(" ", "_") for label in table.labels}
    assume(len(set(names.values())) == len(names))

    assert there_and_back(table, "freesurfer") == renamed(table, names)


@given(table=tables(NAMES.filter(lambda name: "_" not in name and "'" not in name), extras=False))
def test_slicer_carries_values_names_colours_and_alpha(table):
    assert there_and_back(table, "slicer") == renamed(table, {})


def renamed(table: LabelTable, names: dict[int, str]) -> LabelTable:
    """The table with other names, and the partners that these tell."""
    plain = LabelTable.from_values(
        table.values, {label.value: names.get(label.value, label.name) for label in table.labels}
    )
    return LabelTable(
        tuple(
            replace(label, color=old.color, alpha=old.alpha)
            for label, old in zip(plain.labels, table.labels, strict=True)
        )
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_colours_that_a_file_lacks_are_chosen_once_and_then_kept(format_):
    table = loaded('{"labels": [{"value": 1, "name": "a"}, {"value": 9, "name": "b"}]}')

    assert len({label.color for label in table.labels}) == 3
    assert there_and_back(table, format_) == table


@pytest.mark.parametrize("format_", FORMATS)
def test_the_ignored_value_is_carried(format_):
    table = LabelTable.from_values([1, 2], {1: "left a", 2: "right a"}, ignored_value=255)

    assert there_and_back(table, format_).ignored_value == 255


def test_json_says_that_a_label_has_no_partner_whatever_its_name():
    table = LabelTable(
        (Label(0, "background"), Label(1, "left a", partner=None), Label(2, "right a"))
    )

    assert there_and_back(table, "json") == table


def test_names_that_a_format_cannot_tell_apart_are_refused():
    table = LabelTable.from_values([1, 2], {1: "grey matter", 2: "grey_matter"})

    with pytest.raises(DataError, match=r"1 \(grey matter\) and 2 \(grey_matter\) would both be"):
        label_table_text(table, "freesurfer")


# ---------------------------------------------------------------- as other programs write them

ITKSNAP = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "left caudate, head"
    2     0  255    0     0.50  1  0    "right caudate, head"
"""
FREESURFER = """\
#$Id: FreeSurferColorLUT.txt

#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
17  Left-Hippocampus                        220 216 20  0
53  Right-Hippocampus                       220 216 20  0   2

# subfields
201 alveus                                  254 254 254 0
20001 alveus                                254 254 254 127
"""
SLICER = """\
# Color table file C:/Users/me/Segmentation-label_ColorTable.ctbl
# 4 values
0 Background 0 0 0 0
1 artery 216 101 79 255
3 connective_tissue 111.0 184.0 210.0 128
"""
SLICER_CSV = """\
LabelValue,Name,Color_R,Color_G,Color_B,Color_A
1,artery,216,101,79,255
"""
BIDS = """\
index\tname\tabbreviation\tcolor\tmapping
100\tGray Matter\tGM\t#ff53bb\t1
102\tBrainstem\tBS\tn/a\t11
"""


def test_a_file_of_itksnap_is_read():
    table = loaded(ITKSNAP)

    assert table.names == ("Clear Label", "left caudate, head", "right caudate, head")
    assert [label.color for label in table.foreground] == [(255, 0, 0), (0, 255, 0)]
    assert [label.alpha for label in table.foreground] == [255, 128]
    assert table.labels[1].partner == 2


def test_freesurfers_table_is_read_with_transparency_and_the_value_after_names_that_stand_twice():
    table = loaded(FREESURFER)

    assert table.names[1:] == (
        "Left-Hippocampus",
        "Right-Hippocampus",
        "alveus (201)",
        "alveus (20001)",
    )
    assert [label.alpha for label in table.labels] == [255, 255, 255, 255, 128]
    assert table.labels[1].partner == 53


@pytest.mark.parametrize(
    ("text", "name"), [(SLICER, "colors.txt"), (SLICER.split("values\n")[1], "colors.ctbl")]
)
def test_slicers_colour_table_is_read_with_spaces_in_its_names(text, name):
    table = loaded(text, name)

    assert table.labels[-1].name == "connective tissue"
    assert table.labels[-1].color == (111, 184, 210)
    assert table.labels[-1].alpha == 128


def test_slicers_newer_table_is_read():
    assert loaded(SLICER_CSV).labels[1] == Label(1, "artery", (216, 101, 79))


def test_a_dseg_tsv_of_bids_is_read():
    table = loaded(BIDS, "atlas-me_dseg.tsv")

    assert table.values == (0, 100, 102)
    assert table.labels[1] == Label(100, "Gray Matter", (0xFF, 0x53, 0xBB))
    assert table.labels[2].color != (0, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": {"background": 0, "spleen": 1, "ignore": 2}}',
        '{"labels": {"0": "background", "1": "spleen", "2": "ignore"}}',
        '[{"value": 1, "name": "spleen"}, {"value": 2, "name": "ignore"}]',
    ],
)
def test_the_labels_of_nnunet_and_the_decathlon_are_read(text):
    table = loaded(text)

    assert (table.names, table.ignored_value) == (("background", "spleen"), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spleen\nliver\n", "is not a label table; give a table with the columns value and name"),
        ("", "is not a label table"),
        ("{", "is not JSON"),
        ('{"labels": 3}', "list them there"),
        ('{"labels": {"a": "b"}}', "pairs numbers with names"),
        (ITKSNAP + "3 255 0 0 1 1 1 no quotes\n", "'3 255 0 0 1 1 1 no quotes' is not IDX R G B"),
        (FREESURFER + "7 two words 1 2 3 0\n", "a name without spaces"),
        ("value,name\n1,a\n1,b\n", "a label value appears twice"),
        ("value,name\nx,a\n", "'x' is not a whole number"),
        ("value,name\n1.5,a\n", "'1.5' is not a whole number"),
        ("value,name,color\n1,a,red\n", "colour 'red' is neither of the form #rrggbb"),
        ("value,name,lesion\n1,a,maybe\n", "lesion is 'maybe'; use yes or no"),
        ("value,name,tolerance_mm\n1,a,wide\n", "tolerance_mm 'wide' is not a number"),
        ("value,name,tolerance_mm\n1,a,-2\n", "use 0 mm or more"),
        ("value,name,alpha\n1,a,256\n", "alpha 256; use 0"),
        ("value,name,group\n1,a,b\n2,b,b\n", "group 'b' has the name of a label"),
        ("value,name,snomed\n1,a,T-A0000\n", "SNOMED code 'T-A0000'; it has 6 to 18 digits"),
        ('[{"value": 1.5, "name": "a"}]', "1.5 is not a whole number"),
        ('[{"value": 1}]', "lacks a value or a name"),
    ],
)
def test_what_is_no_label_table_is_refused_with_the_reason(text, message):
    with pytest.raises(DataError, match=r"labels\.txt: .*") as raised:
        loaded(text)

    assert message in str(raised.value)


# ---------------------------------------------------------------- tables that come along


def test_lpba40_has_56_structures_and_known_codes():
    table = load_label_table("lpba40")

    codes = {label.name.split(" ", 1)[-1]: label.snomed for label in table.foreground}
    assert (len(table.foreground), table.values[1], table.values[-1]) == (56, 21, 182)
    assert codes["hippocampus"] == "5366008"
    assert sum(label.snomed is not None for label in table.labels) == 10
    assert table.can_mirror


def test_the_hippocampus_has_two_parts_and_a_group():
    table = load_label_table("hippocampus")

    assert [label.group for label in table.labels] == [None, "hippocampus", "hippocampus"]


def test_a_file_of_the_users_with_the_name_of_a_table_is_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lpba40").write_text("value,name\n1,mine\n")

    assert load_label_table("lpba40").names == ("background", "mine")


def test_a_folder_of_the_data_does_not_hide_the_table_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hippocampus").mkdir()

    assert load_label_table("hippocampus").num_classes == 3
