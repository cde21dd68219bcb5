"""A plain MONAI pipeline as its tutorials write one: DynUNet, CacheDataset, RandCropByPosNegLabeld, a loop.

Usage: with_monai.py steps TASK PATCH BATCH            PATCH: 40x56x40
       with_monai.py minutes TASK MINUTES SEED OUTPUT
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from common import Turns, split_cases, write_result
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    SaveImaged,
    SpatialPadd,
)
from monai.utils import set_determinism

FILTERS, STRIDES, CLASSES = (16, 32, 64, 128), (1, 2, 2, 2), 3
TUTORIAL_PATCH, TUTORIAL_BATCH = (48, 64, 48), 2
Patch = tuple[int, ...]


def network() -> torch.nn.Module:
    kernels = [3] * len(STRIDES)
    return DynUNet(
        3, 1, CLASSES, kernels, STRIDES, STRIDES[1:], filters=FILTERS, res_block=True
    )  # fmt: skip


def load_chain(keys: tuple[str, ...], patch: Patch) -> list[Any]:
    return [
        LoadImaged(keys),
        EnsureChannelFirstd(keys),
        Orientationd(keys, axcodes="RAS", labels=None),
        NormalizeIntensityd("image"),
        SpatialPadd(keys, patch),
    ]


def batches(cases: list[dict[str, str]], patch: Patch, batch: int) -> DataLoader:
    keys = ("image", "label")
    chain = [
        *load_chain(keys, patch),
        RandCropByPosNegLabeld(keys, "label", patch, pos=2, neg=1, num_samples=1),
        RandAffined(
            keys,
            prob=0.5,
            rotate_range=[0.26] * 3,
            scale_range=[0.15] * 3,
            mode=("bilinear", "nearest"),
        ),
        RandScaleIntensityd("image", factors=0.25, prob=0.15),
        RandGaussianSmoothd("image", prob=0.1),
        RandGaussianNoised("image", prob=0.15),
    ]
    cached = CacheDataset(cases, Compose(chain), progress=False)
    return DataLoader(cached, batch_size=batch, shuffle=True, drop_last=True, num_workers=2)


def without_end(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


class Learner:
    """Network, loss and optimiser; one step at a time."""

    def __init__(self, patch: Patch, batch: int, task: Path) -> None:
        self.batches = without_end(batches(split_cases(task)["train"], patch, batch))
        self.network = network()
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3)

    def step(self) -> None:
        """Forward, backward, update."""
        batch = next(self.batches)
        self.optimizer.zero_grad()
        self.loss(self.network(batch["image"]), batch["label"]).backward()
        self.optimizer.step()


def steps(task: Path, patch: str, batch: str) -> None:
    turns = Turns()
    shape = tuple(map(int, patch.split("x")))
    learner = Learner(shape, int(batch), task)
    weights = sum(weight.numel() for weight in learner.network.parameters())
    turns.ready(samples=int(batch), weights=weights)
    turns.serve(learner.step)


def minutes(task: Path, budget: float, seed: int, output: Path) -> None:
    """Polynomial decay of the rate over the minutes, as the number of steps is not known in advance."""
    started = time.perf_counter()
    set_determinism(seed)
    learner = Learner(TUTORIAL_PATCH, TUTORIAL_BATCH, task)
    while (share := (time.perf_counter() - started) / (60 * budget)) < 1:
        learner.optimizer.param_groups[0]["lr"] = 1e-3 * (1 - share) ** 0.9
        learner.step()
    write_result(output, seconds=time.perf_counter() - started)
    predict(learner.network.eval(), split_cases(task)["test"], output / "predictions")


def predict(network: torch.nn.Module, cases: list[dict[str, str]], folder: Path) -> None:
    chain = Compose(load_chain(("image",), TUTORIAL_PATCH))
    home = Compose(
        [
            AsDiscreted("pred", argmax=True),
            Invertd("pred", chain, "image", nearest_interp=True),
            SaveImaged(
                "pred", output_dir=folder, output_postfix="", separate_folder=False, print_log=False
            ),
        ]
    )
    loader = DataLoader(CacheDataset(cases, chain, cache_rate=0, progress=False))
    with torch.inference_mode():
        for batch in loader:
            batch["pred"] = sliding_window_inference(
                batch["image"], TUTORIAL_PATCH, 2, network, overlap=0.5, mode="gaussian"
            )
            for item in decollate_batch(batch):
                home(item)


if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    if verb == "steps":
        steps(Path(folder), *rest)
    else:
        minutes(Path(folder), float(rest[0]), int(rest[1]), Path(rest[2]))
