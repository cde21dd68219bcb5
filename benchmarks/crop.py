"""Milliseconds a patch of the ways to cut, turn and zoom one, in turn in one run, on one core.

`ours` is what a settings file expands to: MONAI's crop with a margin, then rotation and zoom. `fused` does both at once
on the whole volume. `MONAI` cuts by `RandCropByPosNegLabeld` and turns by `RandAffined`, which fills the corners with
what lies at the border of the patch; `MONAI, lazy` lets it look beyond the patch by resampling both at once. Patches that are
turned and patches that are not are timed apart and weighted by the settings' default probabilities: otherwise luck in the
draws would decide. `whole chain` is ours with all augmentation. CPU time, medians over rounds: it depends least on what
else the machine does.

Usage: python benchmarks/crop.py [--rounds 5] [--patches 30]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from common import machine, table
from monai.data.meta_obj import set_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
from monai.transforms.spatial.dictionary import RandAffined
from monai.transforms.transform import Randomizable, Transform

from monaiseg.data import LabelTable, make_phantom
from monaiseg.settings import Settings, settings_from_dict
from monaiseg.transforms import CaseChain, crop_transforms, training_chain
from monaiseg.transforms.crop import (
    BACKGROUND,
    FOREGROUND,
    KEYS,
    FindCentresd,
    RandCropByClassesWithMargind,
    SplitCentresd,
)
from monaiseg.transforms.rotate_zoom import RandRotateZoomd

SIZES = {(40, 56, 40): (48, 64, 48), (96, 96, 96): (192, 224, 192)}
"""Volumes by the patches that are cut from them: a hippocampus, and a head."""


ALMOST_NEVER = 1e-9
"""A probability that leaves a transform in its chain."""


class Fused(Randomizable, Transform):
    """Draws as `RandCropByClassesWithMargind` and `RandRotateZoomd`, and cuts once.

    Args:
        settings: of the patch and of its changes.
    """

    def __init__(self, settings: Settings) -> None:
        seg = settings.dataset.seg
        change = seg.augmentation
        self.turn = RandRotateZoomd(settings.patch_shape, change.rotation, change.scaling)
        ratios = (seg.sampling.neg, seg.sampling.pos)
        self.crop = RandCropByClassesWithMargind(
            settings.patch_shape, ratios, self.turn.margin, seg.sampling
        )

    def set_random_state(self, seed: int | None = None, state: Any = None) -> Fused:
        super().set_random_state(seed, state)
        self.turn.set_random_state(seed, state)
        self.crop.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[str, Any]) -> Any:
        d = dict(data)
        start = self.crop._start(d["label"], d.pop("label_cls_indices"))
        return self.turn({**d, "patch_start": start})


def ways(settings: Settings, labels: LabelTable) -> dict[str, tuple[Compose, bool]]:
    """Chains by name, and whether they need MetaTensors."""
    change = settings.dataset.seg.augmentation
    angle = np.radians(change.rotation.degrees)
    low, high = change.scaling.factor
    monai = [
        SplitCentresd(by_class=False),
        RandCropByPosNegLabeld(
            KEYS, "label", settings.patch_shape, 2.0, 1.0, fg_indices_key=FOREGROUND, bg_indices_key=BACKGROUND
        ),
        RandAffined(
            KEYS,
            prob=change.rotation.probability,
            rotate_range=(angle,) * 3,
            scale_range=((1 / high - 1, 1 / low - 1),) * 3,
            spatial_size=settings.patch_shape,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
    ]  # fmt: skip
    return {
        "ours": (CaseChain(crop_transforms(settings, labels)), False),
        "fused": (CaseChain([SplitCentresd(by_class=True), Fused(settings)]), False),
        "MONAI": (Compose(monai), False),
        "MONAI, lazy": (Compose(monai, lazy=True), True),
        "whole chain": (CaseChain(training_chain(settings, labels)), False),
    }


def cached(shape: tuple[int, int, int]) -> tuple[dict[str, Any], LabelTable]:
    """A synthetic case as it waits in the cache, with its labels."""
    phantom = make_phantom(shape, label_values=(1, 2), seed=0)
    image = torch.from_numpy(np.asarray(phantom.image, np.float32))[None]
    item = {
        "image": image,
        "label": torch.from_numpy(phantom.label_map.astype(np.uint8))[None],
        "affine": torch.eye(4, dtype=torch.float64),
        "floor": image.amin(dim=(1, 2, 3)),
        "case_id": "phantom",
    }
    return FindCentresd(2)(item), LabelTable.from_values([1, 2])


def milliseconds(chain: Compose, item: Mapping[str, Any], seeds: range) -> float:
    """CPU time of one patch, seeding included."""
    started = time.process_time()
    for seed in seeds:
        chain.set_random_state(seed=seed)
        chain(item)
    return 1000 * (time.process_time() - started) / len(seeds)


def in_turn(shape: tuple[int, int, int], rounds: int, patches: int) -> dict[str, float]:
    """Medians by way."""
    item, labels = cached(SIZES[shape])
    tracked = item | {key: MetaTensor(item[key]) for key in KEYS}
    usual = Settings().dataset.seg.augmentation
    upright = (1 - usual.rotation.probability) * (1 - usual.scaling.probability)
    times: dict[str, list[float]] = {}
    for number in range(-1, rounds):  # the first is not counted
        seeds = range(abs(number) * patches, (abs(number) + 1) * patches)
        spent: dict[str, float] = {}
        for probability, weight in ((ALMOST_NEVER, upright), (1.0, 1 - upright)):
            for name, (chain, needs_meta) in ways(turned(shape, probability), labels).items():
                set_track_meta(needs_meta)
                taken = milliseconds(chain, tracked if needs_meta else item, seeds)
                spent[name] = spent.get(name, 0.0) + weight * taken
        for name, value in spent.items():
            times.setdefault(name, []).extend([value] if number >= 0 else [])
    set_track_meta(True)
    return {name: statistics.median(values) for name, values in times.items()}


def turned(shape: tuple[int, int, int], probability: float) -> Settings:
    """Settings that turn and zoom patches with a probability."""
    change = {name: {"probability": probability} for name in ("rotation", "scaling")}
    seg = {"patch_size": shape, "augmentation": change}
    return settings_from_dict({"dataset": {"axis_order": "xyz", "seg": seg}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    found = {shape: in_turn(shape, args.rounds, args.patches) for shape in SIZES}
    sizes = ["x".join(map(str, shape)) for shape in SIZES]
    names: Callable[[], Any] = next(iter(found.values())).keys
    rows = [(name, *(f"{found[shape][name]:.2f}" for shape in SIZES)) for name in names()]
    print(table(("ms a patch", *sizes), rows))


if __name__ == "__main__":
    main()
