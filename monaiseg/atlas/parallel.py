"""Parallel: scans side by side in processes, each on one thread.

Registration works on small tensors, for which several threads of torch are no faster than one, and far slower beside
another busy program; Python's own threads would wait for one another between the operations. With one thread a scan,
the result does not depend on the number of cores either.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_work: list[Callable[[Any], Any]] = []
"""The function of the pool in progress; forked processes inherit it, so it need not be picklable."""


def mapped(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function's result for each item, in as many processes as torch was set to use threads.

    One after another where processes cannot be forked, and inside of such a process, which has one thread.
    """
    todo = list(items)
    with single_threaded() as threads:
        count = min(threads, len(todo))
        if count < 2 or "fork" not in multiprocessing.get_all_start_methods():
            return [function(item) for item in todo]
        _work.append(function)
        try:
            context = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(count, context, initializer=_heed_the_main_process) as pool:
                return list(pool.map(_do, todo))
        finally:
            _work.pop()


@contextlib.contextmanager
def single_threaded() -> Iterator[int]:
    """Let torch's operations use one thread each while the block runs; gives the number before."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield count
    finally:
        torch.set_num_threads(count)


def _do(item: Any) -> Any:
    return _work[-1](item)


def _heed_the_main_process() -> None:
    """Leave Ctrl-C to the main process, which ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
