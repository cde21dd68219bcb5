"""Processes that train one network together, by torch.distributed: gloo between CPUs, nccl between GPUs.

A *rank* is a process, counted from 0; the *first* one writes. Every function here does what one process alone would
need where no group has been joined: nothing. What ranks tell one another is JSON, so that nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from monaiseg.errors import MonaisegError, SettingsError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: the first may prepare a large dataset. torchrun ends all when one has died."""
_shared: WeakSet[DistributedDataParallel] = WeakSet()


def is_launched() -> bool:
    """Whether torchrun has started this process, with others or alone."""
    return "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """In the group of processes that torchrun has started, while the block runs; in one that is joined, just there."""
    if not is_launched() or distributed.is_initialized():
        yield
        return
    join(device)
    try:
        yield
    finally:
        leave()


def join(device: torch.device | None = None) -> torch.device:
    """Join the group of processes that torchrun has started, if it has; returns the device of this one.

    `device` None: its own GPU, or the CPU where there is none.

    Raises:
        SettingsError: there are fewer GPUs than processes of this computer.
    """
    device = local_device() if device is None else device
    if not is_launched() or distributed.is_initialized():
        return device
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    return device


def leave() -> None:
    """Leave the group, at the end; networks that were shared no longer are.

    The threads of a group live as long as whoever holds it, and one that gives back its last tensor while Python ends
    takes the process with it ("terminate called without an active exception"). So all let go of it here.
    """
    if not distributed.is_initialized():
        return
    # Whoever lets go of it last ends its threads, and waits for them: only this reference does so without Python's
    # lock, which a thread may need to give back a tensor. The reducers' would wait for ever.
    group = distributed.group.WORLD
    for network in _shared:
        for name in ("reducer", "logger", "process_group"):
            network.__dict__.pop(name, None)
    gc.collect()
    distributed.destroy_process_group()
    del group


def local_device() -> torch.device:
    """This rank's own GPU, or the CPU where there is none."""
    count, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if count == 0:
        return torch.device("cpu")
    if place >= count:
        raise SettingsError(
            f"{local_size()} processes for {count} GPUs; start one process a GPU: --nproc_per_node {count}"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def rank() -> int:
    """Number of this process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def local_size() -> int:
    """How many of them are on this computer: they share its cores and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes and speaks; also before and after it is in the group that torchrun starts."""
    return rank() == 0 if distributed.is_initialized() else os.environ.get("RANK", "0") == "0"


def share_of(items: Sequence[T]) -> list[T]:
    """The items of this rank. All ranks have equally many: where they do not divide, the first ones stand twice."""
    count = -(-len(items) // size()) * size()
    return [items[index % len(items)] for index in range(rank(), count, size())]


def exchanged(value: Any) -> list[Any]:
    """What every rank has given, in order of rank; values are what JSON holds."""
    if size() == 1:
        return [value]
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = _gathered(torch.tensor([len(payload)]))
    padded = torch.zeros(max(int(n) for n in lengths), dtype=torch.uint8)
    padded[: len(payload)] = payload
    texts = zip(_gathered(padded), lengths, strict=True)
    return [json.loads(bytes(text[: int(length)].tolist())) for text, length in texts]


def from_first(value: Any) -> Any:
    """What the first rank has given, for all; a value that JSON holds."""
    return exchanged(value)[0]


def any_of(flag: bool) -> bool:
    """Whether it holds on one rank: then for all."""
    return means([flag])[0] > 0


def means(values: Sequence[float]) -> list[float]:
    """The mean over all ranks of each value."""
    if size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(total)
    return [float(value) for value in total / size()]


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, for each of them; gradients go back to what each has given."""
    return values if size() == 1 else _Summed.apply(values)  # type: ignore[no-untyped-call]  # torch's


class _Summed(torch.autograd.Function):
    """A loss of such a sum is the same number L on all ranks. Rank r's part of dL/dw is dL/dsum x dsum_r/dw.

    `DistributedDataParallel` takes the mean of the parts; so that it is their sum, the gradient of every rank's L counts.
    """

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def fault(error: RuntimeError) -> MonaisegError | None:
    """What it means that a message to the other ranks failed; None if `error` is not about that."""
    if not any(word in str(error) for word in ("gloo", "Connection closed by peer", "NCCL")):
        return None
    return MonaisegError(
        "another process of this training has ended; its message says why; then go on by --resume"
    )


def take_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give the tensors, on the group's device, the values that the first rank has."""
    if size() == 1:
        return
    for tensor in tensors:
        distributed.broadcast(tensor, src=0)


def shared(network: nn.Module, device: torch.device) -> nn.Module:
    """The network whose gradients are averaged over all ranks; itself where there is one."""
    if size() == 1:
        return network
    network = DistributedDataParallel(network, [device] if device.type == "cuda" else None)
    _shared.add(network)
    return network


def plain(network: nn.Module) -> nn.Module:
    """The network inside of `shared(network)`."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _gathered(tensor: torch.Tensor) -> list[torch.Tensor]:
    tensor = tensor.to(_device())
    found = [torch.empty_like(tensor) for _ in range(size())]
    distributed.all_gather(found, tensor)
    return [item.cpu() for item in found]


def _device() -> torch.device:
    """Where the group's backend wants its tensors."""
    return local_device() if distributed.get_backend() == "nccl" else torch.device("cpu")
