"""MONAI's own trainer, network, loss and loader: what a handler meets at someone who uses nothing else of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import AsDiscrete, Compose, RandFlipd, RandGaussianNoised


def unet() -> UNet:
    """Two classes, with batch normalisation and dropout, a few thousand weights; always the same."""
    torch.manual_seed(0)
    return UNet(3, 1, 2, channels=(4, 8), strides=(2,), dropout=0.2, norm="batch")


def loader(chain: Any = None) -> DataLoader:
    """Three batches of two 8 x 8 x 8 images, shuffled and augmented; the label is where the image is bright."""
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8, 8)).astype(np.float32)
    items = [{"image": image, "label": (image > 0).astype(np.uint8)} for image in images]
    augment = Compose(
        [RandFlipd(["image", "label"], prob=0.5), RandGaussianNoised("image", prob=0.5)]
    )
    return DataLoader(Dataset(items, chain or augment), batch_size=2, shuffle=True)


def plain_trainer(
    handlers: Sequence[Any], network: UNet | None = None, **changes: Any
) -> SupervisedTrainer:
    """Two epochs of three steps."""
    network = network or unet()
    parts: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 2,
        "train_data_loader": loader(),
        "network": network,
        "optimizer": torch.optim.Adam(network.parameters(), 0.01),
        "loss_function": DiceCELoss(to_onehot_y=True, softmax=True),
        "train_handlers": handlers,
        "decollate": False,
    }
    return SupervisedTrainer(**parts | changes)


def plain_evaluator(network: UNet, **changes: Any) -> SupervisedEvaluator:
    """Validates with MONAI's own metric."""
    one_hot = AsDiscrete(argmax=True, to_onehot=2), AsDiscrete(to_onehot=2)
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(Compose([])),
        network=network,
        postprocessing=lambda out: {
            **out,
            "pred": one_hot[0](out["pred"]),
            "label": one_hot[1](out["label"]),
        },
        key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        decollate=True,
        **changes,
    )


def bits(network: torch.nn.Module) -> list[bytes]:
    """The weights, exactly."""
    return [value.numpy().tobytes() for value in network.state_dict().values()]


# ---------------------------------------------------------------- one weight, whose steps can be redone by hand


def batch(label: int = 0, case: str = "S01") -> dict[str, Any]:
    """A batch of one image of ones with a label map of one value."""
    return {
        "image": torch.ones(1, 1, 2, 2, 2),
        "label": torch.full((1, 1, 2, 2, 2), label, dtype=torch.uint8),
        "case_id": [case],
    }


def one_weight(
    batches: Any = None, epochs: int = 1, loss: Any = None, lr: float = 0.5, **more: Any
) -> SupervisedTrainer:
    """Learns the mean of its label maps with a 1 x 1 x 1 convolution, from 0."""
    network = torch.nn.Conv3d(1, 1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=batches or [batch(1), batch(1, "S02")],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=loss or (lambda pred, label: (pred - label).abs().mean()),
        decollate=False,
        **more,
    )
