"""EasyReg's settings files load unchanged, and each of their keys does what its name promises."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.settings import easyreg
from monaiseg.settings.reading import load_settings, parse_settings, settings_from_dict
from monaiseg.settings.schema import json_schema
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from sections import document

SCRIPTS = Path(__file__).parents[2] / "scripts"
TRANSFORM = "dataset.seg.transform"
CHANGE = "dataset.seg.augmentation"
SAMPLING = "dataset.seg.sampling"


def in_its_place(path: str, value: Any) -> dict[str, Any]:
    """The key alone, and with a transform's parameter what lists the transform."""
    values = {path: value}
    if path.startswith(f"{TRANSFORM}.default."):
        values = {
            f"{TRANSFORM}.transform_seq": [],
            f"{TRANSFORM}.default.using_bspline_deform": True,
            **values,
        }
    elif path.startswith(f"{TRANSFORM}.") and path.count(".") == 4:
        (name,) = (n for n, t in easyreg.TRANSFORMS.items() if t.section == path.split(".")[3])
        values[f"{TRANSFORM}.transform_seq"] = [name]
    return document(values)


def at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def resolved(written: dict[str, Any]) -> Settings:
    """Settings of a document that has no key without effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return settings_from_dict(written)


EFFECTS: list[tuple[str, Any, str, Any]] = [
    # dataset
    ("dataset.task_type", "seg", "dataset.task_type", "seg"),
    ("dataset.max_num_for_loading", [9, 3, -1, 1], "dataset.max_num_for_loading", (9, 3, -1, 1)),
    ("dataset.img_after_resize", [160, 200, 192], "image_shape", (192, 200, 160)),
    ("dataset.img_after_resize", [160, -1, 192], "image_shape", None),
    ("dataset.normalize_via_percentage_clip", 1, "dataset.intensity.method", "percentile"),
    ("dataset.normalize_via_percentage_clip", 1, "dataset.intensity.percentile", 95.0),
    ("dataset.normalize_via_percentage_clip", 99, "dataset.intensity.percentile", 99.0),
    ("dataset.normalize_via_percentage_clip", 0.75, "dataset.intensity.percentile", 75.0),
    ("dataset.normalize_via_percentage_clip", -1, "dataset.intensity.method", "zscore"),
    ("dataset.normalize_via_range_clip", [0, 255], "dataset.intensity.clip_range", (0, 255)),
    ("dataset.normalize_via_range_clip", [0, 255], "dataset.intensity.method", "minmax"),
    ("dataset.normalize_via_range_clip", [-1, -1], "dataset.intensity.clip_range", None),
    # dataset.seg
    ("dataset.seg.patch_size", [56, 72, 64], "patch_shape", (64, 72, 56)),
    (
        "dataset.seg.interested_label_list",
        [0, 21, 40],
        "dataset.seg.interested_label_list",
        (0, 21, 40),
    ),
    ("dataset.seg.use_whole_img_as_input", True, "dataset.seg.use_whole_img_as_input", True),
    ("dataset.seg.num_crop_per_class_per_train_img", 5, f"{SAMPLING}.centres_per_class", 5),
    ("dataset.seg.num_crop_per_class_per_train_img", -1, f"{SAMPLING}.centres_per_class", -1),
    # dataset.seg.partition, patches of 64
    ("dataset.seg.partition.overlap_size", [16, 8, 4], "window_overlap", (0.125, 0.25, 0.5)),
    ("dataset.seg.partition.overlap_size", [-1, -1, -1], "window_overlap", (0.5, 0.5, 0.5)),
    (
        "dataset.seg.partition.padding_mode",
        "reflect",
        "dataset.seg.partition.padding_mode",
        "reflect",
    ),
    (
        "dataset.seg.partition.padding_mode",
        "edge",
        "dataset.seg.partition.padding_mode",
        "replicate",
    ),
    (
        "dataset.seg.partition.padding_mode",
        "wrap",
        "dataset.seg.partition.padding_mode",
        "circular",
    ),
    # dataset.seg.transform
    (f"{TRANSFORM}.transform_seq", ["my_balanced_random_crop"], f"{SAMPLING}.method", "balanced"),
    (f"{TRANSFORM}.transform_seq", ["balanced_random_crop"], f"{SAMPLING}.method", "balanced"),
    (f"{TRANSFORM}.transform_seq", ["my_random_crop"], f"{SAMPLING}.method", "pos_neg"),
    (f"{TRANSFORM}.transform_seq", ["flicker_crop"], f"{SAMPLING}.method", "pos_neg"),
    (f"{TRANSFORM}.transform_seq", ["random_rigid_transform"], f"{CHANGE}.rigid.probability", 0.5),
    (f"{TRANSFORM}.transform_seq", ["bspline_transform"], f"{CHANGE}.deformation.probability", 0.5),
    (f"{TRANSFORM}.transform_seq", ["gaussian_blur"], f"{CHANGE}.smoothing.probability", 1.0),
    (f"{TRANSFORM}.transform_seq", ["bilateral_filter"], f"{CHANGE}.bilateral.probability", 1.0),
    (f"{TRANSFORM}.transform_seq", ["gaussian_blur"], f"{CHANGE}.rotation.probability", 0.3),
    (f"{TRANSFORM}.transform_seq", [], f"{CHANGE}.deformation.probability", 0.0),
    (f"{TRANSFORM}.my_bal_rand_crop.scale_ratio", 0.1, f"{SAMPLING}.least_class_share", 0.1),
    (f"{TRANSFORM}.my_bal_rand_crop.bg_th_ratio", 0.5, f"{SAMPLING}.least_patch_share", (0.5,)),
    (f"{TRANSFORM}.my_rand_crop.scale_ratio", 0.05, f"{SAMPLING}.least_class_share", 0.05),
    (f"{TRANSFORM}.my_rand_crop.crop_bg_ratio", 0.25, f"{SAMPLING}.neg", 0.25),
    (f"{TRANSFORM}.my_rand_crop.crop_bg_ratio", 0.25, f"{SAMPLING}.pos", 0.75),
    (
        f"{TRANSFORM}.bal_rand_crop.sample_threshold",
        [1, 0.1],
        f"{SAMPLING}.least_patch_share",
        (1, 0.1),
    ),
    (f"{TRANSFORM}.flicker_crop.adopt_bg_ratio", 0.25, f"{SAMPLING}.neg", 0.25),
    (
        f"{TRANSFORM}.rand_rigid_trans.transition",
        [3, 2, 1],
        f"{CHANGE}.rigid.translation",
        (1, 2, 3),
    ),
    (f"{TRANSFORM}.rand_rigid_trans.rotation", [9, 0, 5], f"{CHANGE}.rigid.rotation", (5, 0, 9)),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_ratio", 0.25, f"{CHANGE}.rigid.probability", 0.25),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_mode", "both", f"{CHANGE}.rigid.target", "both"),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_mode", "img", f"{CHANGE}.rigid.target", "image"),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_mode", "image", f"{CHANGE}.rigid.target", "image"),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_mode", "seg", f"{CHANGE}.rigid.target", "label"),
    (f"{TRANSFORM}.rand_rigid_trans.rigid_mode", "label", f"{CHANGE}.rigid.target", "label"),
    (f"{TRANSFORM}.bspline_trans.bspline_order", 2, f"{CHANGE}.deformation.order", 2),
    (
        f"{TRANSFORM}.bspline_trans.mesh_size",
        [4, 3, 2],
        f"{CHANGE}.deformation.mesh_size",
        (2, 3, 4),
    ),
    (f"{TRANSFORM}.bspline_trans.deform_ratio", 0.25, f"{CHANGE}.deformation.probability", 0.25),
    (f"{TRANSFORM}.bspline_trans.deform_scale", 7, f"{CHANGE}.deformation.displacement", 7),
    (
        f"{TRANSFORM}.bspline_trans.interpolator",
        "BSpline",
        f"{CHANGE}.deformation.interpolation",
        "bspline",
    ),
    (
        f"{TRANSFORM}.bspline_trans.interpolator",
        "Linear",
        f"{CHANGE}.deformation.interpolation",
        "linear",
    ),
    (f"{TRANSFORM}.gaussian_blur.blur_ratio", 0.25, f"{CHANGE}.smoothing.probability", 0.25),
    (f"{TRANSFORM}.gaussian_blur.gaussian_var", 0.25, f"{CHANGE}.smoothing.sigma", (0.5, 0.5)),
    (
        f"{TRANSFORM}.bilateral_filter.bilateral_ratio",
        0.25,
        f"{CHANGE}.bilateral.probability",
        0.25,
    ),
    (f"{TRANSFORM}.bilateral_filter.domain_sigma", 0.5, f"{CHANGE}.bilateral.domain_sigma", 0.5),
    (f"{TRANSFORM}.bilateral_filter.range_sigma", 0.1, f"{CHANGE}.bilateral.range_sigma", 0.1),
    (f"{TRANSFORM}.default.using_bspline_deform", True, f"{CHANGE}.deformation.probability", 0.5),
    (f"{TRANSFORM}.default.using_bspline_deform", False, f"{CHANGE}.deformation.probability", 0.0),
    (f"{TRANSFORM}.default.deform_scale", 7, f"{CHANGE}.deformation.displacement", 7),
    # tsk_set
    ("tsk_set.train", False, "tsk_set.train", False),
    ("tsk_set.task_name", "first", "tsk_set.task_name", "first"),
    ("tsk_set.output_root_path", "out", "tsk_set.output_root_path", "out"),
    ("tsk_set.gpu_ids", 0, "tsk_set.gpu_id", 0),
    ("tsk_set.gpu_ids", -1, "tsk_set.gpu_id", -1),
    ("tsk_set.gpu_ids", [1], "tsk_set.gpu_id", 1),
    ("tsk_set.batch_sz", 3, "batch_size", 3),
    ("tsk_set.batch_sz", [4, 1, 1, 1], "batch_size", 4),
    ("tsk_set.n_in_channel", 2, "dataset.num_channels", 2),
    ("tsk_set.epoch", 400, "tsk_set.epochs", 400),
    (
        "tsk_set.max_batch_num_per_epoch",
        [400, -1, 0],
        "tsk_set.max_batch_num_per_epoch",
        (400, -1, 0),
    ),
    (
        "tsk_set.max_batch_num_per_epoch",
        [400, 3, None],
        "tsk_set.max_batch_num_per_epoch",
        (400, 3, 0),
    ),
    ("tsk_set.val_period", 10, "tsk_set.val_period", 10),
    ("tsk_set.check_best_model_period", 7, "tsk_set.checkpoint_period", 7),
    ("tsk_set.save_val_fig_epoch", 3, "tsk_set.save_val_fig_epoch", 3),
    ("tsk_set.save_fig_on", False, "tsk_set.save_fig_on", False),
    (
        "tsk_set.save_running_resolution_3d_img",
        True,
        "tsk_set.save_running_resolution_3d_img",
        True,
    ),
    ("tsk_set.save_3d_img_on", True, "tsk_set.save_running_resolution_3d_img", True),
    ("tsk_set.print_step", [9, 5, 3], "tsk_set.print_step", (9, 5, 3)),
    ("tsk_set.criticUpdates", 2, "tsk_set.gradient_accumulation_steps", 2),
    ("tsk_set.warmming_up_epoch", 2, "tsk_set.warmup_epochs", 2.0),
    ("tsk_set.continue_train", True, "tsk_set.continue_train", True),
    ("tsk_set.continue_train_lr", 5e-4, "tsk_set.continue_train_lr", 5e-4),
    ("tsk_set.reset_train_epoch", True, "tsk_set.reset_train_epoch", True),
    (
        "tsk_set.load_model_but_train_from_epoch",
        9,
        "tsk_set.load_model_but_train_from_epoch",
        9,
    ),
    ("tsk_set.model_path", "a/model_best.pth.tar", "tsk_set.model_path", "a/model_best.pth.tar"),
    ("tsk_set.model_path", ["a"], "tsk_set.model_path", "a"),
    ("tsk_set.optim.optim_type", "adam", "tsk_set.optim.optim_type", "adam"),
    ("tsk_set.optim.optim_type", "sgd", "tsk_set.optim.optim_type", "sgd"),
    ("tsk_set.optim.lr", 0.01, "tsk_set.optim.lr", 0.01),
    ("tsk_set.optim.adam.beta", 0.8, "tsk_set.optim.adam.beta", 0.8),
    ("tsk_set.optim.lr_scheduler.type", "custom", "tsk_set.optim.lr_scheduler.type", "step"),
    ("tsk_set.optim.lr_scheduler.type", "plateau", "tsk_set.optim.lr_scheduler.type", "plateau"),
    (
        "tsk_set.optim.lr_scheduler.custom.step_size",
        60,
        "tsk_set.optim.lr_scheduler.step.step_size",
        60,
    ),
    ("tsk_set.optim.lr_scheduler.custom.gamma", 0.3, "tsk_set.optim.lr_scheduler.step.gamma", 0.3),
    (
        "tsk_set.optim.lr_scheduler.plateau.patience",
        3,
        "tsk_set.optim.lr_scheduler.plateau.patience",
        3,
    ),
    (
        "tsk_set.optim.lr_scheduler.plateau.factor",
        0.3,
        "tsk_set.optim.lr_scheduler.plateau.factor",
        0.3,
    ),
    (
        "tsk_set.optim.lr_scheduler.plateau.threshold",
        0.01,
        "tsk_set.optim.lr_scheduler.plateau.threshold",
        0.01,
    ),
    (
        "tsk_set.optim.lr_scheduler.plateau.min_lr",
        1e-6,
        "tsk_set.optim.lr_scheduler.plateau.min_lr",
        1e-6,
    ),
    ("tsk_set.loss.type", "ce", "tsk_set.loss.type", "ce"),
    ("tsk_set.loss.type", "focal_loss", "tsk_set.loss.type", "focal"),
    ("tsk_set.loss.type", "dice_loss", "tsk_set.loss.type", "dice"),
    ("tsk_set.loss.type", "gdice_loss", "tsk_set.loss.type", "gdice"),
    ("tsk_set.loss.type", "tdice_loss", "tsk_set.loss.type", "tversky"),
    ("tsk_set.loss.ce.no_bg", True, "tsk_set.loss.ce.include_background", False),
    ("tsk_set.loss.ce.no_bg", False, "tsk_set.loss.ce.include_background", True),
    ("tsk_set.loss.ce.class_weight", [1, 2, 3], "tsk_set.loss.ce.class_weight", (1, 2, 3)),
    ("tsk_set.seg.class_num", 57, "tsk_set.seg.class_num", 57),
    ("tsk_set.seg.use_bn", True, "tsk_set.network.norm", "batch"),
    ("tsk_set.seg.use_bn", False, "tsk_set.network.norm", "none"),
]
"""EasyReg's key and value -> where in the settings it shows, and as what: lists in z, y, x order turn to x, y, z."""

SAYS_WHAT_HOLDS = [*easyreg.GRANTED.items()]

WITHOUT_EFFECT: list[tuple[str, Any]] = [
    ("dataset.spacing_to_refer", [1, 1, 1]),
    ("dataset.seg.partition.mode", "eval"),
    ("dataset.seg.partition.flicker_range", 3),
    (f"{TRANSFORM}.shared_info", {"label_list": [0, 1]}),
    (f"{TRANSFORM}.patch_size", [128, 128, 32]),
    (f"{TRANSFORM}.default.deform_target", "padded"),
    (f"{TRANSFORM}.gaussian_blur.gaussian_width", 1),
    (f"{TRANSFORM}.gaussian_blur.maximumError", 0.9),
    (f"{TRANSFORM}.bilateral_filter.number_of_range_gaussian_samples", 50),
    ("tsk_set.save_extra_running_resolution_3d_img", True),
    ("tsk_set.save_extra_3d_img", True),
    ("tsk_set.output_taking_original_image_format", False),
    ("tsk_set.print_val_detail", True),
    ("tsk_set.use_physical_coord", True),
    ("tsk_set.path", {"logdir": "log", "check_point_path": "checkpoints"}),
    ("tsk_set.loss.ce.reduced", False),
    ("tsk_set.loss.ce.class_num", 57),
    ("tsk_set.loss.glncc", {"k_sz_set": [9]}),
    ("tsk_set.seg.ensemble_during_the_test", True),
    ("tsk_set.seg.seg_ensemble", {"warped_pth": "a", "num_max": 20}),
    ("tsk_set.debug", {"warped_pth": "a"}),
]


@pytest.mark.parametrize(("key", "value", "path", "expected"), EFFECTS)
def test_a_key_does_what_its_name_promises(key, value, path, expected):
    assert at(resolved(in_its_place(key, value)), path) == expected


@pytest.mark.parametrize(("key", "value"), SAYS_WHAT_HOLDS)
def test_a_key_that_says_what_holds_anyway_passes_in_silence(key, value):
    without = in_its_place(key, value)
    del_at(without, key)

    assert resolved(in_its_place(key, value)) == resolved(without)


@pytest.mark.parametrize(("key", "value"), WITHOUT_EFFECT)
def test_a_key_without_effect_is_accepted_and_named_with_the_reason(key, value):
    without = in_its_place(key, value)
    del_at(without, key)

    with pytest.warns(MonaisegWarning) as caught:
        settings = settings_from_dict(in_its_place(key, value))

    assert settings == resolved(without)
    assert f"{key}: {easyreg.IGNORED[key]}" in str(caught[0].message)


def del_at(nested: dict[str, Any], path: str) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        nested = nested[parent]
    del nested[name]


def test_every_key_that_the_tables_know_is_tried():
    tried = {row[0] for row in (*EFFECTS, *SAYS_WHAT_HOLDS, *WITHOUT_EFFECT)}
    assert not easyreg.KEYS - tried - {"tsk_set.loss.ce.weighted"}  # that has a test of its own


def test_the_migration_page_tells_every_key():
    page = (SCRIPTS.parent / "docs" / "migration.md").read_text(encoding="utf-8")
    assert not [key for key in easyreg.KEYS if key.rsplit(".", 1)[1] not in page]
    assert not [name for name in easyreg.TRANSFORMS if name not in page]


def test_no_key_of_easyreg_is_one_of_ours():
    schema = json_schema()

    def paths(node: dict[str, Any], above: str) -> set[str]:
        node = schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
        below = node.get("properties", {}).items()
        return {above, *(p for k, v in below for p in paths(v, f"{above}.{k}".lstrip(".")))}

    assert not easyreg.KEYS & paths(schema, "")


def test_all_keys_without_effect_are_named_in_one_warning():
    written = document(dict(WITHOUT_EFFECT))

    with pytest.warns(MonaisegWarning) as caught:
        settings_from_dict(written, "cur_task_setting.json")

    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("cur_task_setting.json: keys that have no effect here:")
    assert all(key in message for key, _ in WITHOUT_EFFECT if not key.startswith(TRANSFORM))


def test_parameters_of_a_transform_that_is_not_listed_are_named():
    written = document({f"{TRANSFORM}.my_rand_crop.scale_ratio": 0.5})
    with pytest.warns(MonaisegWarning, match="my_rand_crop: transform_seq does not ask for it"):
        assert settings_from_dict(written) == Settings()


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
        ({"tsk_set": {"epoch": 3, "epochs": 3}}, "tsk_set.epoch and tsk_set.epochs say the same"),
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
    ("tsk_set.model", "reg_net", '"reg_net" is not "seg_net"; registration stays with EasyReg'),
    ("tsk_set.method_name", "mermaid", '"mermaid" is not "seg_unet"'),
    ("tsk_set.loss.type", "ncc", "one of dice_ce, ce, focal"),
    ("tsk_set.epoch", 0, "tsk_set.epoch: 0 is not a whole number of at least 1"),
    ("tsk_set.warmming_up_epoch", -1, "tsk_set.warmming_up_epoch: -1 is not a number"),
    ("tsk_set.batch_sz", [4, 1], "tsk_set.batch_sz: [4, 1] is not"),
    ("tsk_set.gpu_ids", [0, 1], "tsk_set.gpu_ids: [0, 1] is not one GPU"),
    ("tsk_set.model_path", ["a", "b"], "is not one checkpoint at a time"),
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
        '["my_random_crop", "flicker_crop"] are several crops; keep one',
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
    key=st.sampled_from(sorted(easyreg.KEYS | {TRANSFORM})),
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


# ---------------------------------------------------------------- the second file, about the data

DATA_SETTINGS = {
    "datapro": {
        "dataset": {"dataset_name": "lpba", "divided_ratio": [0.7, 0.1, 0.2]},
        "reg": {"sched": "inter"},
        "task_type": "seg",
        "seg": {
            "max_num_for_loading": [9, 3, -1, 1],
            "patch_size": [64, 64, 64],
            "partition": {"overlap_size": [16, 16, 8], "padding_mode": "reflect"},
            "transform": {
                "transform_seq": ["my_balanced_random_crop"],
                "my_bal_rand_crop": {"scale_ratio": 0.25},
            },
        },
    }
}
"""As EasyReg's old settings folders hold it."""


@pytest.mark.parametrize("name", ["data_setting.json", "cur_data_setting.json"])
def test_data_settings_fill_in_what_the_settings_do_not_say(name, tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text('{"dataset": {"seg": {"partition": {"padding_mode": "constant"}}}}')
    (tmp_path / name).write_text(json.dumps(DATA_SETTINGS))

    with pytest.warns(MonaisegWarning) as caught:
        settings = load_settings(path)

    assert settings.patch_shape == (64, 64, 64)
    assert settings.window_overlap == (0.25, 0.5, 0.5)
    assert settings.dataset.max_num_for_loading == (9, 3, -1, 1)
    assert settings.dataset.seg.sampling.method == "balanced"
    assert settings.dataset.seg.sampling.least_class_share == 0.25
    assert settings.dataset.seg.partition.padding_mode == "constant"
    (warning,) = caught
    assert str(warning.message) == (
        f"{tmp_path / name}: dataset.seg.partition.padding_mode stand in cur_task_setting.json with other values, "
        "which count"
    )


def test_data_settings_of_a_registration_say_nothing(tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text("{}")
    other = {"datapro": {"dataset": {"img_size": [9, 9, 9]}, "reg": {"axis": -1}, "seg": {}}}
    (tmp_path / "data_setting.json").write_text(json.dumps(other))

    assert load_settings(path) == Settings()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1", "data_setting.json: line 1"),
        ('{"datapro": {"seg": {"patch_sise": [1]}}}', "did you mean 'patch_size'"),
        ('{"datapro": 3}', "datapro"),
    ],
)
def test_faults_of_data_settings_are_named(text, found, tmp_path):
    path = tmp_path / "cur_task_setting.json"
    path.write_text("{}")
    (tmp_path / "data_setting.json").write_text(text)
    with pytest.raises(SettingsError, match=found):
        load_settings(path)


LPBA = {
    "seg_train": {"batch_size": 4, "epochs": 400, "image_shape": None, "train": True},
    "seg_aug": {"batch_size": 8, "epochs": 400, "image_shape": None, "train": True},
    "seg_eval": {"batch_size": 4, "epochs": 500, "image_shape": (196, 164, 196), "train": False},
}


@pytest.mark.parametrize("name", LPBA)
def test_the_lpba_settings_resolve(name):
    path = SCRIPTS / "settings_for_lpba" / name / "curr_task_settings.json"
    with pytest.warns(MonaisegWarning, match="use_physical_coord") as caught:
        settings = load_settings(path)
    task, seg = settings.tsk_set, settings.dataset.seg

    assert len(caught) == 1
    assert {
        "batch_size": settings.batch_size,
        "epochs": task.epochs,
        "image_shape": settings.image_shape,
        "train": task.train,
    } == LPBA[name]
    assert settings.patch_shape == (72, 72, 72)
    assert settings.window_overlap == pytest.approx((4 / 9,) * 3)
    assert (seg.sampling.method, seg.sampling.least_class_share) == ("balanced", 0.1)
    assert (task.loss.type, task.optim.optim_type, task.network.norm) == ("ce", "adam", "batch")
    assert (task.optim.lr_scheduler.type, task.optim.lr_scheduler.step.step_size) == ("step", 60)
    assert (task.gradient_accumulation_steps, task.warmup_epochs) == (2, 2)
    assert task.seg.class_num == 57
    assert parse_settings(dump_settings(settings)) == settings
