"""Layout: the settings that an option stands for."""

from __future__ import annotations

from typing import Any

from monaiseg.planning.costs import OVERLAPS
from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option
from monaiseg.settings import Settings, settings_from_dict

LEARNING_RATE = 4e-3
WARMUP_EPOCHS = 0.5
AVERAGED_PARTS = 15
FEW_PASSES, MANY_PASSES = 20, 100
"""Times that each training scan is seen: below the first, augmentation is off; from the second on it is strong, since a
network that sees no more than the default makes of them learns them by heart (benchmarks/RESULTS.md)."""
STRONG = {"rotation": {"degrees": 30.0}, "scaling": {"factor": [0.7, 1.4]}}
"""What strong augmentation has in place of the defaults; it mirrors left to right too, where labels allow it."""

COMMIT_SECONDS, LOSS_SECONDS = 60, 600
"""Epochs that take longer than the first end with a checkpoint each; no more than the second is lost with a power cut."""


def augment(seg: dict[str, Any], passes: float, *, mirror: bool) -> None:
    """Put the augmentation that goes with so many passes into `dataset.seg`."""
    change = seg["augmentation"]
    change["enabled"] = passes >= FEW_PASSES
    if passes >= MANY_PASSES:
        for name, values in STRONG.items():
            change[name] |= values
        if mirror:
            change["flip"]["left_right"] = 0.5
            seg["partition"]["flips"] = ["left_right"]


def layout(
    option: Option, fingerprint: Fingerprint, limits: Limits, overlap: float = OVERLAPS[0]
) -> Settings:
    """Settings of an option: all that does not depend on how many steps it makes."""
    return settings_from_dict(
        {
            "dataset": {
                "axis_order": "xyz",
                "num_channels": fingerprint.num_channels,
                **_reading(fingerprint),
                "seg": {"patch_size": option.patch_shape, "partition": {"overlap": overlap}},
            },
            "tsk_set": {
                "gpu_id": -1 if limits.device == "cpu" else 0,
                "batch_size": option.batch_size,
                "optim": {"optim_type": "adamw", "lr": LEARNING_RATE},
                "network": {
                    "variant": option.variant,
                    "channels": option.channels,
                    "norm": "group" if limits.device == "cpu" else "instance",
                    "deep_supervision_heads": 0 if limits.device == "cpu" else 2,
                },
            },
        }
    )


def _reading(fingerprint: Fingerprint) -> dict[str, Any]:
    """What of `dataset` says how volumes are read: by what they were prepared, or else at the median voxel size.

    That stands in the settings even where all scans have it: new ones may have another.
    """
    if fingerprint.prepared is None:
        window = fingerprint.window and {"clip_range": fingerprint.window, "method": "minmax"}
        return {"spacing": fingerprint.spacing, "intensity": window or {}}
    known = fingerprint.prepared
    return {
        "spacing": known["spacing"],
        "img_after_resize": known["img_after_resize"] or (-1, -1, -1),
        "intensity": known["intensity"],
    }


def averaging_decay(steps: int) -> float:
    """Decay whose memory is a fifteenth of the training, within 10 and 500 steps."""
    return round(1 - 1 / min(max(steps / AVERAGED_PARTS, 10), 500), 4)
