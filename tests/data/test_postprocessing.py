"""Rules of post-processing: what the command line says, and what stands beside a checkpoint."""

from __future__ import annotations

import json

import pytest

from monaiseg.data.labels import LabelTable
from monaiseg.data.postprocessing import (
    ChosenRule,
    read_rules,
    rules_file,
    rules_from_words,
    write_rules,
)
from monaiseg.errors import DataError, SettingsError
from monaiseg.portable import LabelRule

TABLE = LabelTable.from_values([3, 7], {3: "liver", 7: "lesion"})


def test_options_name_labels_by_name_by_value_or_all():
    rules = rules_from_words(TABLE, ["all"], ["0.5ml", "lesion=30mm3"], ["3"])

    assert rules == (
        LabelRule(3, keep_largest=True, least_mm3=500.0, fill_holes=True),
        LabelRule(7, keep_largest=True, least_mm3=30.0),
    )
    assert rules_from_words(TABLE) == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"keep_largest": ["livver"]}, "do you mean 'liver'"),
        ({"fill_holes": ["9"]}, "no label '9'"),
        ({"drop_below": ["30"]}, "not a volume; write it as 0.5ml"),
        ({"drop_below": ["liver=-3ml"]}, "not a volume"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, said):
    with pytest.raises(SettingsError, match=said):
        rules_from_words(TABLE, **words)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "best-epoch-0002.safetensors"
    path.write_bytes(b"weights")
    return path


def test_rules_are_read_back_from_beside_their_checkpoint(checkpoint):
    rule = LabelRule(7, least_mm3=12.5)

    written = write_rules(checkpoint, [ChosenRule(rule, 0.5, 0.75)], TABLE, ["b", "a"])

    assert written == rules_file(checkpoint)
    assert read_rules(checkpoint, TABLE) == (rule,)
    document = json.loads(written.read_text())
    assert document["cases"] == ["a", "b"]
    assert document["rules"][0]["dice_after"] == 0.75


def test_a_checkpoint_without_rules_has_none(checkpoint):
    assert read_rules(checkpoint, TABLE) == ()


def test_rules_of_another_checkpoint_are_refused(checkpoint):
    write_rules(checkpoint, [], TABLE, [])
    checkpoint.write_bytes(b"other weights")

    with pytest.raises(DataError, match="was made for another checkpoint"):
        read_rules(checkpoint, TABLE)


@pytest.mark.parametrize("text", ["[]", "{}", '{"rules": [{"value": 3}]}', "no JSON"])
def test_a_damaged_file_is_refused(text, checkpoint):
    rules_file(checkpoint).write_text(text)

    with pytest.raises(DataError, match="postprocessing.json: "):
        read_rules(checkpoint, TABLE)


def test_rules_for_labels_that_there_are_not_are_refused(checkpoint):
    write_rules(checkpoint, [ChosenRule(LabelRule(7), 0.1, 0.2)], TABLE, [])

    with pytest.raises(DataError, match="label value 7 is not in the table"):
        read_rules(checkpoint, LabelTable.from_values([3]))
