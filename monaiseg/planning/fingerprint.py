"""The fingerprint of a data task: what `dataset.json` says of its scans, as far as a plan asks for it; no volume is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from monaiseg.data import (
    CaseFacts,
    ChannelFacts,
    DataTask,
    Shape,
    Spacing,
    median_spacing,
    padded_up,
    resampled_shape,
)

AIR = -500.0
"""Hounsfield units: lungs and what is around the patient lie below."""
SAME_SPACING = 1e-3
"""mm within which MONAI's `Spacingd` leaves a scan as it is (its `AFFINE_TOL`)."""


@dataclass(frozen=True)
class Scan:
    """Shape in voxels and voxel size in mm, along X, Y, Z."""

    shape: Shape
    spacing: Spacing

    @classmethod
    def of(cls, facts: CaseFacts) -> Scan:
        """From a case's facts, which go by the axes of its file."""
        return cls(*facts.grid.along_ras)


@dataclass(frozen=True)
class Fingerprint:
    """What a plan asks of a data task."""

    train: tuple[Scan, ...]
    val: tuple[Scan, ...]
    num_channels: int
    num_classes: int
    can_mirror: bool = True
    """Whether it is known what each label becomes in a left-right mirror image."""
    window: tuple[float, float] | None = None
    """Where scans are in Hounsfield units: the range of those that the labelled structures have."""
    preprocessing: Mapping[str, Any] | None = None
    """By what of `dataset` the volumes that training reads were resampled and normalised already; None: by nothing."""

    @classmethod
    def of(cls, task: DataTask) -> Fingerprint:
        """From the facts of a data task's training and validation cases."""
        splits = {
            split: tuple(Scan.of(task.facts[case.id]) for case in task.cases.get(split, ()))
            for split in ("train", "val")
        }
        return cls(
            splits["train"],
            splits["val"],
            num_channels=len(next(iter(task.facts.values())).intensity),
            num_classes=task.table.num_classes,
            can_mirror=task.table.can_mirror,
            window=hounsfield_window(
                [task.facts[c.id].intensity for c in task.cases.get("train", ())]
            ),
            preprocessing=task.preprocessing,
        )

    @functools.cached_property
    def spacing(self) -> Spacing:
        """Median voxel size of the training cases, along X, Y, Z."""
        return median_spacing(scan.spacing for scan in self.train)

    @functools.cached_property
    def is_uniform(self) -> bool:
        """Whether all cases have the same voxel size, so that none is resampled."""
        return all(
            abs(size - wanted) <= SAME_SPACING
            for scan in (*self.train, *self.val)
            for size, wanted in zip(scan.spacing, self.spacing, strict=True)
        )

    @functools.cached_property
    def median_shape(self) -> Shape:
        """Median shape of the training cases at the network's voxel size, along X, Y, Z."""
        shapes = [self._resampled(scan) for scan in self.train]
        x, y, z = (math.ceil(median(sizes)) for sizes in zip(*shapes, strict=True))
        return x, y, z

    def network_shapes(self, scans: Sequence[Scan], patch: Shape) -> list[Shape]:
        """Shapes of scans as the network gets them, along X, Y, Z: resampled and padded."""
        return [padded_up(self._resampled(scan), patch) for scan in scans]

    def _resampled(self, scan: Scan) -> Shape:
        wanted = self.spacing if self.preprocessing is None else None
        return resampled_shape(scan.shape, scan.spacing, wanted)


def hounsfield_window(cases: Sequence[Sequence[ChannelFacts]]) -> tuple[float, float] | None:
    """Three standard deviations about the mean of what is labelled, to clip CT to; None for other images.

    nnU-Net's planner clips CT by percentiles of the same voxels (Isensee et al. 2021), which the facts do not hold.
    Air tells CT from the rest: half of the scans reach below -500. Their units are absolute: what lies far off, such as
    metal or the table, should not decide on the scale of the image.
    """
    channels = [case[0] for case in cases if len(case) == 1]
    inside = [
        (channel.foreground_mean, channel.foreground_std)
        for channel in channels
        if channel.foreground_mean is not None and channel.foreground_std is not None
    ]
    if not inside or len(channels) < len(cases) or median(c.min for c in channels) > AIR:
        return None
    centre = mean(middle for middle, _ in inside)
    spread = math.sqrt(mean(std**2 + (middle - centre) ** 2 for middle, std in inside))
    low, high = (round((centre + side * spread) / 10) * 10.0 for side in (-3, 3))
    return (low, high) if low < high else None
