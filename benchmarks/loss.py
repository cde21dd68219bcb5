"""Seconds and memory of the default loss, forward and backward, against MONAI's DiceCELoss, in one run.

Usage: python benchmarks/loss.py
"""

from __future__ import annotations

import statistics
import time

import torch
from monai.losses import DiceCELoss

from monaiseg.networks.losses import build_loss
from monaiseg.settings.loss import LossSettings

CLASSES, SHAPE, RUNS = 57, (64, 64, 64), 5
torch.manual_seed(0)
logits = torch.randn(2, CLASSES, *SHAPE, requires_grad=True)
target = torch.randint(0, CLASSES, (2, 1, *SHAPE), dtype=torch.uint8)
ours = build_loss(LossSettings(), CLASSES)
monais = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)


def seconds(loss: torch.nn.Module) -> float:
    started = time.perf_counter()
    torch.autograd.grad(loss(logits, target), logits)
    return time.perf_counter() - started


pairs = [(seconds(ours), seconds(monais)) for _ in range(RUNS)]
print(f"monaiseg: {statistics.median(a for a, _ in pairs):.3f} s")
print(f"MONAI DiceCELoss: {statistics.median(b for _, b in pairs):.3f} s")
print(f"ratio: {statistics.median(a / b for a, b in pairs):.2f}")
