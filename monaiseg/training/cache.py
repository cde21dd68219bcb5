"""The cache: cases after the deterministic transforms (`monaiseg.transforms.cached_chain`), in memory or on disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from monai.data.dataset import CacheDataset
from torch.utils.data import Dataset

from monaiseg.data import Case, Grid, LabelTable, Shape, file_sha256, index_dtype, read_header
from monaiseg.errors import (
    DataError,
    MonaisegError,
    MonaisegWarning,
    OutOfMemoryError,
    StorageError,
    counted,
)
from monaiseg.files import TEMPORARY, sha256_of, write_atomic
from monaiseg.machine import free_memory, gigabytes, reading_threads
from monaiseg.progress import Advance
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.needs import preparing_threads
from monaiseg.transforms import (
    MAX_CENTRES,
    CaseChain,
    Item,
    cached_chain,
    case_item,
    case_name,
    target_shape,
)

LEFTOVER_SECONDS = 24 * 3600
"""A partly written cache entry older than this is removed, because no process is writing it any more."""
_DIGESTS = "sha256.json"


class CachedCases(Dataset[Item]):
    """Cases after the deterministic chain, in the order of `data`, and where they are kept.

    Args:
        items: outputs of the chain, stored or computed on request.
        data: inputs of the chain.
        memory_bytes: memory that the cases take; 0 if they are on disk.
        note: where they are kept and why, for the log.
    """

    def __init__(
        self, items: Dataset[Item], data: Sequence[Item], memory_bytes: int, note: str
    ) -> None:
        self.items, self.data = items, data
        self.memory_bytes, self.note = memory_bytes, note

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    @property
    def ids(self) -> tuple[str, ...]:
        """Case ids."""
        return tuple(case_name(item) for item in self.data)


def cached_cases(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    for_training: bool,
    taken_bytes: int = 0,
    on_progress: Advance | None = None,
) -> CachedCases:
    """Cases after `cached_chain`, kept where `dataset.cache` says; `for_training` if patches will be cut from them.

    `on_progress` is called after each case that is read with the number of cases read and of all cases. For the other
    arguments and the errors, see `prepare_items`.
    """
    chain = cached_chain(settings, table, for_training=for_training)
    data = [case_item(case) for case in cases]
    with contextlib.ExitStack() as stack:
        if on_progress is not None:
            stack.enter_context(chain.counting(len(data), on_progress))
        return prepare_items(data, chain, settings, table, cache_folder, taken_bytes=taken_bytes)


def prepare_items(
    data: Sequence[Item],
    transform: CaseChain,
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    taken_bytes: int = 0,
) -> CachedCases:
    """Items after `transform`, kept where `dataset.cache` says.

    Args:
        data: items from `case_item`, with label maps.
        transform: chain from `cached_chain`. The output of any other chain is never kept on disk, where a run with a
            different chain could find it.
        settings: settings that say where to keep the items.
        table: label table of the network.
        cache_folder: folder for items kept on disk; created when needed. Entries are found by the content of the
            case's files, so several runs can share them. The folder can be removed safely when no run is in progress.
        taken_bytes: memory that other cached cases already take.

    Raises:
        DataError: a case cannot be used; the message names it.
        StorageError: the disk is full, read-only or failing.
    """
    wanted = settings.dataset.cache
    grids = [_grid_of(item) for item in data]
    need = sum(_bytes_of(grid, transform, settings, table) for grid in grids)
    threads = preparing_threads(grids, settings)
    allowance = memory_allowance(wanted.memory_gb, taken_bytes)
    fits = need <= allowance
    where = ("memory" if fits else "disk") if wanted.where == "auto" else wanted.where
    size = f"{counted(len(data), 'cached case')} would take {gigabytes(need)}"
    share = f"{gigabytes(allowance)} of memory may be used for them"
    items: Dataset[Item]
    if where == "memory":
        # copy_cache=False: no transform of the training chain modifies its input.
        try:
            items = CacheDataset(
                data, transform, num_workers=threads, progress=False, copy_cache=False
            )
        except MemoryError as error:
            last = f" ({error})" if isinstance(error, OutOfMemoryError) else ""
            raise OutOfMemoryError(
                f"{size}, but memory ran out; set dataset.cache.where to disk{last}"
            ) from error
        note = f"{size}; {share}: cached in memory"
    elif where == "disk" and transform.digest is not None:
        items = DiskCache(
            data, transform, Path(cache_folder), transform.digest, need, threads=threads
        )
        note = (
            f"{size}; {share}: cached in {cache_folder}, which you may delete when no run uses it"
        )
    else:
        items = _Uncached(data, transform)
        note = f"{size}; not cached, but read again each time"
    return CachedCases(items, data, need if where == "memory" else 0, note)


def cached_bytes(shape: Shape, num_channels: int, num_classes: int, num_groups: int) -> int:
    """Size in bytes of a cached case of `shape` voxels: intensities in float32, class indices and patch centres.

    >>> cached_bytes((10, 10, 10), num_channels=2, num_classes=57, num_groups=0)
    9000
    """
    voxels = math.prod(shape)
    centres = min(num_groups * MAX_CENTRES, voxels)
    return voxels * (4 * num_channels + index_dtype(num_classes).itemsize) + 4 * centres


def _grid_of(item: Item) -> Grid:
    try:
        return read_header(item["image"][0]).grid
    except DataError as error:
        raise DataError(f"case {case_name(item)!r}: {error}") from error


def _bytes_of(grid: Grid, transform: CaseChain, settings: Settings, table: LabelTable) -> int:
    shape = target_shape(grid, settings)
    num_channels, num_groups = settings.dataset.num_channels, transform.num_centre_groups
    return cached_bytes(shape, num_channels, table.num_classes, num_groups)


def memory_allowance(memory_gb: float | None, taken_bytes: int = 0) -> int:
    """Bytes of memory still available to the cache: the limit in the settings, or half of the memory free at the start.

    Processes that train together on one computer share the limit.
    """
    sharers = distributed.local_size()
    free = free_memory() / sharers
    total = (free + taken_bytes) / 2 if memory_gb is None else memory_gb * 2**30 / sharers
    return max(int(total) - taken_bytes, 0)


class _Uncached(Dataset[Item]):
    """Items read on request. The last case is kept, because its patches are drawn one after another."""

    def __init__(self, data: Sequence[Item], chain: CaseChain) -> None:
        self.data, self.chain = data, chain
        self._last: tuple[int, Item] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        if self._last is None or self._last[0] != index:
            self._last = (index, self.chain(self.data[index]))
        return self._last[1]


class DiskCache(Dataset[Item]):
    """Cached cases as memory-mapped `.npy` files, one folder per case. Workers share the memory pages.

    The name of a folder is a SHA-256 of the case's files and the chain. A folder gets that name only when it is
    complete. It also holds the SHA-256 of its own files, which are checked when a run starts. MONAI's
    `PersistentDataset` identifies a case by its path, so a replaced file would give the old voxels.

    Args:
        data: inputs of the chain.
        chain: deterministic chain whose outputs are tensors and strings.
        folder: folder of all entries.
        chain_digest: digest of everything, apart from the files, that determines the output of the chain.
        need_bytes: size of all entries.
        threads: number of cases that are prepared at the same time. None: one per core.
    """

    def __init__(
        self,
        data: Sequence[Item],
        chain: CaseChain,
        folder: Path,
        chain_digest: str,
        need_bytes: int,
        *,
        threads: int | None = None,
    ) -> None:
        self.data, self.chain = data, chain
        with _writing(folder, need_bytes):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
        with ThreadPoolExecutor(threads or reading_threads()) as pool:
            keys = pool.map(lambda item: _content_key(item, chain_digest), data)
            self._entries = [folder / key for key in keys]
            whole = pool.map(_is_whole, self._entries)
            missing = [index for index, is_there in enumerate(whole) if not is_there]
            _check_room(folder, need_bytes * len(missing) // max(len(data), 1))
            list(pool.map(self._prepare, missing))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        entry, case_id = self._entries[index], case_name(self.data[index])
        try:  # "c" (copy on write): the tensors are writable, the files are not changed
            arrays = {path.stem: np.load(path, mmap_mode="c") for path in entry.glob("*.npy")}
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except (OSError, ValueError) as error:
            raise DataError(
                f"case {case_id!r}: its cache {entry} cannot be read ({error}); remove that folder and resume"
            ) from error
        if not tensors:
            raise DataError(
                f"case {case_id!r}: its cache {entry} has been removed; resume to build it again"
            )
        return {**tensors, "case_id": case_id}

    def _prepare(self, index: int) -> None:
        entry, item = self._entries[index], self.chain(self.data[index])
        tensors = {k: v for k, v in item.items() if isinstance(v, torch.Tensor)}
        with _writing(entry.parent, sum(tensor.nbytes for tensor in tensors.values())):
            _write_entry(entry, tensors)


def _content_key(item: Item, chain_digest: str) -> str:
    digests = [file_sha256(path) for path in (*item["image"], item["label"])]
    return hashlib.sha256(json.dumps([chain_digest, *digests]).encode()).hexdigest()[:32]


def _is_whole(entry: Path) -> bool:
    """Whether an entry exists and is unchanged. A damaged entry is removed, with a warning."""
    if not entry.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        digests = json.loads((entry / _DIGESTS).read_bytes())
        if digests == {path.name: sha256_of(path) for path in entry.glob("*.npy")}:
            return True
    warnings.warn(f"{entry}: is damaged, and is built again", MonaisegWarning, stacklevel=2)
    shutil.rmtree(entry, ignore_errors=True)
    return False


def _write_entry(entry: Path, tensors: dict[str, torch.Tensor]) -> None:
    prefix, suffix = TEMPORARY.split("*")
    temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=entry.parent))
    try:
        for name, tensor in tensors.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, tensor.numpy())
                file.flush()
                os.fsync(file.fileno())
        digests = {path.name: sha256_of(path) for path in temporary.glob("*.npy")}
        write_atomic(temporary / _DIGESTS, json.dumps(digests).encode())
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():  # otherwise another run has just written the same entry
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_room(folder: Path, need_bytes: int) -> None:
    """Check for space before the first entry: a full disk would also stop the checkpoints."""
    with _writing(folder, need_bytes):
        if need_bytes > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(TEMPORARY):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path, need_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, MonaisegError):
            raise
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        raise StorageError(
            f"{folder}: the cache cannot be written ({error.strerror or error}): needs "
            f"{gigabytes(need_bytes)}, {gigabytes(shutil.disk_usage(existing).free)} are free; free some space, or "
            "set dataset.cache.where to memory or none"
        ) from error
