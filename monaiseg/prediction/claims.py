"""Claims: which of several runs into one folder makes which files.

A run claims a case before it reads it, by locking a hidden file beside its outputs. The lock belongs to the operating
system, so it is gone as soon as the process is, however it ends. The hidden file is removed under the lock; filelock
makes sure that nobody locks a file that has just been removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from monaiseg.errors import StorageError
from monaiseg.files import remove

POLL_SECONDS = 0.2


class Claim:
    """The right to make one file, held by at most one run at a time.

    Args:
        output: the file.

    Raises:
        StorageError: its folder cannot be written to.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f".{output.name}.lock")
        # The thread that reads a scan claims it, the one that writes its label map lets it go.
        self._lock = FileLock(self.path, thread_local=False)

    def take(self, seconds: float = 0.0) -> bool:
        """Take the claim, waiting for up to `seconds` if another run holds it; -1 waits for ever."""
        try:
            self._lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            return False
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be locked ({error.strerror}); choose a folder on a disk that you may write to"
            ) from error
        return True

    def drop(self) -> None:
        """Let the claim go, if it is held."""
        if self._lock.is_locked:
            remove(self.path)
            self._lock.release()


@contextlib.contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold the claim to a file that several runs update, waiting for it as long as it takes."""
    claim = Claim(output)
    claim.take(-1)
    try:
        yield
    finally:
        claim.drop()


def drop_abandoned(outputs: Iterable[Path]) -> None:
    """Remove the lock files that killed processes have left beside these files."""
    for claim in map(Claim, outputs):
        if claim.path.exists() and claim.take():
            claim.drop()
