"""Layout: the settings of an option."""

from __future__ import annotations

from typing import Any

from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option
from monaiseg.settings import PlanningSettings, Settings, settings_from_dict


def augmentation(passes: float, rules: PlanningSettings, *, mirror: bool) -> dict[str, Any]:
    """Augmentation for scans that are seen `passes` times: paths in `dataset.seg` and their values."""
    if passes < rules.strongly_augmented_passes:
        enabled = passes >= rules.augmented_passes
        return {"augmentation": {"enabled": enabled}}
    strong = rules.strong_augmentation.model_dump(mode="json")
    if not mirror:
        strong["flip"]["left_right"] = 0.0
    if strong["flip"]["left_right"] == 0:
        return {"augmentation": strong}
    return {"augmentation": strong, "partition.flips": ["left_right"]}


def layout(
    option: Option,
    fingerprint: Fingerprint,
    limits: Limits,
    rules: PlanningSettings,
    overlap: float | None = None,
) -> Settings:
    """Settings of an option, as far as they do not depend on the number of steps."""
    network = rules.network_for(limits.device)
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
                "gpu_id": -1 if limits.device == "cpu" else 0,
                "batch_size": option.batch_size,
                "optim": rules.optim.model_dump(mode="json"),
                "network": {**network.model_dump(mode="json"), "channels": option.channels},
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
