"""Files that are written completely or not at all.

*Atomic* means that a reader of the path finds the old content or the new, never a part of it. *Durable* means that the
new content survives a power failure. Both are achieved by the same steps: write a temporary file in the same folder,
sync it, rename it to the path, and sync the folder.

Every step calls a function of `os` by name, so that the tests can make the n-th call fail.
"""

# ruff: noqa: PTH105, PTH108
from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from monaiseg.errors import DataError, SettingsError, StorageError

TEMPORARY = ".monaiseg-*.tmp"
"""Glob pattern of temporary files; leftovers are not part of any file and may be removed."""

# O_EXCL and O_NOFOLLOW: a link planted under the temporary name is refused, not followed.
_NEW_FILE = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
_NAME = re.compile(r"\w[\w .-]{0,63}")
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
MAX_LETTERS = 128
"""Longest name that is accepted."""
MAX_TEXT_BYTES = 256 << 20
"""Largest text file that is read (256 MiB)."""
_ADVICE = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "your quota is full; free some space, or choose a folder on another disk",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.ENOENT: "create the folder first",
}


def write_atomic(path: str | Path, payload: bytes) -> None:
    """Write `payload` to `path`, atomically and durably. A link at `path` is replaced, not followed.

    Raises:
        StorageError: the disk is full, read-only or failing. The content of `path` is unchanged, unless the last step
            (syncing the folder) failed.
    """
    path = Path(path)
    temporary = _temporary_in(path.parent, path.name)
    try:
        _write_new(temporary, payload)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _storage_error(path, len(payload), error) from error
    finally:
        _forget(temporary)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote `path`. Nobody may be writing it now.

    Raises:
        StorageError: one cannot be removed.
    """
    for leftover in path.parent.glob(TEMPORARY.replace("*", f"{_mark(path.name)}-*")):
        remove(leftover)


def probe_writable(folder: str | Path) -> None:
    """Write, sync and remove a small file in `folder`, to detect problems before the first checkpoint.

    Raises:
        StorageError: `folder` cannot be written to.
    """
    temporary = _temporary_in(Path(folder))
    try:
        _write_new(temporary, bytes(4096))
        _sync_folder(Path(folder))
    except OSError as error:
        raise _storage_error(Path(folder), 4096, error) from error
    finally:
        _forget(temporary)


def is_there(path: Path) -> bool:
    """Whether a path leads to a file or folder; no, too, if the system cannot look, as for a name that is too long."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; see `is_there`."""
    return is_there(path) and path.is_dir()


def make_folder(folder: str | Path) -> Path:
    """Create the folder if it does not exist, check that it is writable, and return its path.

    Raises:
        StorageError: `folder` cannot be created or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, 4096, error) from error
    probe_writable(path)
    return path


def check_room(folder: str | Path, needed: int, what: str) -> None:
    """Check that the disk of `folder` has at least `needed` free bytes for `what`.

    Raises:
        StorageError: fewer bytes are free; the message gives both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder}: {what} need {needed} bytes, but {free} bytes are free; {_ADVICE[errno.ENOSPC]}"
        )


def remove(path: str | Path) -> None:
    """Remove a file if it exists.

    Raises:
        StorageError: it exists and cannot be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be removed ({error.strerror}); remove it by hand"
        ) from error


def sha256_of(source: bytes | str | Path | IO[bytes]) -> str:
    """SHA-256 of bytes, of the file at a path, or of the rest of an open file, in hexadecimal digits.

    >>> sha256_of(b"")[:8]
    'e3b0c442'
    """
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return sha256_of(file)
    digest = hashlib.sha256()
    while chunk := source.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def write_beside(path: Path, suffix: str, document: Mapping[str, Any]) -> Path:
    """Write a JSON document about a file beside it, under its name with another suffix; returns the new file.

    Raises:
        StorageError: as `write_atomic`.
    """
    beside = path.with_suffix(suffix)
    complete = {"checkpoint_sha256": sha256_of(path), **document}
    write_atomic(beside, (json.dumps(complete, indent=2, ensure_ascii=False) + "\n").encode())
    return beside


def read_beside(path: Path, suffix: str) -> dict[str, Any] | None:
    """The document that `write_beside` wrote about a file; None if there is none.

    Raises:
        DataError: the document is damaged, or about another file.
    """
    beside = path.with_suffix(suffix)
    if not beside.exists():
        return None
    document = read_json_object(beside)
    if document.get("checkpoint_sha256") != sha256_of(path):
        raise DataError(
            f"{beside}: was made for another checkpoint, not for {path.name}; remove it"
        )
    return document


def valid_name(name: str, what: str) -> str:
    """The name itself, if it can serve as a file name and as a string in a MONAI bundle's configuration.

    >>> valid_name("hippocampus 2", "task name")
    'hippocampus 2'

    Raises:
        SettingsError: `name` would leave its folder, is a device name on Windows, or could be read as code in a bundle.
    """
    if not _NAME.fullmatch(name) or name[-1] in ". " or _WINDOWS_DEVICE.fullmatch(name):
        raise SettingsError(
            f"{what}: {name[:80]!r} is not a valid name; use 1 to 64 letters, digits, spaces, '_', '-' and '.'; the "
            "first must be a letter, a digit or '_', and the last not '.' or a space"
            + (
                " (this one is the name of a device on Windows)"
                if _WINDOWS_DEVICE.fullmatch(name)
                else ""
            )
        )
    return name


def checked_text(text: str, what: str) -> str:
    """The text itself, if it can be shown on one line and used in a MONAI bundle's configuration.

    Names of labels and channels come from files that users receive from others, and are copied to exported bundles. In
    a bundle, a text that starts with $ is evaluated as code, @ marks a reference and % the content of another file.
    Therefore `LabelTable` and `DataTask` check all their names with this function. Names that become paths are checked
    with `valid_name`.

    >>> checked_text("Left-Thalamus (proper)", "label name")
    'Left-Thalamus (proper)'

    Raises:
        DataError: `text` is empty, longer than 128 characters, not printable on one line, or contains $, @ or %.
    """
    if (
        not text.strip()
        or text != text.strip()
        or len(text) > MAX_LETTERS
        or not text.isprintable()
    ):
        raise DataError(
            f"{what}: {text[:80]!r} is not a valid name; use 1 to {MAX_LETTERS} printable letters, with no space at "
            "either end"
        )
    if code := set(text) & set("$@%"):
        raise DataError(
            f"{what}: {text!r} contains {min(code)}, which could run as code in a MONAI bundle; rename it"
        )
    return text


def _temporary_in(folder: Path, name: str = "") -> Path:
    return folder / TEMPORARY.replace("*", f"{_mark(name)}-{secrets.token_hex(8)}")


def _mark(name: str) -> str:
    """What the temporary files of one file have in common."""
    return sha256_of(name.encode())[:16]


def _write_new(path: Path, payload: bytes) -> None:
    """Write and sync a new file; its mode follows the umask."""
    descriptor = os.open(path, _NEW_FILE, 0o666)
    try:
        rest = memoryview(payload)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    if os.name == "nt":  # Windows has no such operation
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not sync folders
            raise
    finally:
        os.close(descriptor)


def _forget(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # after the rename it no longer exists
        os.unlink(temporary)


def _storage_error(path: Path, needed: int, error: OSError) -> StorageError:
    try:
        free = f"{shutil.disk_usage(path.parent).free} bytes are free"
    except OSError:
        free = "free space is unknown"
    advice = _ADVICE.get(error.errno or 0, "check the disk, or choose a folder on another one")
    reason = error.strerror or type(error).__name__
    return StorageError(
        f"{path}: cannot be written ({reason}): needs {needed} bytes, {free}; {advice}"
    )


def read_bytes(path: Path, most: int = MAX_TEXT_BYTES) -> bytes:
    """Bytes of a regular file of at most `most` bytes; others are refused: a pipe would block, a device never end.

    Raises:
        DataError: the file does not exist, is not a regular file, or is larger than `most`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is not a regular file; give a file")
        if status.st_size > most:
            raise DataError(
                f"{path}: has {status.st_size} bytes, but at most {most} are read; is it the right file?"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); check the path") from error


def read_text(path: Path) -> str:
    """Content of a UTF-8 text file.

    Raises:
        DataError: as `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises DataError if it cannot be read or is not a JSON object."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not JSON ({error}); correct it or write it again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: is not a JSON object; correct it or write it again")
    return document
