"""Errors: one family of exceptions for problems that the user can fix.

Each message says where the problem is, what is wrong (with the value), and what to do. The command line shows only the
message and exits with 2; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class MonaisegError(Exception):
    """Base class of all errors that a user can fix."""


class SettingsError(MonaisegError, ValueError):
    """A settings file, an option or a combination of them asks for something that cannot be done."""


class DataError(MonaisegError, ValueError):
    """An image, a label map, a list file or a dataset folder cannot be used."""


class CheckpointError(MonaisegError, RuntimeError):
    """A checkpoint is missing, damaged, of another kind, or does not fit the run that it should continue."""


class StorageError(MonaisegError, OSError):
    """A disk is full, read-only or failing."""


class BusyError(MonaisegError, RuntimeError):
    """Another process is working in the same folder."""


class NumericsError(MonaisegError, ArithmeticError):
    """Training produced a loss or weights that are not finite numbers."""


class OutOfMemoryError(MonaisegError, MemoryError):
    """A computation needs more memory than the computer or its GPU has."""

    @classmethod
    def of(cls, what: str, device: str, lack: BaseException, remedy: str) -> OutOfMemoryError:
        """Error with a message of what was computed, on which device, the original error, and what to do."""
        said = str(lack).partition("\n")[0] or type(lack).__name__
        return cls(f"{what}: memory ran out on {device} ({said}); {remedy}")


class MonaisegWarning(UserWarning):
    """A rare warning that does not stop the work and names a consequence that the user should know."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`, or None if no name is similar.

    >>> nearest("patch_sise", ["batch_size", "patch_size"])
    'patch_size'
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def listed(problems: Sequence[str], cap: int = 50) -> str:
    """Problems as text, one per line; problems beyond `cap` are only counted.

    >>> print(listed(["a: missing", "b: missing", "c: missing"], cap=2))
    a: missing
    b: missing
    ... and 1 more
    """
    rest = len(problems) - cap
    return "\n".join([*problems[:cap], *([f"... and {rest} more"] if rest > 0 else [])])


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural.

    >>> counted(1, "case"), counted(3, "case")
    ('1 case', '3 cases')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def counted_of(count: int, whole: int, noun: str) -> str:
    """A number of things and, if it is smaller, the number that it is part of.

    >>> counted_of(1, 1, "case"), counted_of(2, 3, "label")
    ('1 case', '2 of 3 labels')
    """
    words = counted(whole, noun)
    return words if count == whole else f"{count} of {words}"


@contextmanager
def collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Append DataErrors raised in the block to `problems`, so that all of them can be reported at once."""
    try:
        yield
    except DataError as error:
        problems.append(f"{prefix}{error}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its chain of causes: MONAI and Ignite wrap errors that are raised inside them."""
    while error is not None:
        yield error
        error = error.__cause__


def own_error(error: BaseException) -> MonaisegError | None:
    """The first of an error and its causes that the user can fix; None if there is none."""
    return next((cause for cause in causes(error) if isinstance(cause, MonaisegError)), None)


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The first out-of-memory error (Python, NumPy, PyTorch) among an error and its causes; None if there is none."""
    words = ("out of memory", "can't allocate memory", "bad_alloc", "MemoryError")
    for cause in causes(error):
        if isinstance(cause, MemoryError) or any(part in str(cause) for part in words):
            return cause
    return None


@contextmanager
def naming_lack_of_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory in the block into an OutOfMemoryError that says what lacked it and what to do."""
    try:
        yield
    except MonaisegError:
        raise
    except Exception as error:
        if (lack := lack_of_memory(error)) is None:
            raise
        said = str(lack).partition("\n")[0] or type(lack).__name__
        raise OutOfMemoryError(f"{what}: memory ran out ({said}); {remedy}") from error


_LIMITS = {
    ("Too many open files", "[Errno 24]"): (
        "the limit of open files is reached",
        "raise it with `ulimit -n 4096`, or set tsk_set.num_workers to 0",
    ),
    ("can't start new thread", "[Errno 11]", "pthread_create"): (
        "the limit of processes and threads is reached",
        "raise it with `ulimit -u` (in a container --pids-limit), or set tsk_set.num_workers to 0",
    ),
    ("No usable temporary directory",): (
        "there is no folder for temporary files",
        "set TMPDIR to a folder with room",
    ),
    ("</torch_", "shared memory object"): (
        "shared memory is full or missing",
        "give the container more (docker run --shm-size=2g), or set tsk_set.num_workers to 0",
    ),
}
"""Words of the system's errors, and in our words what has run out and what to do."""


def reached_limit(error: BaseException | None) -> str | None:
    """The limit of the system that an error or its causes come from, with what to do; None for other errors.

    >>> reached_limit(OSError(24, "Too many open files"))
    'the limit of open files is reached; raise it with `ulimit -n 4096`, or set tsk_set.num_workers to 0'
    """
    for cause in causes(error):
        for words, (what, remedy) in _LIMITS.items():
            if any(word in str(cause) for word in words):
                return f"{what}; {remedy}"
    return None
