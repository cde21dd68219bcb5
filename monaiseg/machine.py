"""The machine: cores and memory that this process may use, within the limits of its container.

psutil tells what the computer has. On Linux a *control group* may allow less: a container, a job of a cluster or a
service lies in one. Groups are nested, and the narrowest limit of them counts. Both versions of them are read:
https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.

Nothing else in the package asks the operating system about this.
"""

from __future__ import annotations

import contextlib
import math
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the control groups."""
MEMBERSHIP = Path("/proc/self/cgroup")
"""Where it says which of them this process is in."""
MOST_READERS = 4
"""Threads that prepare cases; more gain nothing."""


def usable_cores() -> int:
    """Cores that this process may use: its own share of the computer's, within the limit of its container."""
    process = psutil.Process()
    affinity = getattr(process, "cpu_affinity", None)  # macOS has none
    cores = len(affinity()) if affinity else psutil.cpu_count() or 1
    return min([cores, *_core_limits()])


def reading_threads(most: int = MOST_READERS) -> int:
    """Threads that read and prepare cases beside one another: one a usable core, at most `most`."""
    return min(usable_cores(), most)


def memory_limit() -> int:
    """Bytes of memory that the computer has, or that the container of this process may take of it."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())])


def free_memory() -> int:
    """Bytes that this process may take without driving others out, within the limit of its container."""
    left = [max(limit - used, 0) for limit, used in _memory_limits()]
    return min([psutil.virtual_memory().available, *left])


def process_memory() -> int:
    """Bytes of memory that this process takes now."""
    return int(psutil.Process().memory_info().rss)


def peak_process_memory() -> int:
    """The most bytes of memory that this process has taken so far."""
    info = psutil.Process().memory_info()
    peak: int | None = getattr(info, "peak_wset", None)  # Windows has it
    if peak is None:
        import resource  # noqa: PLC0415  not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    return max(peak, info.rss)  # Linux brings the two up to date at different moments


def processor_name() -> str:
    """What computes, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _core_limits() -> Iterator[int]:
    """Cores that each group may keep busy: time to compute in each period, over the period; at least one."""
    for folder in _groups("cpu"):
        version_1 = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        words = _words(folder / "cpu.max") or [word for entry in version_1 for word in entry]
        with contextlib.suppress(ValueError):  # no limit is "max", in version 1 it is -1
            quota, period = map(int, words)
            if quota > 0:
                yield math.ceil(quota / period)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Bytes that each group may take, and what it has taken; the system gives up read files when asked for memory."""
    for folder in _groups("memory"):
        for limit, used, read_files in (
            ("memory.max", "memory.current", "inactive_file"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(ValueError):  # no limit is "max", in version 1 a huge number
                (most,) = map(int, _words(folder / limit))
                (taken,) = map(int, _words(folder / used))
                statistics = _words(folder / "memory.stat")
                files = dict(zip(statistics[::2], statistics[1::2], strict=True))
                yield most, taken - int(files.get(read_files, 0))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups by which a controller, "cpu" or "memory", limits this process: its own, then those above.

    In a container the path may be the host's, of which the container sees the last folder alone, as the root.
    """
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
            own = PurePosixPath(path).relative_to("/")
            for group in (own, *own.parents):
                if ".." not in group.parts:
                    yield root / group


def _words(file: Path) -> list[str]:
    """Words of a file; none where it cannot be read."""
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where Linux keeps what processes share, not a temporary file
"""Containers give it 64 MiB unless they are told otherwise."""


def free_shared_memory() -> int | None:
    """Bytes that processes may still share; None where the system sets no limit of its own."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None
