"""The fingerprint of a data task: what a plan needs from `dataset.json`. No volume is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from monaiseg.data import (
    SAME_SPACING,
    CaseFacts,
    ChannelFacts,
    DataTask,
    Shape,
    Spacing,
    median_spacing,
    padded_up,
    resampled_shape,
)
from monaiseg.planning.position import Position
from monaiseg.settings import PlanningSettings

AIR = -500.0
"""Hounsfield units; lungs and the air around the patient are below this."""


@dataclass(frozen=True)
class Scan:
    """Shape in voxels and voxel size in mm, along X, Y, Z."""

    shape: Shape
    spacing: Spacing
    case_id: str = ""

    @classmethod
    def of(cls, facts: CaseFacts, case_id: str = "") -> Scan:
        """From the facts of a case, which follow the axes of its file."""
        return cls(*facts.grid.along_ras, case_id)


@dataclass(frozen=True)
class Fingerprint:
    """What a plan needs to know about a data task."""

    train: tuple[Scan, ...]
    val: tuple[Scan, ...]
    num_channels: int
    num_classes: int
    can_mirror: bool = True
    """Whether the label table says what each label becomes in a left-right mirror image."""
    window: tuple[float, float] | None = None
    """For scans in Hounsfield units, the intensity range of the labelled structures; otherwise None."""
    position: Position | None = None
    """What the position of a voxel says about its label; None if it was not measured, or has too little to say."""
    preprocessing: Mapping[str, Any] | None = None
    """Settings of `dataset` with which the volumes were already resampled and normalised. None: they were not."""

    @classmethod
    def of(cls, task: DataTask) -> Fingerprint:
        """From the facts of the training and validation cases of a data task."""
        splits = {
            split: tuple(
                Scan.of(task.facts[case.id], case.id) for case in task.cases.get(split, ())
            )
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

    def starts_from_atlas(self, rules: PlanningSettings) -> bool:
        """Whether the network starts from an atlas."""
        return self.position is not None and self.position.explained >= rules.atlas_explained

    @functools.cached_property
    def spacing(self) -> Spacing:
        """Median voxel size of the training cases, along X, Y, Z."""
        return median_spacing(scan.spacing for scan in self.train)

    @functools.cached_property
    def is_uniform(self) -> bool:
        """Whether all cases have the same voxel size and none is resampled."""
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

    def seen_share(self, patch: Shape) -> float:
        """Share of all training voxels that one patch shows, at the network's voxel size."""
        inside = math.prod(min(size, n) for size, n in zip(patch, self.median_shape, strict=True))
        return inside / (len(self.train) * math.prod(self.median_shape))

    def network_shapes(self, scans: Sequence[Scan], patch: Shape) -> list[Shape]:
        """Shapes of scans along X, Y, Z after resampling and padding, as the network receives them."""
        return [padded_up(self._resampled(scan), patch) for scan in scans]

    def _resampled(self, scan: Scan) -> Shape:
        wanted = self.spacing if self.preprocessing is None else None
        return resampled_shape(scan.shape, scan.spacing, wanted)


def hounsfield_window(cases: Sequence[Sequence[ChannelFacts]]) -> tuple[float, float] | None:
    """Range to clip CT to: three standard deviations about the mean of labelled voxels. None for other images.

    nnU-Net's planner clips CT to percentiles of the same voxels (Isensee et al. 2021), which the facts do not contain.
    Air distinguishes CT from other images: half of the scans have values below -500. CT units are absolute, so values
    far from those of the labelled structures, such as metal or the table, should not determine the scale of the image.
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
