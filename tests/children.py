"""Child processes for what must not touch the test's own: limits, audit hooks, death."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monaiseg.machine import return_free_memory


@dataclass(frozen=True)
class Child:
    """What a child found out, and the most memory that it took beyond what it was born with."""

    result: Any
    peak_bytes: int


def in_child(
    work: Callable[[], Any], *, memory_bytes: int | None = None, cpu_seconds: int | None = None
) -> Child:
    """Does `work` in a fork of this process and gives its result, which JSON must be able to hold.

    Args:
        work: what to do.
        memory_bytes: address space that the child may take beyond what it is born with.
        cpu_seconds: computing that the child may do.

    Raises:
        AssertionError: the work raised something, or the child was killed.
    """
    # The child would use what this process has freed and not given back, and its peak would look too small.
    return_free_memory()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live(work, memory_bytes, cpu_seconds, writer)
    os.close(writer)
    with os.fdopen(reader) as told:
        told_text = told.read()
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code >= 0, f"the child died by {signal.Signals(-code).name}"
    answer = json.loads(told_text)
    assert "raised" not in answer, answer["raised"]
    return Child(answer["result"], usage.ru_maxrss * 1024 - answer["born"])


def _live(
    work: Callable[[], Any], memory_bytes: int | None, cpu_seconds: int | None, told: int
) -> None:
    """The child's life; never returns."""
    born = _pages(os.getpid(), 1)
    if (torch := sys.modules.get("torch")) is not None:
        # A pool of OpenMP's that the parent has used is not there after a fork: it would hang.
        torch.set_num_threads(1)
    try:
        if memory_bytes is not None:
            limit = _pages(os.getpid(), 0) + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if cpu_seconds is not None:
            spent = resource.getrusage(resource.RUSAGE_SELF)
            seconds = int(spent.ru_utime + spent.ru_stime) + 1 + cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        answer = {"born": born, "result": work()}
    except BaseException:  # noqa: BLE001  the parent shall see it
        answer = {"raised": traceback.format_exc()}
    with os.fdopen(told, "w") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    os._exit(0)


def _pages(pid: int, place: int) -> int:
    """Bytes of address space (place 0) or memory (place 1) of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[place]
    return int(pages) * resource.getpagesize()
