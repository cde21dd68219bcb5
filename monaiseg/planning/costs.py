"""Costs: seconds and memory that a step of an option takes on a measured machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from monaiseg.planning.fingerprint import Fingerprint
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.options import Option
from monaiseg.planning.probes import StepProbe


def step_cost(option: Option, fingerprint: Fingerprint, measured: Measurements) -> StepProbe:
    """The cost of a step: as measured or, if it was not, estimated from other widths and patches.

    Seconds and features are proportional to the number of voxels. Between widths they follow a power of the width.
    """
    if (exact := exact_cost(option, fingerprint, measured)) is not None:
        return exact
    near: dict[int, StepProbe] = {}  # for each width, the probe with the most similar batch
    voxels = option.patch_voxels * option.batch_size
    for probe in measured.steps:
        other = near.get(probe.channels)
        if probe.variant == option.variant and (
            other is None or _distance(probe, voxels) < _distance(other, voxels)
        ):
            near[probe.channels] = probe

    def at(value: Callable[[StepProbe], float]) -> float:
        return _by_power({width: value(probe) for width, probe in near.items()}, option.channels)

    parameters = at(lambda probe: probe.parameters)
    features = at(lambda probe: max(probe.step_bytes - 16 * probe.parameters, 1) / probe.voxels)
    return StepProbe(
        option.variant,
        option.channels,
        option.patch_shape,
        option.batch_size,
        fingerprint.num_channels,
        fingerprint.num_classes,
        step_seconds=at(lambda probe: probe.step_seconds / probe.voxels) * voxels,
        window_seconds=at(lambda probe: probe.window_seconds / math.prod(probe.patch_shape))
        * option.patch_voxels,
        step_bytes=round(features * voxels + 16 * parameters),  # weight, gradient, two moments
        parameters=round(parameters),
    )


def exact_cost(
    option: Option, fingerprint: Fingerprint, measured: Measurements
) -> StepProbe | None:
    """The measured cost of exactly this option, or None if it was not measured."""
    data = (fingerprint.num_channels, fingerprint.num_classes)
    for probe in measured.steps:
        other = Option(probe.variant, probe.channels, probe.patch_shape, probe.batch_size)
        if other == option and (probe.num_channels, probe.num_classes) == data:
            return probe
    return None


def _distance(probe: StepProbe, voxels: int) -> float:
    return abs(math.log(probe.voxels / voxels))


def _by_power(values: Mapping[int, float], width: int) -> float:
    """Interpolate between measured widths by a power law, and extrapolate with the nearest such power law.

    >>> _by_power({16: 1.0, 32: 4.0}, 64)
    16.0
    """
    widths = sorted(values)
    if len(widths) == 1:
        return values[widths[0]] * (width / widths[0]) ** 2
    upper = next((n for n in range(1, len(widths)) if width <= widths[n]), len(widths) - 1)
    a, b = widths[upper - 1], widths[upper]
    power = math.log(values[b] / values[a]) / math.log(b / a)
    return float(values[a] * (width / a) ** power)
