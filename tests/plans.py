"""Made-up machines and data tasks to plan for."""

from __future__ import annotations

import math
from dataclasses import replace

from monaiseg.errors import SettingsError
from monaiseg.planning.fingerprint import Fingerprint, Scan
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import patch_ladder
from monaiseg.planning.planner import Plan, plan_settings
from monaiseg.planning.probes import DataProbe, StepProbe
from monaiseg.settings.planning import PlanningSettings

GIB = 2**30
GPU = Limits(60, 8, 16, gpu_memory_gb=8)
RULES = PlanningSettings()


def machine(
    fingerprint: Fingerprint, speed: float = 1.0, widths: tuple[int, ...] = (16, 32, 64)
) -> Measurements:
    """A machine that computes 1 million voxels a second at width 16, and goes slower with the square of the width."""
    patch = patch_ladder(fingerprint, RULES)[0]
    voxels = 2 * math.prod(patch)

    def probe(width: int) -> StepProbe:
        seconds = voxels / 1e6 * (width / 16) ** 2 / speed
        parameters = 350_000 * (width // 16) ** 2
        return StepProbe(
            "folded",
            width,
            patch,
            2,
            fingerprint.num_channels,
            fingerprint.num_classes,
            step_seconds=seconds,
            window_seconds=seconds / 6,
            step_bytes=voxels * (8 * width + 12 * fingerprint.num_classes) + 16 * parameters,
            parameters=parameters,
        )

    data = DataProbe(4.0, GIB // 2, 1e-7, 5e-8)
    return Measurements("made up", 2, "cpu", data, tuple(probe(width) for width in widths))


def even(shape, count=20, spacing=(1.0, 1.0, 1.0), classes=3) -> Fingerprint:
    """A data task of equal scans, a fifth of them for validation."""
    scans = (Scan(shape, spacing),) * count
    return Fingerprint(scans, scans[: count // 5], 1, classes)


def planned(fingerprint: Fingerprint, limits: Limits, speed: float = 1.0) -> Plan | None:
    """A plan on the made-up machine; None where it is refused."""
    try:
        return plan_settings(fingerprint, limits, machine(fingerprint, speed), RULES)
    except SettingsError:
        return None


def on_gpu(measured: Measurements) -> Measurements:
    steps = tuple(replace(step, variant="standard") for step in measured.steps)
    return replace(measured, device="cuda", steps=steps)
