"""Memory and seconds of the sliding window, beside MONAI's with argmax: one process a row, the same network and image.

*Memory* is the most that a process holds while it predicts, less what it held when network and image were there and one
window had been computed. With `--trivial` the network costs nothing, so that the rest is seen by itself.

Usage: python benchmarks/sliding_window.py [--shape 192 224 192] [--patch 96] [--classes 4 57 104] [--channels 32]
           [--variant folded] [--threads 2] [--rounds 1] [--trivial]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, peak_gib, table
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from monaiseg.networks import sliding_window_class_map
from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.networks.sliding_window import window_weights
from monaiseg.networks.topology import plan_topology
from monaiseg.settings import NetworkSettings

CLEAR = 1e-4
"""Voxels whose two best scores differ by less may get either class."""


class Trivial(nn.Module):
    """Features and a head without a body."""

    def __init__(self, num_features: int, num_classes: int, block: tuple[int, int, int]) -> None:
        super().__init__()
        self.block, self.num_features = block, num_features
        torch.manual_seed(0)
        self.head = nn.Conv3d(num_features, num_classes * block[0] * block[1] * block[2], 1)

    def features(self, image: Tensor) -> Tensor:
        pooled = torch.nn.functional.avg_pool3d(image, self.block)
        return pooled.expand(-1, self.num_features, -1, -1, -1)

    def head_matrix(self) -> tuple[Tensor, Tensor]:
        weight = self.head.weight.detach()
        return weight.reshape(-1, *self.block, self.num_features), self.head.bias.detach().reshape(
            -1, *self.block
        )

    def forward(self, image: Tensor) -> Tensor:
        from monaiseg.networks.residual_unet import unfolded  # noqa: PLC0415

        return unfolded(self.head(self.features(image)), self.block)


def network_of(options: argparse.Namespace, num_classes: int) -> nn.Module:
    block = (2, 2, 2) if options.variant == "folded" else (1, 1, 1)
    if options.trivial:
        return Trivial(options.channels, num_classes, block).eval()
    torch.manual_seed(0)
    settings = NetworkSettings(variant=options.variant, channels=options.channels)
    topology = plan_topology(settings, (options.patch,) * 3, (1.0, 1.0, 1.0))
    return ResidualUNet(settings, topology, 1, num_classes).eval()


@torch.inference_mode()
def measured(options: argparse.Namespace, contender: str, num_classes: int, folder: Path) -> dict:
    torch.set_num_threads(options.threads)
    network, patch = network_of(options, num_classes), (options.patch,) * 3
    image = torch.randn(1, 1, *options.shape, generator=torch.Generator().manual_seed(1))
    network(torch.zeros(2, 1, *patch))
    reset_peak()
    before, started = peak_gib(), time.perf_counter()
    if contender == "monaiseg":
        classes = sliding_window_class_map(
            network, image, patch, overlap=(0.5,) * 3, num_classes=num_classes
        )
        clear = torch.ones_like(classes, dtype=torch.bool)
    else:
        weights = window_weights(patch, network.block, "gaussian", torch.device("cpu"))
        for axis, step in enumerate(network.block):
            weights = weights.repeat_interleave(step, dim=axis)
        scores = sliding_window_inference(image, patch, 2, network, 0.5, roi_weight_map=weights)
        classes = scores.argmax(dim=1)[0].to(torch.int16)
    seconds, peak = time.perf_counter() - started, peak_gib()
    if contender == "monai":  # not measured: which voxels are clear
        best, second = torch.cat(
            [part.topk(2, dim=1).values for part in scores.split(16, dim=2)], dim=2
        )[0]
        clear = best - second > CLEAR
    torch.save((classes.to(torch.int16), clear), folder / f"{contender}.pt")
    return {"seconds": seconds, "gib": peak - before}


def reset_peak() -> None:
    """Linux counts the peak anew from here; elsewhere it is that of the whole process."""
    if (refs := Path("/proc/self/clear_refs")).exists():
        refs.write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 224, 192))
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--classes", type=int, nargs="+", default=(4, 57, 104))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--variant", choices=("folded", "standard"), default="folded")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trivial", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, num_classes, folder = options.one
        print(json.dumps(measured(options, contender, int(num_classes), Path(folder))))
        return
    print(machine())
    print(f"{options.shape} voxels, patch {options.patch}, overlap 0.5, {options.threads} threads")
    rows = []
    for num_classes in options.classes:
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, list[dict]] = {"monaiseg": [], "monai": []}
            for _, contender in itertools.product(range(options.rounds), found):
                command = [sys.executable, *sys.argv, "--one", contender, str(num_classes), folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
                found[contender].append(json.loads(done.stdout.splitlines()[-1]))
            (ours, _), (theirs, clear) = (
                torch.load(Path(folder) / f"{name}.pt", weights_only=True) for name in found
            )
        seconds = {n: statistics.median(r["seconds"] for r in runs) for n, runs in found.items()}
        gib = {n: statistics.median(r["gib"] for r in runs) for n, runs in found.items()}
        rows.append([
            num_classes,
            *(f"{seconds[name]:.1f}" for name in found),
            f"{seconds['monaiseg'] / seconds['monai']:.2f}",
            *(f"{gib[name]:.3f}" for name in found),
            f"{gib['monaiseg'] / gib['monai']:.2f}",
            int((ours != theirs).sum()),
            int(((ours != theirs) & clear).sum()),
        ])  # fmt: skip
    columns = [
        "classes",
        "seconds",
        "MONAI",
        "ratio",
        "GiB",
        "MONAI",
        "ratio",
        "other",
        "other, clear",
    ]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
