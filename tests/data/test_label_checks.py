"""Label checks: what label maps hold against what is said of them. A case is its voxel counts."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.data.facts import CaseFacts, ChannelFacts
from monaiseg.data.label_checks import absent_note, fitted_table, label_notes, scan_labels
from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError

CHANNEL = ChannelFacts(0, 1, 0.5, 0.1, 0, 0.5, 1, None, None)


def cases(*counts: dict[int, int]) -> dict[str, CaseFacts]:
    """Cases S0, S1, ... of 1000 voxels, with these counts of label values."""
    return {
        f"S{n}": CaseFacts(
            (10, 10, 10),
            (1.0, 1.0, 1.0),
            "RAS",
            "",
            str(n),
            {0: 1000 - sum(c.values())} | c,
            (CHANNEL,),
        )
        for n, c in enumerate(counts)
    }


def notes_of(facts: dict[str, CaseFacts], table: LabelTable | None = None) -> list[str]:
    return label_notes({"train": list(facts)}, facts, table or scan_labels(facts))


def test_the_table_is_the_union_of_all_cases():
    facts = cases({1: 5, 4: 2}, {3: 6, 12: 1})

    assert scan_labels(facts).values == (0, 1, 3, 4, 12)
    assert scan_labels(facts, {0: "air"}).names[:2] == ("air", "label 1")


def test_values_without_a_name_where_others_have_names_are_refused():
    facts = cases({1: 5, 2: 9}, {1: 5, 2: 8, 7: 2})

    with pytest.raises(DataError) as caught:
        scan_labels(facts, {0: "background", 1: "anterior", 2: "posterior"})

    assert (
        "case 'S1': its label map has the values 7 (2 voxels), which dataset.json does not name"
        in str(caught.value)
    )
    assert "S0" not in str(caught.value)
    assert "shifted" not in str(caught.value)


def test_values_shifted_against_their_names_are_refused_with_the_likely_cause():
    with pytest.raises(
        DataError, match=r"no label map has 1 \(anterior\); are the values shifted\?"
    ):
        scan_labels(cases({2: 5, 3: 9}), {1: "anterior", 2: "posterior"})


def test_names_that_no_label_map_has_are_noted():
    facts = cases({1: 5}, {1: 6})
    names = {1: "a", 2: "b", 3: "c", 4: "d", 5: "e", 6: "f", 7: "g"}

    assert scan_labels(facts, names).values == (0, 1)
    assert absent_note(facts, names, "dataset.json") == [
        "dataset.json names 2 (b), 3 (c), 4 (d), 5 (e), 6 (f) and 1 more, which no label map has; they are left out"
    ]
    assert absent_note(facts, {1: "a"}, "dataset.json") == []


def test_an_atlas_that_names_more_than_the_data_contain_is_cut_down():
    atlas = LabelTable.from_values(range(5), {1: "left a", 2: "right a", 3: "left b", 4: "right b"})

    table = fitted_table(cases({1: 3}, {2: 4, 3: 1}), atlas)

    assert table.names == ("background", "left a", "right a", "left b")
    assert table.labels[1].partner == 2
    assert table.labels[3].partner is None
    assert not table.can_mirror


def test_a_table_without_any_of_the_labels_is_refused():
    with pytest.raises(DataError, match=r"none|no label map has any of the labels 5 \(a\)"):
        fitted_table(cases({}, {}), LabelTable.from_values([5], {5: "a"}))
    with pytest.raises(
        DataError, match=r"values 1 \(3 voxels\), which the label table does not name"
    ):
        fitted_table(cases({1: 3}), LabelTable.from_values([5], {5: "a"}))


def test_the_ignored_value_needs_no_name_and_becomes_no_class():
    facts = cases({1: 5, 9: 100}, {1: 6})

    assert scan_labels(facts, {1: "a"}, 9) == LabelTable.from_values([1], {1: "a"}, 9)
    assert fitted_table(facts, LabelTable.from_values([1, 2], ignored_value=9)).values == (0, 1)


def test_a_case_that_no_one_has_labelled_is_refused():
    facts = cases({1: 5}, {9: 1000})
    facts["S1"].label_voxels.pop(0)

    with pytest.raises(DataError, match="case 'S1': its label map has only the ignored value 9"):
        notes_of(facts, scan_labels(facts, ignored_value=9))


def test_ignored_voxels_are_no_foreground():
    facts = cases({9: 950, 1: 5})

    assert notes_of(facts, scan_labels(facts, ignored_value=9)) == []


def test_a_label_map_that_looks_like_an_image_is_refused():
    facts = cases(dict.fromkeys(range(1, 300), 1))

    with pytest.raises(DataError, match="300 different values, as an image has"):
        scan_labels(facts)
    names = {value: f"part {value}" for value in range(300)}
    assert scan_labels(facts, names).num_classes == 300


def test_doubtful_label_maps_and_classes_without_training_cases_are_noted():
    facts = cases({}, {1: 1000}, {1: 5, 4: 3})
    facts["S1"].label_voxels.pop(0)

    notes = label_notes({"train": ["S0", "S1"], "val": ["S2"]}, facts, scan_labels(facts))

    assert notes == [
        "case 'S0': its label map has only background",
        "case 'S1': 100% of its label map is foreground; is the label map inverted?",
        "no training case has the labels 4 (label 4), so the network cannot learn them",
    ]


def test_a_slip_of_the_pen_is_noted_where_values_have_no_names():
    facts = cases(*[{1: 50, 2: 60}] * 9, {1: 50, 2: 60, 7: 2})

    assert (
        "label 7 (label 7) occurs in 1 of 10 cases, with at most 2 voxels (S9); was it drawn by mistake"
        in notes_of(facts)[0]
    )
    assert notes_of(facts, LabelTable.from_values([1, 2, 7], {1: "a", 2: "b", 7: "cyst"})) == []


def test_a_structure_that_was_perhaps_not_drawn_everywhere_is_noted():
    facts = cases(*[{1: 50, 2: size} for size in (40, 50, 60, 55, 45, 52)], *[{1: 50}] * 6)

    assert notes_of(facts)[0].startswith(
        "label 2 (label 2) occurs in 6 of 12 cases, and is never small"
    )


@pytest.mark.parametrize(
    "counts",
    [
        [{1: 50, 2: n} for n in (40, 50, 3, 55, 45, 52)]
        + [{1: 50}] * 6,  # lesions come in all sizes
        [{1: 50, 2: 40}] * 11 + [{1: 50}],  # one case lacks it
        [{1: 50, 2: 40}] + [{1: 50}] * 11,  # one case has it
        [{1: 50, 2: 40}] * 2 + [{1: 50}] * 2,  # too few to say
        [{1: 50}] * 6 + [{1: 50, 2: 4}] * 6,  # tiny
    ],
)
def test_other_absences_are_not(counts):
    assert notes_of(cases(*counts)) == []


def test_cases_without_any_label_do_not_count_as_undrawn():
    notes = notes_of(cases(*[{1: 50}] * 6, *[{}] * 6))

    assert len(notes) == 6
    assert all("only background" in note for note in notes)


def test_counts_are_of_whole_label_maps():
    assert sum(cases({1: 5})["S0"].label_voxels.values()) == np.prod((10, 10, 10))
