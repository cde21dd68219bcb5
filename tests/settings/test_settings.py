"""The settings file: every fault at once, by its path, with what to write instead."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import strategies
from monaiseg.errors import SettingsError
from monaiseg.settings.axes import SPATIAL_LISTS
from monaiseg.settings.dataset import DatasetSettings
from monaiseg.settings.json_text import MAX_BYTES
from monaiseg.settings.reading import changed, load_settings, parse_settings, settings_from_dict
from monaiseg.settings.schema import json_schema, node_at
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings


def refusal(written: Any) -> str:
    """What is said of a document (or of JSON text) that cannot be used."""
    read = parse_settings if isinstance(written, str | bytes) else settings_from_dict
    with pytest.raises(SettingsError) as caught:
        read(written, "settings.json")
    return str(caught.value)


def test_an_empty_document_is_the_defaults():
    assert parse_settings("{}") == settings_from_dict({}) == Settings()


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().tsk_set.epochs = 3  # type: ignore[misc]  # the claim


def test_every_fault_is_named_at_once():
    written = {
        "dataset": {"seg": {"patch_sise": [64, 64, 64], "partition": {"overlap": 1.0}}},
        "tsk_set": {"epochs": "100", "optim": {"lr": 0}, "loss": {"type": "dice-ce"}},
    }
    assert set(refusal(written).splitlines()) == {
        "settings.json: dataset.seg.patch_sise: unknown key; did you mean 'patch_size'?",
        "settings.json: dataset.seg.partition.overlap: 1.0 is not a number of at least 0 and below 1 (default 0.5)",
        'settings.json: tsk_set.epochs: "100" is not a whole number of at least 1 (default 100)',
        "settings.json: tsk_set.optim.lr: 0 is not a number above 0 (default 0.001)",
        'settings.json: tsk_set.loss.type: "dice-ce" is not one of dice_ce, ce, focal, dice, gdice, tversky (default "dice_ce")',
    }


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"tsk_set": {"epochs": True}}, "true is not a whole number"),
        ({"tsk_set": {"epochs": 1.0}}, "1.0 is not a whole number"),
        ({"tsk_set": {"epochs": 10**400}}, "is not a whole number"),
        ({"tsk_set": {"amp": 1}}, "tsk_set.amp: 1 is not true or false"),
        ({"tsk_set": {"optim": {"lr": float("nan")}}}, "tsk_set.optim.lr: NaN is not a number"),
        (
            {"tsk_set": {"optim": {"lr": float("inf")}}},
            "tsk_set.optim.lr: Infinity is not a number",
        ),
        ({"tsk_set": {"gradient_clip": -1}}, "is not a number above 0 or null"),
        ({"tsk_set": {"task_name": 3}}, "3 is not a text"),
        ({"tsk_set": {"seg": {"class_num": 1}}}, "class_num: 1 is neither -1 nor at least 2"),
        ({"tsk_set": []}, "tsk_set: [] is not a section in braces"),
        ({"dataset": {"seg": {"patch_size": [64, 64]}}}, "patch_size: [64, 64] is not a list of 3"),
        (
            {"dataset": {"seg": {"patch_size": [64, 64, 0]}}},
            "patch_size: [64, 64, 0] is not a list of 3 entries, each a whole number of at least 1",
        ),
        ({"dataset": {"max_num_for_loading": [0, 1, 1, 1]}}, "0 is neither -1 nor a whole number"),
        (
            {"dataset": {"intensity": {"clip_range": [3, 1]}}},
            "lower end 3.0 is above the upper end",
        ),
        ({"dataset": {"seg": {"sampling": {"pos": 0, "neg": 0}}}}, "pos and neg are both 0"),
        (
            {"dataset": {"seg": {"partition": {"overlap_size": [16, 32, 16]}}}},
            "overlap_size: 32 on both sides leaves nothing of a patch of 64 voxels along y; use 0 to 31",
        ),
        (
            {
                "dataset": {"seg": {"interested_label_list": [21, 22]}},
                "tsk_set": {"seg": {"class_num": 2}},
            },
            "makes 3 classes, with background; use 3 or -1",
        ),
        (
            {"tsk_set": {"loss": {"ce": {"class_weight": [1, 2]}}, "seg": {"class_num": 3}}},
            "class_weight has 2 weights, but tsk_set.seg.class_num is 3",
        ),
        ({1: 2}, "1: unknown key; a settings file has dataset, tsk_set"),
        ({"tsk_set": {"task_name": {1, 2}}}, "settings can hold only what JSON can"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_can(written, message):
    assert message in refusal(written)
    assert len(refusal(written).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; `monaiseg settings init`"),
        (" \n", "is empty"),
        ("[1, 2]", "is [1, 2]; a settings file is a JSON object"),
        ('{"a": 1,}', "line 1, column 9: not valid JSON"),
        ('{"tsk_set": {"lr": NaN}}', "NaN is not a number in JSON"),
        ('{"tsk_set": {"lr": -Infinity}}', "-Infinity is not a number in JSON"),
        ('{"tsk_set": {"lr": 1e999}}', "1e999 is not a number in JSON"),
        ('{"tsk_set": {"epochs": ' + "9" * 5000 + "}}", "write a smaller number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested too deeply; settings are 8 levels deep"),
        (b"\xff\xfe{\x00}\x00", "is UTF-16; save it as UTF-8"),
        (b'{"tsk_set": "\xe9"}', "byte 13 is not UTF-8"),
        ('{"tsk_set": {"task_name": "' + "a" * MAX_BYTES + '"}}', "a settings file has at most"),
        (
            '{"tsk_set": {"epochs": 1,\n"seed": 2,\n"epochs": 3}}',
            "key 'epochs' appears 2 times in one section (lines 1, 3); keep one",
        ),
    ],
)
def test_text_that_is_no_settings_is_refused_by_the_file_and_the_place(text, message):
    assert message in refusal(text)
    assert refusal(text).startswith("settings.json: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="settings init"):
        load_settings(tmp_path / "missing.json")


def test_a_byte_order_mark_and_a_schema_reference_are_no_fault(tmp_path):
    file = tmp_path / "settings.json"
    file.write_bytes(b'\xef\xbb\xbf{"$schema": "settings.schema.json", "tsk_set": {"epochs": 3}}')
    assert load_settings(file).tsk_set.epochs == 3


def test_the_message_names_the_file(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"tsk_set": {"epochs": 0}}')
    with pytest.raises(SettingsError, match=r"settings\.json: tsk_set\.epochs: 0 is not"):
        load_settings(file)


@pytest.mark.parametrize("key", ["patch_sise", "patchsize", "patch"])
def test_a_misspelt_key_is_named_with_the_nearest(key):
    message = refusal({"dataset": {"seg": {key: [64, 64, 64]}}})
    assert message.endswith(f"dataset.seg.{key}: unknown key; did you mean 'patch_size'?")


def test_a_key_like_no_other_is_named_with_those_of_its_section():
    message = refusal({"tsk_set": {"optim": {"sgd": {"zzz": 1}}}})
    assert message.endswith("tsk_set.optim.sgd.zzz: unknown key; tsk_set.optim.sgd has momentum")


def test_spatial_lists_are_read_in_the_files_order():
    seg = {"patch_size": [16, 32, 64], "partition": {"overlap_size": [4, 4, 8]}}
    dataset = {"img_after_resize": [48, 64, 80], "spacing": [3.0, 2.0, 1.0], "seg": seg}
    zyx = settings_from_dict({"dataset": dataset})
    xyz = settings_from_dict({"dataset": {**dataset, "axis_order": "xyz"}})

    assert (zyx.patch_shape, xyz.patch_shape) == ((64, 32, 16), (16, 32, 64))
    assert (zyx.image_shape, xyz.image_shape) == ((80, 64, 48), (48, 64, 80))
    assert (zyx.spacing_mm, xyz.spacing_mm) == ((1.0, 2.0, 3.0), (3.0, 2.0, 1.0))
    assert zyx.window_overlap == (0.25, 0.25, 0.5)  # 2 x 8 of 64, 2 x 4 of 32, 2 x 4 of 16
    assert xyz.window_overlap == (0.5, 0.25, 0.25)


def test_every_spatial_list_is_turned_once_and_stays_turned():
    """Written and read again, however often, the lists mean the same."""
    augmentation = {
        "rigid": {"rotation": [3.0, 2.0, 1.0], "translation": [6.0, 5.0, 4.0]},
        "deformation": {"mesh_size": [3, 2, 1]},
    }
    seg = {
        "patch_size": [48, 32, 16],
        "partition": {"overlap_size": [3, 2, 1]},
        "augmentation": augmentation,
    }
    document = {"img_after_resize": [48, 32, 16], "spacing": [3.0, 2.0, 1.0], "seg": seg}
    settings = settings_from_dict({"dataset": document})
    again = parse_settings(dump_settings(parse_settings(dump_settings(settings))))

    def values(dataset: Any) -> list[Any]:
        change = dataset.seg.augmentation
        return [
            dataset.img_after_resize, dataset.spacing, dataset.seg.patch_size,
            dataset.seg.partition.overlap_size, change.rigid.rotation, change.rigid.translation,
            change.deformation.mesh_size,
        ]  # fmt: skip

    assert values(settings.dataset) == [
        (16, 32, 48), (1.0, 2.0, 3.0), (16, 32, 48), (1, 2, 3), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (1, 2, 3),
    ]  # fmt: skip
    assert again == settings
    assert len(values(settings.dataset)) == len(SPATIAL_LISTS)
    assert document["spacing"] == [3.0, 2.0, 1.0]  # the reader's own document is left alone


def test_every_list_of_three_in_the_dataset_section_is_a_spatial_list():
    """So that a new one cannot be forgotten."""

    def triples(section: type[BaseModel], path: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            kind, here = field.annotation, f"{path}.{name}"
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from triples(kind, here)
            elif (node_at(here).get("anyOf") or [node_at(here)])[0].get("maxItems") == 3:
                yield here

    assert set(triples(DatasetSettings, "dataset")) == set(SPATIAL_LISTS)


def test_files_that_mean_the_same_have_one_digest():
    zyx = settings_from_dict({"dataset": {"spacing": [3.0, 2.0, 1.0]}})
    xyz = settings_from_dict({"dataset": {"axis_order": "xyz", "spacing": [1.0, 2.0, 3.0]}})

    assert zyx.digest() == xyz.digest()
    assert zyx == xyz


def test_settings_made_in_python_are_in_x_y_z_order():
    made = Settings(dataset=DatasetSettings(spacing=(1.0, 2.0, 3.0)))

    assert parse_settings(dump_settings(made)).spacing_mm == made.spacing_mm == (1.0, 2.0, 3.0)
    assert changed(made, {"dataset.spacing": (3.0, 2.0, 1.0)}).spacing_mm == (3.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="xyz"):
        DatasetSettings(axis_order="zyx")  # type: ignore[arg-type]  # the claim


def test_an_order_of_axes_that_there_is_not_is_refused_with_the_two_that_there_are():
    message = refusal({"dataset": {"axis_order": "yxz", "spacing": [1, 2, 3]}})
    assert message.endswith('axis_order: "yxz" is not one of zyx, xyz (default "zyx")')


def test_an_overlap_in_voxels_stands_before_the_share():
    assert Settings().window_overlap == (0.5, 0.5, 0.5)


@hypothesis.settings(max_examples=20)
@given(settings=strategies.settings(), random=st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_the_keys(settings, random):
    def shuffled(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        keys = random.sample(list(node), len(node))
        return {key: shuffled(node[key]) for key in keys}

    again = settings_from_dict(shuffled(json.loads(dump_settings(settings))))

    assert again.digest() == settings.digest()


def test_the_digest_tells_settings_apart():
    assert settings_from_dict({"tsk_set": {"seed": 1}}).digest() != Settings().digest()


def test_defaults_left_unsaid_are_defaults_said():
    assert parse_settings(dump_settings(Settings())).digest() == Settings().digest()


def test_the_schema_knows_every_section_and_where_editors_find_it():
    assert set(json_schema()["properties"]) == {"$schema", "dataset", "tsk_set"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 99) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
SECTIONS = ("dataset", "dataset.seg", "tsk_set", "tsk_set.optim", "tsk_set.loss", "nothing")


@given(section=st.sampled_from(SECTIONS), value=JSON)
def test_any_json_in_any_place_is_settings_or_a_settings_error(section, value):
    for name in reversed(section.split(".")):
        value = {name: value}
    with contextlib.suppress(SettingsError):
        settings_from_dict(value)
