"""Seconds of a training step's forward and backward pass, by what was tried of the network, in turn in one run.

The last designs were left out of monaiseg: they are here to show why. With one thread the seconds are those of the
processor, which do not depend on what else the machine does.

Usage: python benchmarks/network.py [--threads 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import machine
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, get_conv_layer
from torch import Tensor, nn

from monaiseg.networks.losses import build_loss
from monaiseg.networks.residual_unet import ResidualUNet, folded, unfolded
from monaiseg.networks.topology import plan_topology
from monaiseg.settings.loss import LossSettings
from monaiseg.settings.network import NetworkSettings

SHAPE, BATCH, CLASSES = (40, 56, 40), 4, 3
LAST, DEFAULT = torch.channels_last_3d, torch.contiguous_format
"""Layouts in memory: a step's features follow from those of its weights and image."""
Step = Callable[[], float]


def clock() -> float:
    """Seconds of the wall, or with one thread of the processor."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


torch.manual_seed(0)
image = torch.randn(BATCH, 1, *SHAPE)
label = torch.randint(0, CLASSES, (BATCH, 1, *SHAPE), dtype=torch.uint8)
loss = build_loss(LossSettings(), CLASSES)


def of(variant: str, channels: int, norm: str = "group", **more: object) -> ResidualUNet:
    settings = NetworkSettings(
        variant=variant, channels=channels, norm=norm, deep_supervision_heads=0, **more
    )
    return ResidualUNet(settings, plan_topology(settings, SHAPE, (1.0, 1.0, 1.0)), 1, CLASSES)


class FullResolutionHead(nn.Module):
    """The folded network whose features are brought to the full resolution, where they meet the image's own."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        group = ("group", {"num_groups": 8})
        self.inner = of("folded", channels)
        self.detail = UnetBasicBlock(3, 1, width, 3, 1, group)
        self.restore = get_conv_layer(
            3, channels, width, kernel_size=2, stride=2, is_transposed=True
        )
        self.refine = UnetBasicBlock(3, 2 * width, width, 3, 1, group)
        self.head = UnetOutBlock(3, width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z) of an image (B, C, X, Y, Z)."""
        block = self.inner.block
        features = self.inner._decode(self.inner._encode(folded(image, block)))[0]
        detail = self.detail(image)
        return self.head(self.refine(torch.cat([detail, self.restore(features)], dim=1)))


class RefinedLogits(nn.Module):
    """The folded network, and one convolution at full resolution that sees its logits and the image."""

    def __init__(self, channels: int, width: int = 8) -> None:
        super().__init__()
        self.inner = of("folded", channels)
        self.refine = nn.Conv3d(CLASSES + 1, width, 3, padding=1)
        self.head = nn.Conv3d(width, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, X, Y, Z) of an image (B, C, X, Y, Z)."""
        logits = self.inner(image)
        seen = torch.cat([logits, image], dim=1)
        return logits + self.head(nn.functional.leaky_relu(self.refine(seen), 0.01))


def factorised(conv: nn.Conv3d) -> nn.Module:
    """A plane's kernel, and then a line's across it."""
    x, y, z = conv.stride
    width = conv.out_channels
    return nn.Sequential(
        nn.Conv3d(conv.in_channels, width, (3, 3, 1), (x, y, 1), (1, 1, 0), bias=False),
        nn.Conv3d(width, width, (1, 1, 3), (1, 1, z), (0, 0, 1), bias=False),
    )


def separable(conv: nn.Conv3d) -> nn.Module:
    """Each channel's own kernel, and then a mixture of the channels."""
    inputs = conv.in_channels
    return nn.Sequential(
        nn.Conv3d(inputs, inputs, 3, conv.stride, 1, groups=inputs, bias=False),
        nn.Conv3d(inputs, conv.out_channels, 1, bias=False),
    )


def grouped(conv: nn.Conv3d) -> nn.Module:
    """Four groups of channels, which do not mix."""
    groups = 4 if conv.in_channels % 4 == 0 else 1
    width = conv.out_channels
    return nn.Conv3d(conv.in_channels, width, 3, conv.stride, 1, groups=groups, bias=False)


def with_convolutions(change: Callable[[nn.Conv3d], nn.Module], network: nn.Module) -> nn.Module:
    """The network with another operation in place of each convolution by 3 x 3 x 3."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv3d) and child.kernel_size == (3, 3, 3):
            setattr(network, name, change(child))
        else:
            with_convolutions(change, child)
    return network


def step(
    network: nn.Module, layout: torch.memory_format = DEFAULT, *, bfloat16: bool = False
) -> Step:
    """A function that makes one forward and backward pass and gives its seconds."""

    def seconds() -> float:
        network.to(memory_format=layout)  # nothing to do from the second pass on
        network.zero_grad(set_to_none=True)
        started = clock()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = network(image.contiguous(memory_format=layout))
        loss(logits, label).backward()
        return clock() - started

    seconds.weights = sum(weight.numel() for weight in network.parameters())
    return seconds


def unfolding() -> float:
    """Folding and unfolding alone."""
    started = clock()
    unfolded(folded(image, (2, 2, 2)), (2, 2, 2))
    return clock() - started


unfolding.weights = 0
CONTENDERS: dict[str, Step] = {
    "folded, 32 channels, group norm": step(of("folded", 32)),
    "the same in bfloat16": step(of("folded", 32), bfloat16=True),
    "the same with channels last": step(of("folded", 32), LAST),
    "the same with channels last, in bfloat16": step(of("folded", 32), LAST, bfloat16=True),
    "the same, compiled": step(torch.compile(of("folded", 32))),
    "instance norm": step(of("folded", 32, "instance")),
    "batch norm": step(of("folded", 32, "batch")),
    "no norm": step(of("folded", 32, "none")),
    "no residual connections": step(of("folded", 32, residual=False)),
    "24 channels": step(of("folded", 24)),
    "48 channels": step(of("folded", 48)),
    "48 channels in bfloat16": step(of("folded", 48), bfloat16=True),
    "standard, 16 channels, instance norm": step(of("standard", 16, "instance")),
    "standard, 16 channels, group norm, in bfloat16": step(of("standard", 16), bfloat16=True),
    "standard, 32 channels, instance norm": step(of("standard", 32, "instance")),
    "left out: one convolution at full resolution": step(RefinedLogits(32)),
    "left out: a head of 16 channels at full resolution": step(FullResolutionHead(32)),
    "left out: planes, then lines": step(with_convolutions(factorised, of("folded", 32))),
    "planes, then lines, in bfloat16": step(
        with_convolutions(factorised, of("folded", 32)), bfloat16=True
    ),
    "left out: each channel alone, then mixed": step(
        with_convolutions(separable, of("folded", 32))
    ),
    "each channel alone, then mixed, in bfloat16": step(
        with_convolutions(separable, of("folded", 32)), bfloat16=True
    ),
    "left out: four groups of channels": step(with_convolutions(grouped, of("folded", 32))),
    "folding and unfolding alone": unfolding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs: list[list[float]] = []
    for number in range(1 + args.rounds):
        runs.append([seconds() for seconds in CONTENDERS.values()])
        if number == 0:
            first = dict(zip(CONTENDERS, runs.pop(), strict=True))
    medians = [statistics.median(column) for column in zip(*runs, strict=True)]
    print(f"{machine()}, {args.threads} threads")
    print("| network | weights | seconds | ratio |\n|---|---|---|---|")
    for (name, seconds), median in zip(CONTENDERS.items(), medians, strict=True):
        weights = f"{seconds.weights / 1e6:.2f} million"
        print(f"| {name} | {weights} | {median:.3f} | {median / medians[0]:.2f} |")
    print(f"the first pass of the compiled network: {first['the same, compiled']:.0f} s")


if __name__ == "__main__":
    main()
