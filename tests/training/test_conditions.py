"""Conditions: whether a training is the same as then, and what has changed in words."""

from __future__ import annotations

import pytest
import torch

from checkpoint_files import TABLE, made
from monaiseg.data.labels import LabelTable
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.training.checkpoint import commit, newest
from monaiseg.training.conditions import _WITHOUT_EFFECT, conditions, difference


def conditions_of(document=None, data=None, **changes):
    settings = settings_from_dict(document or {})
    arguments = {"num_threads": 1} | changes
    return conditions(settings, data or {"train/S01": "0f"}, TABLE.digest(), **arguments)


def test_the_same_training_has_the_same_conditions_after_a_commit(tmp_path):
    commit(tmp_path, made(10, conditions=conditions_of()))

    assert difference(newest(tmp_path).conditions, conditions_of()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"document": {"tsk_set": {"optim": {"lr": 0.5}}}},
            "tsk_set.optim.lr: 0.001 then, 0.5 now",
        ),
        ({"document": {"tsk_set": {"seed": 7}}}, "tsk_set.seed: 0 then, 7 now"),
        ({"num_threads": 2}, "threads: 1 then, 2 now"),
        ({"world_size": 2}, "world size: 1 then, 2 now"),
        ({"device": "NVIDIA A100"}, "device: cpu then, NVIDIA A100 now"),
        ({"data": {"train/S01": "1f"}}, "cases changed: train/S01"),
        ({"data": {"train/S01": "0f", "val/S02": "2f"}}, "cases new: val/S02"),
        ({"data": {"train/S02": "0f"}}, "cases removed: train/S01"),
    ],
)
def test_what_has_changed_since_is_said_in_words(changed, words):
    default_rate = Settings().tsk_set.optim.lr
    expected = words.replace("0.001 then", f"{default_rate} then")

    assert expected in difference(conditions_of(), conditions_of(**changed))


def test_another_label_table_is_another_training():
    other = LabelTable.from_values([1, 5]).digest()

    assert difference(conditions_of(), conditions_of() | {"labels": other}) == [
        "label table: values, names or partners have changed"
    ]


def test_other_versions_are_a_difference():
    old = conditions_of()
    old["versions"] = old["versions"] | {"torch": "2.10.0"}

    assert difference(old, conditions_of()) == [f"torch: 2.10.0 then, {torch.__version__} now"]


def test_settings_without_an_effect_on_the_weights_are_no_difference():
    document = {
        "dataset": {"cache": {"where": "disk"}},
        "tsk_set": {
            "num_workers": 3,
            "task_name": "b",
            "save_fig_on": False,
            "checkpoint_period": 1,
        },
    }

    assert difference(conditions_of(), conditions_of(document)) == []
    assert set(type(Settings().tsk_set).model_fields) >= _WITHOUT_EFFECT
