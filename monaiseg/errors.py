"""What can go wrong in a way that the user can put right: one family of exceptions.

Each says where, what was wrong (with the value), and what to do. The command line shows the message alone and
exits with 2; anything else that is raised is our own mistake and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class MonaisegError(Exception):
    """Parent of every fault that a user can put right."""


class SettingsError(MonaisegError, ValueError):
    """A settings file, a flag or a combination of them asks for something that cannot be done."""


class DataError(MonaisegError, ValueError):
    """An image, a label map, a list file or a dataset folder cannot be used."""


class CheckpointError(MonaisegError, RuntimeError):
    """A checkpoint is missing, damaged, of another kind, or does not fit what it is asked to go on with."""


class StorageError(MonaisegError, OSError):
    """A disk is full, read-only or failing."""


class BusyError(MonaisegError, RuntimeError):
    """Another process is at work in the same folder."""


class NumericsError(MonaisegError, ArithmeticError):
    """Training produced a loss or weights that are not finite numbers."""


class OutOfMemoryError(MonaisegError, MemoryError):
    """A computation needs more memory than the computer or its GPU has."""

    @classmethod
    def of(cls, what: str, device: str, lack: BaseException, remedy: str) -> OutOfMemoryError:
        """In words: what was computed on which device, the error that said so, and what to do."""
        said = str(lack).partition("\n")[0] or type(lack).__name__
        return cls(f"{what}: memory ran out on {device} ({said}); {remedy}")


class MonaisegWarning(UserWarning):
    """Something the user should know that does not stop the work: it names a consequence, and is rare."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None where none does.

    >>> nearest("patch_sise", ["batch_size", "patch_size"])
    'patch_size'
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def listed(problems: Sequence[str], cap: int = 50) -> str:
    """Problems under one another, one a line; past `cap` the rest are counted.

    >>> print(listed(["a: missing", "b: missing", "c: missing"], cap=2))
    a: missing
    b: missing
    ... and 1 more
    """
    rest = len(problems) - cap
    return "\n".join([*problems[:cap], *([f"... and {rest} more"] if rest > 0 else [])])


@contextmanager
def collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Puts a fault on the list instead of stopping at it, so that all can be named at once."""
    try:
        yield
    except DataError as error:
        problems.append(f"{prefix}{error}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, one after the other: MONAI and ignite wrap what is raised inside them."""
    while error is not None:
        yield error
        error = error.__cause__


def own_error(error: BaseException) -> MonaisegError | None:
    """The first among an error and its causes that the user can put right; None if none is."""
    return next((cause for cause in causes(error) if isinstance(cause, MonaisegError)), None)


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The first among an error and its causes that is a lack of memory, Python's, numpy's or torch's; None if none is."""
    words = ("out of memory", "can't allocate memory", "bad_alloc", "MemoryError")
    for cause in causes(error):
        if isinstance(cause, MemoryError) or any(part in str(cause) for part in words):
            return cause
    return None
