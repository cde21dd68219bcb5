"""The machine: cores and memory that this process may use, within the limits of its container.

psutil reports what the computer has. On Linux, a *control group* may allow less: containers, cluster jobs and services
each run in one. Control groups are nested, and the lowest limit applies. Both versions are supported:
https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.

No other module of the package asks the operating system for these.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Folder in which Linux shows the control groups."""
MEMBERSHIP = Path("/proc/self/cgroup")
"""File in which Linux lists the control groups of this process."""
MOST_READERS = 4
"""Maximum number of threads that prepare cases; more do not help."""


def usable_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and the limit of its container."""
    process = psutil.Process()
    affinity = getattr(process, "cpu_affinity", None)  # macOS has none
    cores = len(affinity()) if affinity else psutil.cpu_count() or 1
    return min([cores, *_core_limits()])


def all_cores() -> int:
    """Number of cores of the computer, whoever may use them."""
    return psutil.cpu_count() or 1


def reading_threads(most: int = MOST_READERS) -> int:
    """Number of threads that read and prepare cases in parallel: one per usable core, at most `most`."""
    return min(usable_cores(), most)


def memory_limit() -> int:
    """Bytes of memory that the computer has, or the limit of this process's container if it is lower."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())])


def free_memory() -> int:
    """Bytes of memory that this process can take without swapping, within the limits of its container and `ulimit -v`."""
    limits = [*_memory_limits(), *_address_space_limit()]
    left = [max(limit - used, 0) for limit, used in limits]
    return min([psutil.virtual_memory().available, *left])


def gigabytes(count: float) -> str:
    """A number of bytes in words.

    >>> gigabytes(3 * 2**29), gigabytes(2**25)
    ('1.5 GiB', '32 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 0.95 * 2**30 else f"{count / 2**20:.0f} MiB"


def process_memory() -> int:
    """Bytes of memory that this process uses now."""
    return int(psutil.Process().memory_info().rss)


def peak_process_memory() -> int:
    """Largest number of bytes of memory that this process has used so far."""
    info = psutil.Process().memory_info()
    peak: int | None = getattr(info, "peak_wset", None)  # Windows has it
    if peak is None:
        import resource  # noqa: PLC0415  not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    return max(peak, info.rss)  # Linux updates the two at different times


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it: glibc does, in pieces too small to reuse.

    What is only referred to by itself, and was made recently, is freed first: after 30 scans that was 50 MiB.
    """
    gc.collect(1)  # a tenth of a millisecond; all generations would take a quarter of a second
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def processor_name() -> str:
    """Name of the processor, if the system gives it, else the kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _core_limits() -> Iterator[int]:
    """Number of cores that each group may use: its CPU time quota divided by the period, rounded up."""
    for folder in _groups("cpu"):
        version_1 = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        words = _words(folder / "cpu.max") or [word for entry in version_1 for word in entry]
        with contextlib.suppress(ValueError):  # no limit: "max", or -1 in version 1
            quota, period = map(int, words)
            if quota > 0:
                yield math.ceil(quota / period)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Byte limit and usage of each group; cached files do not count as usage, as the system frees them on demand."""
    for folder in _groups("memory"):
        for limit, used, read_files in (
            ("memory.max", "memory.current", "inactive_file"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(ValueError):  # no limit: "max", or huge in version 1
                (most,) = map(int, _words(folder / limit))
                (taken,) = map(int, _words(folder / used))
                statistics = _words(folder / "memory.stat")
                files = dict(zip(statistics[::2], statistics[1::2], strict=True))
                yield most, taken - int(files.get(read_files, 0))


def _address_space_limit() -> Iterator[tuple[int, int]]:
    """Byte limit of this process's address space, as cluster jobs set it with `ulimit -v`, and what it has of it."""
    with contextlib.suppress(ImportError):
        import resource  # noqa: PLC0415  not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit, int(psutil.Process().memory_info().vms)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups in which a controller, "cpu" or "memory", limits this process: its own, then its parents.

    In a container, the path may be that of the host, and the container sees only its last folder, as the root.
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
    """Words of a file; empty if it cannot be read."""
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  Linux's shared memory, not a temporary file
"""Folder of Linux's shared memory. Containers limit it to 64 MiB by default."""


def free_shared_memory() -> int | None:
    """Free bytes of shared memory; None if the system has no limit of its own."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def busy_seconds() -> float:
    """Seconds that all programs together have computed since the computer started, summed over its cores."""
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )
