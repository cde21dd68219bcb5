"""Layout: the settings of an option."""

from __future__ import annotations

from typing import Any

from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option
from monaiseg.settings import (
    AugmentationSettings,
    PlanningSettings,
    Settings,
    settings_from_dict,
)


def augmentation(
    passes: float, rules: PlanningSettings, *, mirror: bool, with_atlas: bool = False
) -> dict[str, Any]:
    """Augmentation for scans that are seen `passes` times: paths in `dataset.seg` and their values.

    An atlas of a mirrored and of an unmirrored body is the same where sides can be exchanged, so with an atlas scans are
    mirrored however seldom they are seen: it makes two bodies of one.
    """
    if passes < rules.strongly_augmented_passes:
        enabled = passes >= rules.augmented_passes
        if not (with_atlas and mirror):
            return {"augmentation": {"enabled": enabled}}
        kept = {} if enabled else nothing_but_mirrors()
        return {"augmentation": kept | {"enabled": True, "flip": {"left_right": 0.5}}}
    strong = rules.strong_augmentation.model_dump(mode="json")
    if not mirror:
        strong["flip"]["left_right"] = 0.0
    if strong["flip"]["left_right"] == 0:
        return {"augmentation": strong}
    return {"augmentation": strong, "partition.flips": ["left_right"]}


def nothing_but_mirrors() -> dict[str, Any]:
    """Settings that switch off every augmentation other than mirroring."""
    default = AugmentationSettings().model_dump(mode="json")
    return {
        name: {"probability": 0.0} for name, kind in default.items() if "probability" in str(kind)
    }


def layout(
    option: Option,
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
    overlap: float | None = None,
) -> Settings:
    """Settings of an option, as far as they do not depend on the number of steps."""
    network = rules.network_for(limits.device).model_dump(mode="json")
    with_atlas = fingerprint.starts_from_atlas(rules)
    scores = option.patch_voxels * option.batch_size * fingerprint.num_classes
    if with_atlas:
        network |= {"atlas": True, "max_channels": rules.most_atlas_channels}
    at_some = scores > rules.most_scores and not network["deep_supervision_heads"]
    return settings_from_dict(
        {
            "dataset": {
                "axis_order": "xyz",
                "num_channels": fingerprint.num_channels,
                **_reading(fingerprint),
                "seg": {
                    "patch_size": option.patch_shape,
                    "partition": {"overlap": rules.overlaps[0] if overlap is None else overlap},
                },
            },
            "tsk_set": {
                "gpu_id": -1 if limits.device == "cpu" else limits.gpu_id,
                "batch_size": option.batch_size,
                "optim": rules.optim.model_dump(mode="json"),
                "loss": {"only_present": at_some, "voxels": rules.loss_voxels if at_some else None},
                "network": {**network, "channels": option.channels},
            },
        }
    )


def _reading(fingerprint: Fingerprint) -> dict[str, Any]:
    """How volumes are read, as keys of `dataset`: as they were preprocessed, or else at the median voxel size.

    The voxel size is in the settings even if all scans have it, since new scans may have another.
    """
    if fingerprint.preprocessing is None:
        window = fingerprint.window and {"clip_range": fingerprint.window, "method": "minmax"}
        return {"spacing": fingerprint.spacing, "intensity": window or {}}
    known = fingerprint.preprocessing
    return {
        "spacing": known["spacing"],
        "img_after_resize": known["img_after_resize"] or (-1, -1, -1),
        "intensity": known["intensity"],
    }


def averaging_decay(steps: int, rules: PlanningSettings) -> float:
    """Decay of a moving average of the weights that covers a share of the run, within bounds."""
    least, most = rules.averaged_steps
    return round(1 - 1 / min(max(steps * rules.averaged_share, least), most), 4)
