"""Engines: MONAI's trainer and evaluators, and their parts, built from the settings.

Training and the bundle use the same functions to build them.
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
from monaiseg.training.batches import PatchBatch
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
    """MONAI's engine for the training steps. `train_handlers` do everything else.

    A loss for one output also works for a network with several (deep supervision): the coarser outputs then have the
    weights 1/2, 1/4, ...

    Args:
        settings: gradient accumulation, mixed precision and, unless `max_epochs` is given, the number of epochs.
        network: network on the device; gradients are averaged over all processes that train together.
        optimizer: optimiser of the network's weights.
        loss_function: function of the network's output and the class indices.
        train_data_loader: loader from `build_training_loader`.
        device: device to compute on.
        max_epochs: epochs to train. None: as in the settings.
        inferer: how the network is called. None: `build_inferer(settings, device)`.
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
        prepare_batch=PatchBatch(settings, network),
        inferer=inferer or build_inferer(settings, device),
        train_handlers=train_handlers,
        accumulation_steps=tsk.gradient_accumulation_steps,
        optim_set_to_none=True,
        non_blocking=True,
        amp=tsk.amp and device.type == "cuda",
        decollate=False,
    )


def build_inferer(settings: Settings, device: torch.device | str) -> Inferer:
    """How a training step calls the network: in bfloat16 if the settings ask for mixed precision and the CPU has it."""
    in_bfloat16 = settings.tsk_set.amp and computes_in_bfloat16(torch.device(device))
    return InBFloat16() if in_bfloat16 else SimpleInferer()


def build_optimizer(network: nn.Module, settings: OptimSettings) -> Optimizer:
    """The optimiser that the settings describe, for all weights of the network."""
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
    """Evaluator for whole cases by sliding window. By default `state.metrics["dice"]` is the mean foreground Dice."""
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
    """The network before its first step. The seed determines its weights."""
    torch.manual_seed(derive(settings.tsk_set.seed, "weights"))
    return network_of(settings, table, spacing)


def network_spacing(task: DataTask, settings: Settings) -> Spacing:
    """Voxel size of the network in mm along X, Y, Z: the median over the training cases, after any resampling."""
    ids = [case.id for case in task.cases.get("train", ())] or list(task.facts)
    return median_spacing(sampled_spacing(task.facts[case_id].grid, settings) for case_id in ids)
