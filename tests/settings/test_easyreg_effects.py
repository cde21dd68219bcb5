"""Every key of EasyReg's settings does something here, seen where it acts: chain, loader, network, loss, optimiser.

`KEYS` are the keys that EasyReg's segmentation reads or ships, without those of `test_easyreg_in_training`. Each stands
in a table below: with values and what is observed under each (`EFFECTS`), as one that changes nothing and is named
(`NOTHING`), or as one of which a value cannot be had (`REFUSED`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from easyreg_bench import (
    BENDS,
    BILATERAL,
    BLUR,
    CE,
    CROP,
    DICE,
    FOCAL,
    GENERALISED_DICE,
    HARD,
    MOVES,
    NAMES,
    OURS_OFF,
    PLAIN,
    RIGID,
    SCHEDULE,
    SEG,
    SMALL,
    SPLINE,
    TRANSFORM,
    TVERSKY,
    WEIGHTED,
    WHOLE,
    Bench,
    adam,
    approx,
    augmentation_of,
    background_share,
    batch_size,
    blurred,
    centres_of,
    changed_share,
    channels_in,
    classes_of_blobs,
    computes_on,
    curvature_kept,
    displacement,
    edge_after,
    even_classes,
    first_steps,
    has_foreground,
    intensities,
    is_wide,
    kinks,
    least_foreground,
    least_share_of_class,
    loaded_cases,
    loaded_shape,
    loss,
    moved_share,
    norms,
    outputs,
    padding,
    patch_shape,
    plateau,
    rates,
    settings_with,
    shifts,
    turns,
    what_moves,
    window_calls,
)
from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from sections import document

KEYS = [
    "dataset.task_type",
    "dataset.max_num_for_loading",
    "dataset.img_after_resize",
    "dataset.spacing_to_refer",
    "dataset.normalize_via_percentage_clip",
    "dataset.normalize_via_range_clip",
    "dataset.seg.patch_size",
    "dataset.seg.interested_label_list",
    "dataset.seg.use_whole_img_as_input",
    "dataset.seg.num_crop_per_class_per_train_img",
    "dataset.seg.partition.overlap_size",
    "dataset.seg.partition.padding_mode",
    "dataset.seg.partition.mode",
    "dataset.seg.partition.flicker_range",
    "dataset.seg.transform.transform_seq",
    "dataset.seg.transform.shared_info",
    "dataset.seg.transform.patch_size",
    "dataset.seg.transform.my_bal_rand_crop.scale_ratio",
    "dataset.seg.transform.my_bal_rand_crop.bg_th_ratio",
    "dataset.seg.transform.my_rand_crop.scale_ratio",
    "dataset.seg.transform.my_rand_crop.bg_label",
    "dataset.seg.transform.my_rand_crop.crop_bg_ratio",
    "dataset.seg.transform.bal_rand_crop.sample_threshold",
    "dataset.seg.transform.rand_rigid_trans.transition",
    "dataset.seg.transform.rand_rigid_trans.rotation",
    "dataset.seg.transform.rand_rigid_trans.rigid_ratio",
    "dataset.seg.transform.rand_rigid_trans.rigid_mode",
    "dataset.seg.transform.bspline_trans.bspline_order",
    "dataset.seg.transform.bspline_trans.mesh_size",
    "dataset.seg.transform.bspline_trans.deform_ratio",
    "dataset.seg.transform.bspline_trans.deform_scale",
    "dataset.seg.transform.bspline_trans.interpolator",
    "dataset.seg.transform.gaussian_blur.blur_ratio",
    "dataset.seg.transform.gaussian_blur.gaussian_var",
    "dataset.seg.transform.gaussian_blur.gaussian_width",
    "dataset.seg.transform.gaussian_blur.maximumError",
    "dataset.seg.transform.bilateral_filter.bilateral_ratio",
    "dataset.seg.transform.bilateral_filter.domain_sigma",
    "dataset.seg.transform.bilateral_filter.range_sigma",
    "dataset.seg.transform.bilateral_filter.number_of_range_gaussian_samples",
    "dataset.seg.transform.flicker_crop.bg_label",
    "dataset.seg.transform.flicker_crop.adopt_bg_ratio",
    "dataset.seg.transform.default.using_bspline_deform",
    "dataset.seg.transform.default.deform_target",
    "dataset.seg.transform.default.deform_scale",
    "tsk_set.model",
    "tsk_set.method_name",
    "tsk_set.gpu_ids",
    "tsk_set.batch_sz",
    "tsk_set.n_in_channel",
    "tsk_set.warmming_up_epoch",
    "tsk_set.output_taking_original_image_format",
    "tsk_set.path.expr_path",
    "tsk_set.path.logdir",
    "tsk_set.path.check_point_path",
    "tsk_set.path.model_load_path",
    "tsk_set.path.record_path",
    "tsk_set.optim.optim_type",
    "tsk_set.optim.lr",
    "tsk_set.optim.adam.beta",
    "tsk_set.optim.lr_scheduler.type",
    "tsk_set.optim.lr_scheduler.custom.step_size",
    "tsk_set.optim.lr_scheduler.custom.gamma",
    "tsk_set.optim.lr_scheduler.plateau.patience",
    "tsk_set.optim.lr_scheduler.plateau.factor",
    "tsk_set.optim.lr_scheduler.plateau.threshold",
    "tsk_set.optim.lr_scheduler.plateau.min_lr",
    "tsk_set.loss.type",
    "tsk_set.loss.ce.no_bg",
    "tsk_set.loss.ce.weighted",
    "tsk_set.loss.ce.class_weight",
    "tsk_set.loss.ce.reduced",
    "tsk_set.loss.ce.class_num",
    "tsk_set.loss.glncc.k_sz_set",
    "tsk_set.seg.class_num",
    "tsk_set.seg.use_bn",
    "tsk_set.seg.ensemble_during_the_test",
    "tsk_set.seg.seg_ensemble.warped_pth",
    "tsk_set.seg.seg_ensemble.warped_type",
    "tsk_set.seg.seg_ensemble.inv_phi_pth",
    "tsk_set.seg.seg_ensemble.inv_switcher",
    "tsk_set.seg.seg_ensemble.num_max",
    "tsk_set.seg.seg_ensemble.weight_for_orig_img",
    "tsk_set.seg.seg_ensemble.nomralize_type",
    "tsk_set.print_val_detail",
    "tsk_set.save_extra_running_resolution_3d_img",
    "tsk_set.use_physical_coord",
    "tsk_set.save_extra_3d_img",
    "tsk_set.debug.warped_pth",
    "tsk_set.debug.inv_phi_pth",
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


# ---------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Effect:
    """A key's values, each with what is observed under it."""

    key: str
    look: Callable[[Settings, Bench], Any]
    values: list[tuple[Any, Any]]
    more: dict[str, Any] = field(default_factory=dict)
    """What else the settings say."""


NO_WARMUP = {"tsk_set.warmming_up_epoch": 0, "tsk_set.optim.lr": 1.0, "tsk_set.epoch": 5}
STEP = {
    **NO_WARMUP,
    f"{SCHEDULE}.type": "custom",
    f"{SCHEDULE}.custom.step_size": 2,
    f"{SCHEDULE}.custom.gamma": 0.5,
}
BALANCED = {f"{TRANSFORM}.transform_seq": ["my_balanced_random_crop"]}
PLATEAU = {
    "tsk_set.optim.lr_scheduler.type": "plateau",
    "tsk_set.optim.lr": 1.0,
    f"{SCHEDULE}.plateau.patience": 0,
}
NO_GPU = "tsk_set.gpu_id is 7, but there is no such GPU; the CPU is used"

# One key a line, however long.
# fmt: off
EFFECTS = [
    Effect("dataset.max_num_for_loading", loaded_cases, [([-1, -1, -1, -1], (6, 6, 6, 6)), ([4, 3, 2, 1], (4, 3, 2, 1))]),
    Effect("dataset.img_after_resize", loaded_shape, [([-1, -1, -1], (16, 32, 32)), ([48, 16, 32], (32, 16, 48)), ([20, 16, 16], (16, 16, 32))]),
    Effect("dataset.normalize_via_percentage_clip", intensities, [(1, approx([-1, 1])), (0.8, approx([-1, 1.37])), (80, approx([-1, 1.37]))]),
    Effect("dataset.normalize_via_range_clip", intensities, [([-1, -1], approx([-1.73, 1.73])), ([1000, 3000], approx([-1, 1]))]),
    Effect(f"{SEG}.patch_size", patch_shape, [([16, 16, 16], (16, 16, 16)), ([8, 16, 32], (32, 16, 8))], {"tsk_set.network.num_stages": None}),
    Effect(f"{SEG}.interested_label_list", classes_of_blobs, [([-1], (1, 2, 0)), ([0, 7], (0, 1, 0)), ([7, 1], (1, 2, 0))]),
    Effect(f"{SEG}.use_whole_img_as_input", patch_shape, [(False, (16, 16, 16)), (True, (48, 48, 48))]),
    Effect(f"{SEG}.use_whole_img_as_input", window_calls, [(False, (25, (16, 16, 16))), (True, (1, (48, 48, 16)))]),
    Effect(f"{SEG}.num_crop_per_class_per_train_img", centres_of, [(-1, "many"), (1, 3), (2, 6)], {**BALANCED, **PLAIN}),
    Effect(f"{SEG}.partition.overlap_size", window_calls, [([0, 0, 0], (9, (16, 16, 16))), ([0, 4, 0], (15, (16, 16, 16)))]),
    Effect(f"{SEG}.partition.padding_mode", padding, [("constant", "floor"), ("reflect", "reflect"), ("edge", "edge"), ("wrap", "wrap")]),
    Effect(f"{TRANSFORM}.transform_seq", even_classes, [(["my_balanced_random_crop"], "even"), (["balanced_random_crop"], "even"), (["my_random_crop"], "foreground by size"), (["flicker_crop"], "foreground by size")]),
    Effect(f"{TRANSFORM}.transform_seq", augmentation_of, [(["my_random_crop"], (False, False)), (["random_rigid_transform"], (True, True)), (["bspline_transform"], (True, True)), (["gaussian_blur"], (False, True)), ([], (False, False))], WHOLE),
    Effect(f"{TRANSFORM}.my_bal_rand_crop.scale_ratio", least_share_of_class, [(0.0, 0.33), (0.5, 0.67)]),
    Effect(f"{TRANSFORM}.my_bal_rand_crop.bg_th_ratio", has_foreground, [(0.0, True), (1.0, False)]),
    Effect(f"{TRANSFORM}.bal_rand_crop.sample_threshold", least_share_of_class, [([0, 0], 0.33), ([0, 0.01], 0.67)]),
    Effect(f"{CROP}.scale_ratio", least_foreground, [(0.0, 0.08), (0.2, 0.31), (0.5, 0.62)]),
    Effect(f"{CROP}.crop_bg_ratio", background_share, [(0.1, approx(0.1, abs=0.07)), (0.8, approx(0.8, abs=0.1))]),
    Effect(f"{TRANSFORM}.flicker_crop.adopt_bg_ratio", background_share, [(0.1, approx(0.1, abs=0.07)), (0.8, approx(0.8, abs=0.1))]),
    Effect(f"{RIGID}.transition", shifts, [([0, 0, 6], approx([6, 0, 0], abs=1.2)), ([6, 0, 0], approx([0, 0, 6], abs=1.2))], MOVES),
    Effect(f"{RIGID}.rotation", turns, [([30, 0, 0], approx([0, 0, 30], abs=6)), ([0, 0, 12], approx([12, 0, 0], abs=3))], {**MOVES, f"{RIGID}.transition": [0, 0, 0]}),
    Effect(f"{RIGID}.rigid_ratio", moved_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{RIGID}.rigid_mode", what_moves, [("both", (True, True, True)), ("img", (True, False, False)), ("image", (True, False, False)), ("seg", (False, True, False)), ("label", (False, True, False))], MOVES),
    Effect(f"{SPLINE}.mesh_size", kinks, [([1, 1, 4], (6, 0, 0)), ([2, 1, 1], (0, 0, 2))], BENDS),
    Effect(f"{SPLINE}.bspline_order", kinks, [(1, (2, 2, 2)), (3, (10, 10, 10))], BENDS),
    Effect(f"{SPLINE}.deform_scale", displacement, [(1.0, approx(1, rel=0.15)), (4.0, approx(4, rel=0.15))], {**BENDS, f"{SPLINE}.mesh_size": [3, 3, 3]}),
    Effect(f"{SPLINE}.deform_ratio", moved_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{SPLINE}.interpolator", curvature_kept, [("BSpline", True), ("Linear", False)], BENDS),
    Effect(f"{BLUR}.gaussian_var", blurred, [(1.0, approx(1, rel=0.15)), (4.0, approx(4, rel=0.15))], WHOLE),
    Effect(f"{BLUR}.blur_ratio", changed_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{BILATERAL}.bilateral_ratio", changed_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], {**WHOLE, f"{BILATERAL}.range_sigma": 9.0, f"{BILATERAL}.domain_sigma": 0.4}),
    Effect(f"{BILATERAL}.domain_sigma", edge_after, [(0.2, "kept"), (1.0, "smoothed")], {**WHOLE, f"{BILATERAL}.range_sigma": 9.0}),
    Effect(f"{BILATERAL}.range_sigma", edge_after, [(0.06, "kept"), (9.0, "smoothed")], {**WHOLE, f"{BILATERAL}.domain_sigma": 1.0}),
    Effect(f"{TRANSFORM}.default.using_bspline_deform", augmentation_of, [(False, (False, False)), (True, (True, True))], WHOLE),
    Effect(f"{TRANSFORM}.default.deform_scale", is_wide, [(1.0, False), (12.0, True)], WHOLE),
    Effect("tsk_set.gpu_ids", computes_on, [(-1, ("cpu", [])), (7, ("cpu", [NO_GPU])), ([7], ("cpu", [NO_GPU]))]),
    Effect("tsk_set.batch_sz", batch_size, [(3, 3), ([4, 1, 1, 1], 4)]),
    Effect("tsk_set.n_in_channel", channels_in, [(1, 1), (6, 6)]),
    Effect("tsk_set.optim.optim_type", first_steps, [("adam", adam(0.1, 0.9)), ("sgd", approx([0.4 * 1.99, 0.4 * 0.99**2], rel=0.01))], {"tsk_set.optim.lr": 0.1}),
    Effect("tsk_set.optim.lr", first_steps, [(0.1, adam(0.1, 0.9)), (0.03, adam(0.03, 0.9))]),
    Effect("tsk_set.optim.adam.beta", first_steps, [(0.9, adam(0.1, 0.9)), (0.5, adam(0.1, 0.5))], {"tsk_set.optim.lr": 0.1}),
    Effect(f"{SCHEDULE}.type", rates, [("custom", [1, 1, 0.5, 0.5, 0.25]), ("plateau", [1, 1, 1, 1, 1])], STEP),
    Effect(f"{SCHEDULE}.custom.step_size", rates, [(1, [1, 0.5, 0.25, 0.125, 0.0625]), (3, [1, 1, 1, 0.5, 0.5])], STEP),
    Effect(f"{SCHEDULE}.custom.gamma", rates, [(0.5, [1, 1, 0.5, 0.5, 0.25]), (0.1, [1, 1, 0.1, 0.1, 0.01])], STEP),
    Effect("tsk_set.warmming_up_epoch", rates, [(0, [1, 1, 1, 1, 1]), (2, [0.1, 0.55, 1, 1, 1])], {**STEP, f"{SCHEDULE}.custom.step_size": 50}),
    Effect(f"{SCHEDULE}.plateau.patience", plateau, [(0, [1, 1, 1, 1, 1, 0.5, 0.25, 0.125]), (1, [1, 1, 1, 1, 1, 1, 0.5, 0.5])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.factor", plateau, [(0.1, [1, 1, 1, 1, 1, 0.1, 0.01, 0.001])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.threshold", plateau, [(0.1, [1, 1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.min_lr", plateau, [(0.3, [1, 1, 1, 1, 1, 0.5, 0.3, 0.3])], PLATEAU),
    Effect("tsk_set.loss.type", loss, [("ce", CE), ("focal_loss", FOCAL), ("dice_loss", DICE), ("gdice_loss", GENERALISED_DICE), ("tdice_loss", TVERSKY)]),
    Effect("tsk_set.loss.ce.no_bg", loss, [(False, CE), (True, approx(HARD))], {"tsk_set.loss.type": "ce"}),
    Effect("tsk_set.loss.ce.class_weight", loss, [([1, 1, 1], CE), ([1, 2, 5], WEIGHTED)], {"tsk_set.loss.type": "ce"}),
    Effect("tsk_set.loss.ce.weighted", loss, [(False, CE), (True, WEIGHTED)], {"tsk_set.loss.type": "ce", "tsk_set.loss.ce.class_weight": [1, 2, 5]}),
    Effect("tsk_set.seg.class_num", outputs, [(3, 3), (-1, 3)]),
    Effect("tsk_set.seg.use_bn", norms, [(True, ["BatchNorm3d"]), (False, [])]),
]

NOTHING: list[tuple[str, Any]] = [
    ("dataset.spacing_to_refer", [1, 1, 1]),
    (f"{SEG}.partition.mode", "eval"),
    (f"{SEG}.partition.flicker_range", 3),
    (f"{TRANSFORM}.shared_info", {"label_list": [0, 1], "label_density": [0.9, 0.1], "img_size": [9, 9, 9]}),
    (f"{TRANSFORM}.patch_size", [128, 128, 32]),
    (f"{TRANSFORM}.default.deform_target", "global"),
    (f"{BLUR}.gaussian_width", 1),
    (f"{BLUR}.maximumError", 0.9),
    (f"{BILATERAL}.number_of_range_gaussian_samples", 50),
    ("tsk_set.output_taking_original_image_format", False),
    *((f"tsk_set.path.{name}", "x") for name in ("expr_path", "logdir", "check_point_path", "model_load_path", "record_path")),
    ("tsk_set.loss.ce.reduced", False),
    ("tsk_set.loss.ce.class_num", 57),
    ("tsk_set.loss.glncc.k_sz_set", [9]),
    ("tsk_set.seg.ensemble_during_the_test", True),
    *((f"tsk_set.seg.seg_ensemble.{name}", "x") for name in ("warped_pth", "warped_type", "inv_phi_pth", "inv_switcher", "num_max", "weight_for_orig_img", "nomralize_type")),
    ("tsk_set.print_val_detail", True),
    ("tsk_set.save_extra_running_resolution_3d_img", True),
    ("tsk_set.use_physical_coord", True),
    ("tsk_set.save_extra_3d_img", True),
    ("tsk_set.debug.warped_pth", "x"),
    ("tsk_set.debug.inv_phi_pth", "x"),
]
"""Keys that cannot mean anything here: named in one warning, and nothing else is different."""

REFUSED: list[tuple[str, Any, str]] = [
    ("dataset.task_type", "reg", 'task_type: "reg" is not "seg"'),
    ("tsk_set.model", "reg_net", '"reg_net" is not "seg_net"; for registration, use EasyReg'),
    ("tsk_set.method_name", "mermaid", '"mermaid" is not "seg_unet"'),
    (f"{CROP}.bg_label", 3, "bg_label: 3 is not 0; background is label value 0"),
    (f"{TRANSFORM}.flicker_crop.bg_label", 3, "bg_label: 3 is not 0; background is label value 0"),
    ("tsk_set.loss.type", "ncc", '"ncc" is not one of dice_ce, ce'),
]
"""Keys with one value that holds here anyway, and another that cannot be had."""
# fmt: on


ROWS = [
    pytest.param(effect, value, expected, id=f"{effect.key}-{value}-{effect.look.__name__}")
    for effect in EFFECTS
    for value, expected in effect.values
]


@pytest.mark.parametrize(("effect", "value", "expected"), ROWS)
def test_a_key_has_its_effect_where_it_acts(effect, value, expected, bench):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MonaisegWarning)
        settings = settings_with(effect.key, value, effect.more)

    assert effect.look(settings, bench) == expected


@pytest.mark.parametrize(
    "effect", [e for e in EFFECTS if len(e.values) > 1], ids=lambda e: f"{e.key}-{e.look.__name__}"
)
def test_the_table_tells_a_keys_values_apart(effect):
    expected = [repr(what) for _, what in effect.values]
    assert len(set(expected)) > 1 or effect.key == "tsk_set.seg.class_num"


@pytest.mark.parametrize(("key", "value"), NOTHING, ids=[key for key, _ in NOTHING])
def test_a_key_that_cannot_mean_anything_is_named_and_changes_nothing(key, value):
    section = key.removeprefix(f"{TRANSFORM}.").split(".")[0]
    more = {f"{TRANSFORM}.transform_seq": [NAMES[section]]} if section in NAMES else {}
    more |= {f"{TRANSFORM}.transform_seq": []} if section == "default" else {}

    with pytest.warns(MonaisegWarning) as caught:
        settings = settings_with(key, value, more)

    (named,) = [str(warning.message) for warning in caught]
    assert any(f"{'.'.join(key.split('.')[:depth])}: " in named for depth in range(2, 6))
    without = {**SMALL, **OURS_OFF, **more}
    if section == "gaussian_blur":
        del without[f"{SEG}.augmentation.smoothing.probability"]
    if section == "default":
        without[f"{TRANSFORM}.default.using_bspline_deform"] = True
    assert settings == settings_from_dict(document(without))


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[key for key, *_ in REFUSED])
def test_a_value_that_cannot_be_had_is_refused(key, value, message):
    with pytest.raises(SettingsError) as caught:
        settings_with(key, value)
    assert message in str(caught.value)


def test_a_number_of_classes_that_is_not_the_datas_is_refused_with_the_right_one(bench):
    with pytest.raises(
        SettingsError, match="57 is not the number of labels and background; use 3, or -1"
    ):
        bench.task.label_table(settings_with("tsk_set.seg.class_num", 57))


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4]])
def test_more_or_fewer_class_weights_than_classes_are_refused_by_the_label_table(bench, weights):
    settings = settings_with("tsk_set.loss.ce.class_weight", weights)
    with pytest.raises(SettingsError, match=f"class_weight: {len(weights)} weights for 3 classes"):
        bench.task.label_table(settings)


def test_every_key_of_easyreg_stands_in_a_table():
    tables = {*(effect.key for effect in EFFECTS), *(row[0] for row in (*NOTHING, *REFUSED))}
    assert tables == set(KEYS)
