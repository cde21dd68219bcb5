"""Engines: MONAI's trainer and evaluators, and what they are made of, as the settings describe them.

`training` and the bundle build the same ones by these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from ignite.metrics import Metric
from monai.engines.evaluator import SupervisedEvaluator
from monai.engines.trainer import SupervisedTrainer
from monai.inferers.inferer import Inferer, SimpleInferer
from monai.losses.ds_loss import DeepSupervisionLoss
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monaiseg.data import DataTask, LabelTable, Spacing, median_spacing
from monaiseg.networks import InBFloat16, ResidualUNet, SegmentationLoss, SlidingWindow, network_of
from monaiseg.settings import OptimSettings, Settings
from monaiseg.training import distributed
from monaiseg.training.devices import computes_in_bfloat16
from monaiseg.training.handlers.dice import DiceOfLabels
from monaiseg.training.handlers.validation import is_better
from monaiseg.training.sampling import derive
from monaiseg.transforms import sampled_spacing


def build_trainer(
    settings: Settings,
    network: nn.Module,
    optimizer: Optimizer,
    loss_function: nn.Module,
    train_data_loader: DataLoader[Any],
    device: torch.device | str,
    *,
    max_epochs: int | None = None,
    inferer: Inferer | None = None,
    train_handlers: Sequence[Any] | None = None,
) -> SupervisedTrainer:
    """MONAI's engine for the steps of a training; what happens around them is `train_handlers`'s.

    A loss of one output also serves a network of several: then the coarser ones weigh 1/2, 1/4, ...

    Args:
        settings: accumulation, mixed precision and, where `max_epochs` is not given, epochs.
        network: on the device; gradients are averaged over the processes that train together.
        optimizer: of the network's weights.
        loss_function: of the network's output and class indices.
        train_data_loader: as `build_training_loader` makes it.
        device: where it computes.
        max_epochs: epochs to train.
        inferer: how the network is called; None is as `build_inferer` has it.
        train_handlers: further handlers of MONAI or ignite.
    """
    tsk, device = settings.tsk_set, torch.device(device)
    if not isinstance(loss_function, SegmentationLoss):
        loss_function = DeepSupervisionLoss(cast(_Loss, loss_function), weight_mode="exp")
    return SupervisedTrainer(
        device=device,
        max_epochs=tsk.epochs if max_epochs is None else max_epochs,
        train_data_loader=train_data_loader,
        network=distributed.shared(network, device),
        optimizer=optimizer,
        loss_function=loss_function.to(device),
        inferer=inferer or build_inferer(settings, device),
        train_handlers=train_handlers,
        accumulation_steps=tsk.gradient_accumulation_steps,
        optim_set_to_none=True,
        non_blocking=True,
        amp=tsk.amp and device.type == "cuda",
        decollate=False,
    )


def build_inferer(settings: Settings, device: torch.device | str) -> Inferer:
    """How a training calls its network: in bfloat16 where mixed precision is wanted and the processor has it."""
    in_bfloat16 = settings.tsk_set.amp and computes_in_bfloat16(torch.device(device))
    return InBFloat16() if in_bfloat16 else SimpleInferer()


def build_optimizer(network: nn.Module, settings: OptimSettings) -> Optimizer:
    """The optimiser of these settings over all weights of the network."""
    weights = network.parameters()
    if settings.optim_type == "sgd":
        momentum = settings.sgd.momentum
        return torch.optim.SGD(
            weights,
            settings.lr,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=settings.weight_decay,
        )
    form = torch.optim.AdamW if settings.optim_type == "adamw" else torch.optim.Adam
    betas = (settings.adam.beta, settings.adam.beta2)
    return form(weights, settings.lr, betas=betas, weight_decay=settings.weight_decay)


def build_evaluator(
    network: nn.Module,
    loader: DataLoader[Any],
    settings: Settings,
    table: LabelTable,
    device: torch.device,
    *,
    inferer: Inferer | None = None,
    key_val_metric: dict[str, Metric] | None = None,
    val_handlers: Sequence[Any] | None = None,
) -> SupervisedEvaluator:
    """Validates whole cases by sliding window; by default `state.metrics["dice"]` is the mean foreground Dice."""
    return SupervisedEvaluator(
        device=device,
        val_data_loader=loader,
        network=network,
        inferer=inferer or SlidingWindow(settings, table, device, mirrored=False),
        key_val_metric=key_val_metric or {"dice": DiceOfLabels(table.num_classes)},
        metric_cmp_fn=is_better,
        val_handlers=val_handlers,
        decollate=False,
    )


def initial_network(settings: Settings, table: LabelTable, spacing: Spacing) -> ResidualUNet:
    """The network before its first step: its weights follow from the seed."""
    torch.manual_seed(derive(settings.tsk_set.seed, "weights"))
    return network_of(settings, table, spacing)


def network_spacing(task: DataTask, settings: Settings) -> Spacing:
    """Voxel size in mm along X, Y, Z that the network works at: the median of the training cases, as it sees them."""
    ids = [case.id for case in task.cases.get("train", ())] or list(task.facts)
    return median_spacing(sampled_spacing(task.facts[case_id].grid, settings) for case_id in ids)
