"""The machine: memory that is free and cores that may be used, within the limits of a container."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Of a container on Linux: microseconds of computing in each period, and the period."""


def usable_cores() -> int:
    """Cores that this process may use, within the limit of its container."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit: "max"
        quota, period = map(int, CPU_LIMIT.read_text(encoding="ascii").split())
        cores = min(cores, max(math.ceil(quota / period), 1))
    return cores


CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what the container of a process may have."""


def free_memory() -> int:
    """Bytes that a process may take without driving others out, within the limit of its container."""
    with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit: "max"
            limit, used = (
                int((CONTAINER / f"memory.{name}").read_text(encoding="ascii"))
                for name in ("max", "current")
            )
            # Files that were read before are given up when asked.
            with contextlib.suppress(OSError, ValueError):
                parts = (CONTAINER / "memory.stat").read_text(encoding="ascii").split()
                used -= int(parts[parts.index("inactive_file") + 1])
            free = min(free, max(limit - used, 0))
        return free
    return default_cap_bytes()  # not Linux: half of the machine


def default_cap_bytes() -> int:
    """Most bytes that one volume may take in memory: half of the machine's."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # not told on this system
        return 8 << 30
