"""Devices: which processor or GPU computes, and with how many threads."""

from __future__ import annotations

import importlib.metadata
import re
import warnings

import torch

from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.machine import usable_cores
from monaiseg.settings import Settings
from monaiseg.training import distributed

OLDEST = {"torch": (2, 10), "monai": (1, 6, 1)}
"""Older ones have known holes in what they load; pyproject.toml says which."""


def choose_device(wanted: str | torch.device | int | None = None) -> torch.device:
    """The device asked for: None is the first GPU if there is one, else the CPU; -1 is the CPU; N is GPU N.

    Whatever computes passes here, so the versions of torch and MONAI are looked at here too.

    Raises:
        SettingsError: a GPU is asked for that is not there, or torch or MONAI is too old to load files safely.
    """
    _check_installed()
    if wanted is None:
        wanted = "cuda:0" if torch.cuda.is_available() else "cpu"
    if isinstance(wanted, int):
        wanted = "cpu" if wanted == -1 else f"cuda:{wanted}"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise SettingsError(f"device {wanted!r} is not known; use cpu or cuda:0") from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        there = f"GPUs 0 to {count - 1}" if count else "no GPU"
        raise SettingsError(
            f"device {device}: this computer has {there} that torch can use; use -1 for the CPU"
        )
    if device.index is not None:  # seeds and pinned memory are those of the current one
        torch.cuda.set_device(device)
    return device


def device_of(settings: Settings, gpu_id: int | None = None) -> torch.device:
    """The device that the caller asks for; one that only the settings name gives way to the CPU, aloud.

    Raises:
        SettingsError: `gpu_id` is a GPU that is not there.
    """
    if gpu_id is not None:
        return choose_device(gpu_id)
    wanted = settings.tsk_set.gpu_id
    if wanted is not None and wanted >= torch.cuda.device_count():
        warnings.warn(
            f"tsk_set.gpu_id is {wanted}, but there is no such GPU: computing on the CPU",
            MonaisegWarning,
            stacklevel=3,
        )
        wanted = -1
    return choose_device(wanted)


def _check_installed() -> None:
    for name, oldest in OLDEST.items():
        installed = importlib.metadata.version(name)
        numbers = tuple(map(int, re.findall(r"\d+", installed.partition("+")[0])[: len(oldest)]))
        if numbers < oldest:
            wanted = ".".join(map(str, oldest))
            raise SettingsError(
                f"{name} {installed} is installed, and loading files with it is not safe; install {name}>={wanted}"
            )


def name_of(device: torch.device) -> str:
    """Name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether this is a processor with instructions for bfloat16 (AVX-512 BF16 or AMX): others would emulate them."""
    # Older versions of torch do not say what the processor can do.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    wanted = ("avx512_bf16", "amx_bf16")
    return device.type == "cpu" and any(capabilities.get(name) for name in wanted)


def set_threads(num_threads: int | None) -> int:
    """Set the threads of the CPU's compute, one a usable core unless given; returns their number.

    Processes that train together on one computer share its cores.
    """
    torch.set_num_threads(num_threads or max(usable_cores() // distributed.local_size(), 1))
    return torch.get_num_threads()
