"""Each key of EasyReg's settings files does what its name promises, or is named as one without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monaiseg.errors import MonaisegWarning
from monaiseg.settings import easyreg_keys
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.schema import json_schema
from monaiseg.settings.settings import Settings
from sections import TRANSFORM, at, del_at, document, in_its_place, resolved

REPOSITORY = Path(__file__).parents[2]
CHANGE = "dataset.seg.augmentation"
SAMPLING = "dataset.seg.sampling"

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

SAYS_WHAT_HOLDS = [*easyreg_keys.GRANTED.items()]

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
    assert f"{key}: {easyreg_keys.IGNORED[key]}" in str(caught[0].message)


def test_every_key_that_the_tables_know_is_tried():
    tried = {row[0] for row in (*EFFECTS, *SAYS_WHAT_HOLDS, *WITHOUT_EFFECT)}
    assert (
        not easyreg_keys.KEYS - tried - {"tsk_set.loss.ce.weighted"}
    )  # that has a test of its own


def test_the_migration_page_tells_every_key():
    page = (REPOSITORY / "docs" / "migration.md").read_text(encoding="utf-8")
    assert not [key for key in easyreg_keys.KEYS if key.rsplit(".", 1)[1] not in page]
    assert not [name for name in easyreg_keys.TRANSFORMS if name not in page]


def test_no_key_of_easyreg_is_one_of_ours():
    schema = json_schema()

    def paths(node: dict[str, Any], above: str) -> set[str]:
        node = schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
        below = node.get("properties", {}).items()
        return {above, *(p for k, v in below for p in paths(v, f"{above}.{k}".lstrip(".")))}

    assert not easyreg_keys.KEYS & paths(schema, "")


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
    with pytest.warns(MonaisegWarning, match="my_rand_crop: transform_seq does not list it"):
        assert settings_from_dict(written) == Settings()
