"""Pipeline: read the next job, compute this one and write the last at the same time, with results in order.

There is one thread for reading and one for writing; the caller's thread computes. At most one job is read ahead and at
most one is being written, so memory does not grow with the number of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def pipelined(
    jobs: Iterable[Job],
    read: Callable[[Job], Read],
    compute: Callable[[Job, Read], Computed],
    write: Callable[[Job, Read, Computed], Written],
    may_read_ahead: Callable[[Job], bool],
) -> Iterator[tuple[Job, Written | Exception]]:
    """Each job in order, with what `write` returned for it, or the exception that one of the three stages raised.

    Args:
        jobs: what to do.
        read: first stage, in a thread of its own.
        compute: second stage, in the caller's thread.
        write: third stage, in a thread of its own.
        may_read_ahead: whether there is memory for reading a job while another is computed.
    """
    left = iter(jobs)
    # One thread of torch's for each: they must not take cores from the one that computes.
    with (
        ThreadPoolExecutor(1, "read", _use_one_core) as reader,
        ThreadPoolExecutor(1, "write", _use_one_core) as writer,
    ):
        writing: tuple[Job, Future[Written]] | None = None
        job = next(left, None)
        reading = None if job is None else reader.submit(read, job)
        try:
            while job is not None and reading is not None:
                item = _outcome(reading.result)
                reading, following = None, next(left, None)
                if following is not None and may_read_ahead(following):
                    reading = reader.submit(read, following)
                result = item if isinstance(item, Exception) else _outcome(compute, job, item)
                if writing is not None:
                    yield writing[0], _outcome(writing[1].result)
                    writing = None
                if isinstance(item, Exception) or isinstance(result, Exception):
                    assert isinstance(result, Exception)
                    yield job, result
                else:
                    writing = job, writer.submit(write, job, item, result)
                del item, result
                if following is not None and reading is None:
                    if writing is not None:
                        writing[1].exception()  # waits
                    reading = reader.submit(read, following)
                job = following
            if writing is not None:
                yield writing[0], _outcome(writing[1].result)
        finally:
            reader.shutdown(cancel_futures=True)


def _use_one_core() -> None:
    torch.set_num_threads(1)


def _outcome(work: Callable[..., Written], *given: object) -> Written | Exception:
    try:
        return work(*given)
    except Exception as error:  # noqa: BLE001  the caller decides
        return error
