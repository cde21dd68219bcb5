"""Processes that train one network together with torch.distributed: gloo between CPUs, nccl between GPUs.

A *rank* is the number of a process, counted from 0; the *first* process writes files. In a process that has joined no
group, every function here behaves as for a single process. Ranks exchange values as JSON, so nothing is unpickled.
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
"""How long a rank waits for the others, since the first may prepare a large dataset. torchrun ends all if one dies."""
_shared: WeakSet[DistributedDataParallel] = WeakSet()


def is_launched() -> bool:
    """Whether torchrun has started this process, alone or with others."""
    return "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the process group started by torchrun while the block runs. Does nothing if a group is already joined."""
    if not is_launched() or distributed.is_initialized():
        yield
        return
    join(device)
    try:
        yield
    finally:
        leave()


def join(device: torch.device | None = None) -> torch.device:
    """Join the process group started by torchrun, if there is one, and return the device of this process.

    If `device` is None, it is the process's own GPU, or the CPU if there is no GPU.

    Raises:
        SettingsError: this computer has fewer GPUs than processes.
    """
    device = local_device() if device is None else device
    if not is_launched() or distributed.is_initialized():
        return device
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    return device


def leave() -> None:
    """Leave the group at the end of training. Networks wrapped by `shared` can no longer be trained together.

    The threads of a group live as long as any reference to it. A thread that releases its last tensor while Python
    exits aborts the process ("terminate called without an active exception"), so all references are dropped here.
    """
    if not distributed.is_initialized():
        return
    # Dropping the last reference ends the threads and waits for them. Only this reference does so without holding the
    # GIL, which a thread may need to release a tensor; the references of the reducers would wait for ever.
    group = distributed.group.WORLD
    for network in _shared:
        for name in ("reducer", "logger", "process_group"):
            network.__dict__.pop(name, None)
    gc.collect()
    distributed.destroy_process_group()
    del group


def local_device() -> torch.device:
    """This rank's own GPU, or the CPU if there is no GPU."""
    count, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if count == 0:
        return torch.device("cpu")
    if place >= count:
        raise SettingsError(
            f"{local_size()} processes for {count} GPUs; start one process per GPU: --nproc_per_node {count}"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def rank() -> int:
    """Rank of this process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def local_size() -> int:
    """Number of these processes on this computer. They share its cores and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files and messages. Also valid before it joins the group and after it leaves."""
    return rank() == 0 if distributed.is_initialized() else os.environ.get("RANK", "0") == "0"


def share_of(items: Sequence[T]) -> list[T]:
    """The items of this rank. All ranks get the same number; if needed, the first items are repeated."""
    count = -(-len(items) // size()) * size()
    return [items[index % len(items)] for index in range(rank(), count, size())]


def exchanged(value: Any) -> list[Any]:
    """The values of all ranks, in order of rank. Values must be JSON-serialisable."""
    if size() == 1:
        return [value]
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = _gathered(torch.tensor([len(payload)]))
    padded = torch.zeros(max(int(n) for n in lengths), dtype=torch.uint8)
    padded[: len(payload)] = payload
    texts = zip(_gathered(padded), lengths, strict=True)
    return [json.loads(bytes(text[: int(length)].tolist())) for text, length in texts]


def from_first(value: Any) -> Any:
    """The value of the first rank, on all ranks. It must be JSON-serialisable."""
    return exchanged(value)[0]


def any_of(flag: bool) -> bool:
    """Whether the flag is true on any rank."""
    return means([flag])[0] > 0


def means(values: Sequence[float]) -> list[float]:
    """The mean of each value over all ranks."""
    if size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(total)
    return [float(value) for value in total / size()]


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, on each of them. Gradients flow back to the values of each rank."""
    return values if size() == 1 else _Summed.apply(values)  # type: ignore[no-untyped-call]  # torch's


class _Summed(torch.autograd.Function):
    """Sum over all ranks that a loss can be computed from; the loss L is then the same number on all ranks.

    Rank r's part of dL/dw is dL/dsum x dsum_r/dw. `DistributedDataParallel` takes the mean of these parts, not their
    sum. Summing the gradients of L over all ranks in `backward` makes up for it.
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
    """The error to raise if a message to the other ranks failed; None if `error` has another cause."""
    if not any(word in str(error) for word in ("gloo", "Connection closed by peer", "NCCL")):
        return None
    return MonaisegError(
        "another process of this run has ended, and its message says why; then continue with --resume"
    )


def take_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Copy the values of the first rank into the tensors, which are on the group's device."""
    if size() == 1:
        return
    for tensor in tensors:
        distributed.broadcast(tensor, src=0)


def shared(network: nn.Module, device: torch.device) -> nn.Module:
    """The network wrapped so that gradients are averaged over all ranks. With one rank, the network itself."""
    if size() == 1:
        return network
    network = DistributedDataParallel(network, [device] if device.type == "cuda" else None)
    _shared.add(network)
    return network


def plain(network: nn.Module) -> nn.Module:
    """The network inside `shared(network)`."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _gathered(tensor: torch.Tensor) -> list[torch.Tensor]:
    tensor = tensor.to(_device())
    found = [torch.empty_like(tensor) for _ in range(size())]
    distributed.all_gather(found, tensor)
    return [item.cpu() for item in found]


def _device() -> torch.device:
    """The device on which the group's backend needs its tensors."""
    return local_device() if distributed.get_backend() == "nccl" else torch.device("cpu")
