"""Devices: the CPU or GPU to compute on, how exactly it computes, and the number of threads."""

from __future__ import annotations

import importlib.metadata
import os
import re
import warnings

import torch

from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.machine import gigabytes, usable_cores
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
        raise SettingsError(
            f"device {device}: torch can use {_gpus_there()} on this computer; use --device cpu, or -g -1 for the CPU"
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


def check_planned_device(settings: Settings, gpu_id: int | None = None) -> None:
    """Check that settings with a time limit find the GPU that they were planned for.

    Minutes of a GPU are not minutes of a CPU: in the same time, the CPU would train a large network badly. Without a
    time limit it trains just as well, only longer, see `device_of`.

    Raises:
        SettingsError: they do not, and the caller names no device; the message has the command that plans anew.
    """
    task = settings.tsk_set
    is_there = task.gpu_id is None or task.gpu_id < torch.cuda.device_count()
    if gpu_id is not None or is_there or task.budget_minutes is None:
        return
    folder = f"{task.output_root_path}/{task.data_task_name}"
    raise SettingsError(
        f"tsk_set.gpu_id is {task.gpu_id}: these settings were planned for {task.budget_minutes:g} minutes of a GPU, and torch "
        f"can use {_gpus_there()} on this computer; plan anew with `monaiseg plan {folder} --minutes {task.budget_minutes:g} "
        "--force`, or train this network on the CPU with --device cpu"
    )


def gpu_to_plan_for(settings: Settings, device: torch.device) -> str | None:
    """Name of the GPU of this computer if settings that were planned for the CPU leave it unused, else None."""
    was_planned = settings.tsk_set.budget_minutes is not None and settings.tsk_set.gpu_id == -1
    if device.type != "cpu" or not was_planned or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(0)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, which other programs may use as well."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def device_in_words(device: torch.device) -> str:
    """The device, and for a GPU its name and free memory: "cpu", "cuda:0 (NVIDIA H200, 138.2 GiB free)"."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({name_of(device)}, {gigabytes(free_bytes(device))} free)"


def compute_exactly(device: torch.device, *, wanted: bool) -> None:
    """Let a GPU use only operations that give the same bits each time, or the fastest; a CPU always repeats exactly.

    This concerns all of torch in this process. An operation without an exact variant raises RuntimeError.
    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if device.type != "cuda":
        return
    # cuBLAS sums in a fixed order only with a workspace of a fixed size, which it reads when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = False  # it chooses algorithms by a race, in each process anew


def _gpus_there() -> str:
    count = torch.cuda.device_count()
    return f"only GPUs 0 to {count - 1}" if count else "no GPU"


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
