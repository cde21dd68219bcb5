"""EasyReg's settings: keys that go together, both spellings at once, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from monaiseg.errors import SettingsError
from monaiseg.settings import easyreg, easyreg_keys
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.writing import dump_settings
from sections import TRANSFORM, document, in_its_place, resolved


def test_clip_and_percentile_go_together():
    settings = resolved(
        {
            "dataset": {
                "normalize_via_range_clip": [0, 99],
                "normalize_via_percentage_clip": 90,
            }
        }
    )
    assert settings.dataset.intensity.model_dump() == {
        "method": "percentile",
        "region": "image",
        "clip_range": (0, 99),
        "percentile": 90,
    }


@pytest.mark.parametrize(("weighted", "expected"), [(True, (1, 5)), (False, None)])
def test_class_weights_are_used_if_and_only_if_the_loss_is_weighted(weighted, expected):
    loss = {"type": "ce", "ce": {"weighted": weighted, "class_weight": [1, 5]}}
    assert resolved({"tsk_set": {"loss": loss}}).tsk_set.loss.ce.class_weight == expected


def test_a_parameter_stands_before_what_listing_the_transform_says():
    section = {"transform_seq": ["random_rigid_transform"], "rand_rigid_trans": {"rigid_ratio": 1}}
    settings = resolved({"dataset": {"seg": {"transform": section}}})
    assert settings.dataset.seg.augmentation.rigid.probability == 1


def test_the_lists_of_three_and_four_entries_keep_their_own_orders():
    for_four = resolved({"dataset": {"max_num_for_loading": [1, 2, 3, 4]}})
    assert for_four.dataset.max_num_for_loading == (1, 2, 3, 4)  # train, val, test, debug
    with pytest.raises(SettingsError, match="max_batch_num_per_epoch.* a list of 3 entries"):
        settings_from_dict({"tsk_set": {"max_batch_num_per_epoch": [1, 2, 3, 4]}})
    with pytest.raises(SettingsError, match="max_num_for_loading.* a list of 4 entries"):
        settings_from_dict({"dataset": {"max_num_for_loading": [1, 2, 3]}})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"tsk_set": {"epoch": 3, "epochs": 3}}, "tsk_set.epoch and tsk_set.epochs set the same"),
        (
            {"tsk_set": {"save_3d_img_on": True, "save_running_resolution_3d_img": True}},
            "save_3d_img_on and tsk_set.save_running_resolution_3d_img",
        ),
        (
            {
                "dataset": {
                    "intensity": {"method": "none"},
                    "normalize_via_percentage_clip": 1,
                }
            },
            "normalize_via_percentage_clip and dataset.intensity.method",
        ),
        (
            {
                "dataset": {
                    "seg": {
                        "sampling": {"method": "uniform"},
                        "transform": {"transform_seq": ["my_random_crop"]},
                    }
                }
            },
            "transform_seq and dataset.seg.sampling.method",
        ),
    ],
)
def test_both_spellings_at_once_are_refused_by_both_names(written, message):
    with pytest.raises(SettingsError, match=message):
        settings_from_dict(written)


REFUSALS: list[tuple[str, Any, str]] = [
    ("tsk_set.model", "reg_net", '"reg_net" is not "seg_net"; for registration, use EasyReg'),
    ("tsk_set.method_name", "mermaid", '"mermaid" is not "seg_unet"'),
    ("tsk_set.loss.type", "ncc", "one of dice_ce, ce, focal"),
    ("tsk_set.epoch", 0, "tsk_set.epoch: 0 is not a whole number of at least 1"),
    ("tsk_set.warmming_up_epoch", -1, "tsk_set.warmming_up_epoch: -1 is not a number"),
    ("tsk_set.batch_sz", [4, 1], "tsk_set.batch_sz: [4, 1] is not"),
    ("tsk_set.gpu_ids", [0, 1], "tsk_set.gpu_ids: [0, 1] must be one GPU"),
    ("tsk_set.model_path", ["a", "b"], "must be one checkpoint"),
    ("tsk_set.seg.use_bn", 1, "tsk_set.seg.use_bn: 1 is not true or false"),
    ("tsk_set.loss.ce.no_bg", "no", 'tsk_set.loss.ce.no_bg: "no" is not true or false'),
    ("tsk_set.loss.ce.weighted", True, "weighted: true needs tsk_set.loss.ce.class_weight"),
    ("tsk_set.loss.ce.weighted", 1, "weighted: 1 is not true or false"),
    ("tsk_set.optim.lr_scheduler.type", "custm", '"custm" is not one of'),
    ("tsk_set.optim.lr_scheduler.custom.gamma", 2, "custom.gamma: 2 is not a number above 0"),
    ("tsk_set.optim.lr_scheduler.custom", 2, "custom: 2 is not a section in braces"),
    ("dataset.normalize_via_range_clip", [9, 1], "normalize_via_range_clip: [9, 1] is not"),
    ("dataset.normalize_via_range_clip", 9, "normalize_via_range_clip: 9 is not"),
    ("dataset.normalize_via_percentage_clip", "a", 'normalize_via_percentage_clip: "a" is not'),
    ("dataset.normalize_via_percentage_clip", 3, "normalize_via_percentage_clip: 3 is not"),
    (TRANSFORM, [], "dataset.seg.transform: [] is not a section in braces"),
    (f"{TRANSFORM}.transform_seq", ["blur"], 'transform_seq: "blur" is not one of my_balanced'),
    (f"{TRANSFORM}.transform_seq", "blur", 'transform_seq: "blur" is not a list of names'),
    (
        f"{TRANSFORM}.transform_seq",
        ["my_random_crop", "flicker_crop"],
        '["my_random_crop", "flicker_crop"] has several crops; keep one',
    ),
    (
        f"{TRANSFORM}.my_rand_crop.crop_bg_ratio",
        2,
        "crop_bg_ratio: 2 is not a number of at least 0",
    ),
    (f"{TRANSFORM}.my_rand_crop.bg_label", 3, "bg_label: 3 is not 0; background is label value 0"),
    (f"{TRANSFORM}.gaussian_blur.gaussian_var", 0, "gaussian_var: 0 is not a number above 0"),
    (f"{TRANSFORM}.rand_rigid_trans.rotation", [1], "rand_rigid_trans.rotation: [1] is not a list"),
    (f"{TRANSFORM}.default.using_bspline_deform", "no", 'using_bspline_deform: "no" is not true'),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSALS)
def test_what_cannot_be_done_is_refused_in_the_words_of_the_file(key, value, message):
    with pytest.raises(SettingsError) as caught:
        settings_from_dict(in_its_place(key, value))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"tsk_set": {"warmming_up_epocs": 2}}, "did you mean 'warmming_up_epoch'?"),
        ({"dataset": {"seg": {"transfrom": {}}}}, "did you mean 'transform'?"),
        (
            {"dataset": {"seg": {"transform": {"transform_sec": []}}}},
            "dataset.seg.transform.transform_sec: unknown key; did you mean 'transform_seq'?",
        ),
        (
            document({f"{TRANSFORM}.my_bal_rand_crop.scale": 0.1}),
            "my_bal_rand_crop.scale: unknown key; did you mean 'scale_ratio'?",
        ),
        (
            document({"tsk_set.optim.lr_scheduler.custom.zzz": 1}),
            "custom.zzz: unknown key; tsk_set.optim.lr_scheduler.custom has gamma, step_size",
        ),
    ],
)
def test_an_unknown_key_is_named_with_easyregs_nearest(written, message):
    with pytest.raises(SettingsError) as caught:
        settings_from_dict(written)
    assert message in str(caught.value)


def test_faults_of_both_spellings_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        settings_from_dict({"tsk_set": {"epoch": "3", "val_period": 0, "gpu_ids": [], "typo": 1}})
    assert len(str(caught.value).splitlines()) == 4


@given(
    key=st.sampled_from(sorted(easyreg_keys.KEYS | {TRANSFORM})),
    value=st.none()
    | st.booleans()
    | st.floats(-2, 99)
    | st.text(max_size=5)
    | st.lists(st.integers(-1, 9), max_size=4)
    | st.just({"a": 1}),
)
@pytest.mark.filterwarnings("ignore::monaiseg.errors.MonaisegWarning")
def test_any_value_at_any_key_is_settings_or_a_settings_error(key, value):
    refused = ""
    try:
        settings_from_dict(in_its_place(key, value))
    except SettingsError as error:
        refused = str(error)
    assert not refused or key in refused


@hypothesis.settings(max_examples=30)
@given(settings=strategies.settings())
def test_our_own_spelling_passes_through_unchanged(settings):
    written = json.loads(dump_settings(settings))

    translation = easyreg.translate(written)

    assert translation == easyreg.Translation(written)


def test_the_callers_dictionary_is_left_as_it_is():
    written = in_its_place(f"{TRANSFORM}.my_bal_rand_crop.bg_th_ratio", 0.5)
    before = json.dumps(written)

    settings_from_dict(written)

    assert json.dumps(written) == before
