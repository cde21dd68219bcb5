"""The keys of EasyReg's settings files, and what each means here.

A *path* is the dotted path of a key (`tsk_set.optim.lr`). An EasyReg key is one of our own keys, has another name here
(`RENAMED`), has values with other names (`VALUES`), asks for what is always the case here (`GRANTED`), has no effect
here (`IGNORED`), is not supported here (`REFUSED`), is a parameter of a transform (`TRANSFORMS`), or changes its
meaning and has a function in `easyreg`. `docs/migration.md` describes this for users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RENAMED = {
    "tsk_set.batch_sz": "tsk_set.batch_size",
    "tsk_set.check_best_model_period": "tsk_set.checkpoint_period",
    "tsk_set.criticUpdates": "tsk_set.gradient_accumulation_steps",
    "tsk_set.epoch": "tsk_set.epochs",
    "tsk_set.gpu_ids": "tsk_set.gpu_id",
    "tsk_set.loss.ce.no_bg": "tsk_set.loss.ce.include_background",
    "tsk_set.n_in_channel": "dataset.num_channels",
    "tsk_set.optim.lr_scheduler.custom.gamma": "tsk_set.optim.lr_scheduler.step.gamma",
    "tsk_set.optim.lr_scheduler.custom.step_size": "tsk_set.optim.lr_scheduler.step.step_size",
    "tsk_set.save_3d_img_on": "tsk_set.save_running_resolution_3d_img",
    "tsk_set.seg.use_bn": "tsk_set.network.norm",
    "tsk_set.warmming_up_epoch": "tsk_set.warmup_epochs",
    "dataset.seg.num_crop_per_class_per_train_img": "dataset.seg.sampling.centres_per_class",
}
"""EasyReg's path -> ours."""

VALUES: dict[str, dict[Any, Any]] = {
    "dataset.seg.partition.padding_mode": {"edge": "replicate", "wrap": "circular"},
    "dataset.seg.transform.bspline_trans.interpolator": {"BSpline": "bspline", "Linear": "linear"},
    "dataset.seg.transform.rand_rigid_trans.rigid_mode": {"img": "image", "seg": "label"},
    "tsk_set.loss.ce.no_bg": {True: False, False: True},
    "tsk_set.loss.type": {
        "focal_loss": "focal",
        "dice_loss": "dice",
        "gdice_loss": "gdice",
        "tdice_loss": "tversky",
    },
    "tsk_set.optim.lr_scheduler.type": {"custom": "step"},
    "tsk_set.seg.use_bn": {True: "batch", False: "none"},
}
"""EasyReg's path -> EasyReg's value -> ours."""

GRANTED: dict[str, Any] = {
    "dataset.seg.partition.flicker_range": 0,
    "dataset.seg.partition.mode": "pred",
    "dataset.seg.transform.flicker_crop.bg_label": 0,
    "dataset.seg.transform.my_rand_crop.bg_label": 0,
    "tsk_set.loss.ce.reduced": True,
    "tsk_set.method_name": "seg_unet",
    "tsk_set.model": "seg_net",
    "tsk_set.output_taking_original_image_format": True,
    "tsk_set.seg.ensemble_during_the_test": False,
}
"""EasyReg's path -> the value that asks for what is always the case here. Other values are ignored or refused."""

_REGISTRATION = "it belongs to registration"
_WARPED_COPIES = (
    "it needs images warped by registration; `flips` of Predictor averages mirrored images instead"
)
_GENERATED = "EasyReg wrote it while it ran"
_EXACT_KERNEL = "the filter here is not approximated"
IGNORED = {
    "dataset.seg.partition.flicker_range": "windows are not shifted at random",
    "dataset.seg.partition.mode": "label maps are always scored whole",
    "dataset.seg.transform.bilateral_filter.number_of_range_gaussian_samples": _EXACT_KERNEL,
    "dataset.seg.transform.default.deform_target": "patches are deformed after they are cut",
    "dataset.seg.transform.gaussian_blur.gaussian_width": _EXACT_KERNEL,
    "dataset.seg.transform.gaussian_blur.maximumError": _EXACT_KERNEL,
    "dataset.seg.transform.patch_size": "dataset.seg.patch_size sets it",
    "dataset.seg.transform.shared_info": _GENERATED,
    "dataset.spacing_to_refer": _REGISTRATION,
    "tsk_set.debug": _WARPED_COPIES,
    "tsk_set.loss.ce.class_num": "tsk_set.seg.class_num sets it",
    "tsk_set.loss.ce.reduced": "a loss is one number",
    "tsk_set.loss.glncc": _REGISTRATION,
    "tsk_set.output_taking_original_image_format": "predictions always have the grid of the image",
    "tsk_set.path": _GENERATED,
    "tsk_set.print_val_detail": "every label is logged",
    "tsk_set.save_extra_3d_img": _REGISTRATION,
    "tsk_set.save_extra_running_resolution_3d_img": _REGISTRATION,
    "tsk_set.seg.ensemble_during_the_test": _WARPED_COPIES,
    "tsk_set.seg.seg_ensemble": _WARPED_COPIES,
    "tsk_set.use_physical_coord": _REGISTRATION,
}
"""EasyReg's path of a key or a whole section -> why it has no effect here."""

REFUSED = {
    "dataset.seg.transform.flicker_crop.bg_label": "background is label value 0 here",
    "dataset.seg.transform.my_rand_crop.bg_label": "background is label value 0 here",
    "tsk_set.method_name": "there is one method here",
    "tsk_set.model": "for registration, use EasyReg",
}
"""EasyReg's path -> why only the granted value is supported here."""


@dataclass(frozen=True)
class Listed:
    """What a name in `transform_seq` means. Our paths are relative to `dataset.seg`."""

    section: str
    """EasyReg's section with its parameters."""
    parameters: dict[str, str] = field(default_factory=dict)
    """EasyReg's parameter -> our path."""
    says: dict[str, Any] = field(default_factory=dict)
    """Our path -> its value when the name is listed, unless a parameter says otherwise."""


TRANSFORM_SECTION = "dataset.seg.transform"
"""Path of the section with the parameters of the transforms."""

TRANSFORMS = {
    "my_balanced_random_crop": Listed(
        "my_bal_rand_crop",
        {
            "scale_ratio": "sampling.least_class_share",
            "bg_th_ratio": "sampling.least_patch_share",
        },
        {"sampling.method": "balanced"},
    ),
    "balanced_random_crop": Listed(
        "bal_rand_crop",
        {"sample_threshold": "sampling.least_patch_share"},
        {"sampling.method": "balanced"},
    ),
    "my_random_crop": Listed(
        "my_rand_crop",
        {"scale_ratio": "sampling.least_class_share", "crop_bg_ratio": "sampling.neg"},
        {"sampling.method": "pos_neg"},
    ),
    "flicker_crop": Listed(
        "flicker_crop", {"adopt_bg_ratio": "sampling.neg"}, {"sampling.method": "pos_neg"}
    ),
    "random_rigid_transform": Listed(
        "rand_rigid_trans",
        {
            "rigid_ratio": "augmentation.rigid.probability",
            "rotation": "augmentation.rigid.rotation",
            "transition": "augmentation.rigid.translation",
            "rigid_mode": "augmentation.rigid.target",
        },
        {"augmentation.rigid.probability": 0.5},
    ),
    "bspline_transform": Listed(
        "bspline_trans",
        {
            "deform_ratio": "augmentation.deformation.probability",
            "deform_scale": "augmentation.deformation.displacement",
            "mesh_size": "augmentation.deformation.mesh_size",
            "bspline_order": "augmentation.deformation.order",
            "interpolator": "augmentation.deformation.interpolation",
        },
        {"augmentation.deformation.probability": 0.5},
    ),
    "gaussian_blur": Listed(
        "gaussian_blur",
        {
            "blur_ratio": "augmentation.smoothing.probability",
            "gaussian_var": "augmentation.smoothing.sigma",
        },
        {"augmentation.smoothing.probability": 1.0},
    ),
    "bilateral_filter": Listed(
        "bilateral_filter",
        {
            "bilateral_ratio": "augmentation.bilateral.probability",
            "domain_sigma": "augmentation.bilateral.domain_sigma",
            "range_sigma": "augmentation.bilateral.range_sigma",
        },
        {"augmentation.bilateral.probability": 1.0},
    ),
}
"""Names that `transform_seq` may list. Without parameters, a listed transform is as frequent as in EasyReg; its other
defaults are ours."""

_MORE_KEYS = (
    f"{TRANSFORM_SECTION}.transform_seq",
    f"{TRANSFORM_SECTION}.default.using_bspline_deform",
    f"{TRANSFORM_SECTION}.default.deform_scale",
    "dataset.normalize_via_percentage_clip",
    "dataset.normalize_via_range_clip",
    "tsk_set.loss.ce.weighted",
)
KEYS = frozenset(
    {
        *RENAMED,
        *GRANTED,
        *IGNORED,
        *(
            f"{TRANSFORM_SECTION}.{listed.section}.{parameter}"
            for listed in TRANSFORMS.values()
            for parameter in listed.parameters
        ),
        *_MORE_KEYS,
    }
)
"""Paths that EasyReg knows and our own spelling does not."""


def names_at(section: str) -> list[str]:
    """Keys of a section (a path, "" for the whole file) that EasyReg knows and our own spelling does not.

    >>> names_at("tsk_set.optim.lr_scheduler")
    ['custom']
    """
    inside = f"{section}." if section else ""
    return sorted({path[len(inside) :].split(".")[0] for path in KEYS if path.startswith(inside)})
