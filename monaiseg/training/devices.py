"""Devices: the CPU or GPU to compute on, and the number of threads."""

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
"""Older versions have known vulnerabilities when they load files; pyproject.toml lists them."""


def choose_device(wanted: str | torch.device | int | None = None) -> torch.device:
    """The requested device. None: the first GPU if there is one, else the CPU. -1: the CPU. N: GPU N.

    Everything that computes calls this function, so it also checks the versions of torch and MONAI.

    Raises:
        SettingsError: the requested GPU does not exist, or torch or MONAI is too old to load files safely.
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
        there = f"only GPUs 0 to {count - 1}" if count else "no GPU"
        raise SettingsError(
            f"device {device}: torch can use {there} on this computer; use -1 for the CPU"
        )
    if device.index is not None:  # seeds and pinned memory belong to the current device
        torch.cuda.set_device(device)
    return device


def device_of(settings: Settings, gpu_id: int | None = None) -> torch.device:
    """The device that the caller asks for, or that of the settings.

    If a GPU that is named only in the settings does not exist, the CPU is used, with a warning.

    Raises:
        SettingsError: `gpu_id` names a GPU that does not exist.
    """
    if gpu_id is not None:
        return choose_device(gpu_id)
    wanted = settings.tsk_set.gpu_id
    if wanted is not None and wanted >= torch.cuda.device_count():
        warnings.warn(
            f"tsk_set.gpu_id is {wanted}, but there is no such GPU; the CPU is used",
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
                f"{name} {installed} is installed, which cannot load files safely; install {name}>={wanted}"
            )


def name_of(device: torch.device) -> str:
    """Name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device is a CPU with bfloat16 instructions (AVX-512 BF16 or AMX); other CPUs would emulate them."""
    # Older versions of torch do not report the CPU's capabilities.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    wanted = ("avx512_bf16", "amx_bf16")
    return device.type == "cpu" and any(capabilities.get(name) for name in wanted)


def set_threads(num_threads: int | None) -> int:
    """Set the number of CPU threads and return it. The default is one thread per usable core.

    Processes that train together on one computer share its cores.
    """
    torch.set_num_threads(num_threads or max(usable_cores() // distributed.local_size(), 1))
    return torch.get_num_threads()
