"""Seconds of a training step's forward and backward pass, by variant, norm and memory layout, in turn in one run.

Usage: python benchmarks/network.py
"""

from __future__ import annotations

import statistics
import time

import torch

import monaiseg.network
from monaiseg.losses import build_loss
from monaiseg.network import build_network, plan_topology
from monaiseg.settings import LossSettings, NetworkSettings

SHAPE, BATCH, CLASSES, RUNS = (40, 56, 40), 4, 3, 5
CONTENDERS = [("strided", 24, "group"), ("strided", 24, "instance"), ("standard", 16, "instance")]
LAYOUTS = {"channels last": torch.channels_last_3d, "default": torch.contiguous_format}

torch.manual_seed(0)
image = torch.randn(BATCH, 1, *SHAPE)
label = torch.randint(0, CLASSES, (BATCH, 1, *SHAPE), dtype=torch.uint8)
loss = build_loss(LossSettings(), CLASSES)


def seconds(network: torch.nn.Module, layout: torch.memory_format) -> float:
    """Of one forward and backward pass with weights and features in this layout."""
    monaiseg.network.LAYOUT = layout
    network.to(memory_format=layout)  # nothing to do from the second pass on
    started = time.perf_counter()
    loss(network(image), label).backward()
    return time.perf_counter() - started


for variant, channels, norm in CONTENDERS:
    settings = NetworkSettings(
        variant=variant, channels=channels, norm=norm, deep_supervision_heads=1
    )
    topology = plan_topology(settings, SHAPE, (1.0, 1.0, 1.0))
    networks = [build_network(settings, topology, 1, CLASSES) for _ in LAYOUTS]
    weights = sum(weight.numel() for weight in networks[0].parameters())
    pairs = list(zip(networks, LAYOUTS.values(), strict=True))
    runs = [[seconds(*pair) for pair in pairs] for _ in range(1 + RUNS)][1:]  # after a warm-up
    last, default = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"{variant}, {channels} channels, {norm} norm, {weights / 1e6:.2f} million weights: "
        f"channels last {last:.2f} s, default {default:.2f} s, ratio {last / default:.2f}"
    )
