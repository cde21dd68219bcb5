"""The folder of a run: the paths of its files, its lock and its log.

A *run folder* is in the folder of its data task and has the name of the run. The process that trains in it locks it.
The lock belongs to the operating system (flock), so it is released however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from monaiseg.data import CACHE_FOLDER, SPLITS, VOLUMES_FOLDER
from monaiseg.errors import BusyError, CheckpointError, MonaisegWarning, SettingsError, StorageError
from monaiseg.files import probe_writable, valid_name, write_atomic
from monaiseg.settings import Settings, dump_settings

_TAKEN = {*SPLITS, VOLUMES_FOLDER, CACHE_FOLDER}
"""Names in the folder of a data task that are not runs."""

_NAMING_SECONDS = 1.0
"""How long to wait for the process that holds the lock to write its name into the lock file."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def of(cls, data_task: Path, name: str) -> RunFolder:
        """The folder of the run `name` in the folder of a data task.

        Raises:
            SettingsError: the name points outside that folder, or the data task itself uses it.
        """
        if valid_name(name, "task name").casefold() in _TAKEN:
            raise SettingsError(
                f"task name: {name!r} is used by the prepared dataset itself; choose another name"
            )
        return cls(data_task / name)

    @property
    def settings_file(self) -> Path:
        """The settings of this run, with the value of every key."""
        return self.path / "cur_task_setting.json"

    @property
    def checkpoints(self) -> Path:
        """The last two commits, the best, and those that `keep_period` keeps."""
        return self.path / "checkpoints"

    @property
    def records(self) -> Path:
        """Scores, reports and label maps."""
        return self.path / "records"

    @property
    def history(self) -> Path:
        """CSV file with one row per epoch."""
        return self.path / "history.csv"

    @property
    def log_file(self) -> Path:
        """Log of the run."""
        return self.path / "log.txt"

    @property
    def is_trained(self) -> bool:
        """Whether a run has committed here. A best checkpoint alone does not count: it is written before the commit."""
        records = self.checkpoints.glob("*.json")
        return any(not path.name.startswith("best-") for path in records)

    def write_settings(self, settings: Settings) -> None:
        """Save the resolved settings in the folder."""
        write_atomic(self.settings_file, dump_settings(settings).encode())

    @contextlib.contextmanager
    def opened(self, *, resume: bool) -> Iterator[RunFolder]:
        """Create the folder if needed, lock it, check that it is writable and start its log.

        Raises:
            CheckpointError: `resume` is true, but the folder holds no run, or its checkpoints are gone.
            SettingsError: `resume` is false, but the folder already holds checkpoints.
            BusyError: another process trains in this folder.
            StorageError: the folder cannot be written.
        """
        if resume and not self.checkpoints.is_dir():
            raise CheckpointError(
                f"{self.path}: there is no run to resume; leave out --resume, or correct the name of the folder"
            )
        self._create()
        with _locked(self.path / ".lock"):
            if resume and self.history.exists() and not self.is_trained:
                raise CheckpointError(
                    f"{self.checkpoints}: the checkpoints of this run are gone; put them back, or train again "
                    "under another name (--name)"
                )
            if self.is_trained and not resume:
                raise SettingsError(
                    f"{self.path}: this run exists; continue it with --resume (in Python resume=True), or choose "
                    "another name (--name, task_name=...; in a bundle --output_dir)"
                )
            probe_writable(self.checkpoints)
            with _logging_to(self.log_file):
                yield self

    def _create(self) -> None:
        try:
            for folder in (self.checkpoints, self.records):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be created ({error.strerror}); choose a folder that you may write to"
            ) from error


_held: set[int] = set()


def _leave_to_parent() -> None:
    """Close the lock file in a forked child: a worker that outlives its trainer must not keep the folder locked."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock. The file tells other processes who holds it and since when; it remains after the lock is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be opened ({error.strerror}); choose a folder that you may write to"
        ) from error
    _held.add(descriptor)
    owner = os.getpid()
    try:
        _take(descriptor, path)
        yield
    finally:
        if os.getpid() == owner:
            _held.discard(descriptor)
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    except BlockingIOError as error:
        raise BusyError(
            f"{path.parent}: {_holder_in_words(descriptor)} is training here; wait for it, or choose another name (--name)"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be locked ({error.strerror}); free some space, or choose a folder on a local disk"
        ) from error


def _holder_in_words(descriptor: int) -> str:
    """The process that holds the lock. It writes its name just after taking the lock, so retry for a moment."""
    deadline = time.monotonic() + _NAMING_SECONDS
    while True:
        try:
            holder = json.loads(os.pread(descriptor, 4096, 0))
            return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
        except (OSError, ValueError, KeyError, TypeError):
            if time.monotonic() > deadline:
                return "another process"
            time.sleep(0.01)


class _LogFile(logging.FileHandler):
    """A log file whose disk may fail: training continues after one warning."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._has_failed = False

    def _open(self) -> TextIOWrapper:
        """Open the file for appending. A symbolic link of that name is refused, not followed."""
        file = open(  # noqa: SIM115  logging closes it
            self.baseFilename,
            self.mode,
            encoding=self.encoding,
            opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666),
        )
        return cast(TextIOWrapper, file)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. `logging` does not catch errors from opening the file."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own
        """Warn once that lines are lost."""
        if not isinstance(sys.exc_info()[1], OSError):  # our mistake in the logging call
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            warnings.warn(
                f"{self.baseFilename}: cannot be written; the log of this run will have gaps",
                MonaisegWarning,
                stacklevel=2,
            )


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Append monaiseg's log messages of level INFO and above to the file at `path`."""
    logger = logging.getLogger("monaiseg")
    level, handler = logger.level, _LogFile(path)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        with contextlib.suppress(OSError):  # a warning has been given already
            handler.close()
