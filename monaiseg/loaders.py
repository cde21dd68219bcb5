"""Loaders: from cases to batches that can be repeated bit for bit, and gone on with from any step.

A *draw* is one training patch. Its key (epoch, position, index) says which case it is cut from and, with the seed,
everything random about it: nothing depends on how many processes work, on what they did before, or on any global
random state. An epoch's position is arithmetic, so a resumed training skips what it has done without computing it.

*Prepared* is what waits in the cache: a case after the deterministic chain, see `transforms.cached_chain`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import math
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.dataset import CacheDataset
from monai.data.meta_obj import get_track_meta, set_track_meta
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from monaiseg import distributed
from monaiseg.cases import Case
from monaiseg.data_tasks import DataTask
from monaiseg.devices import usable_cores
from monaiseg.errors import (
    DataError,
    MonaisegError,
    MonaisegWarning,
    OutOfMemoryError,
    SettingsError,
    StorageError,
)
from monaiseg.files import TEMPORARY, sha256_of, write_atomic
from monaiseg.geometry import nearest_multiples
from monaiseg.labels import LabelTable, index_dtype
from monaiseg.settings import Settings
from monaiseg.transforms import (
    MAX_CENTRES,
    CaseChain,
    Item,
    cached_chain,
    case_item,
    case_name,
    target_shape,
    training_chain,
)
from monaiseg.volumes import default_cap_bytes, file_sha256, read_header

Key = tuple[int, int, int]
"""Epoch, position of the draw in it, index of the case."""
WORKER_TIMEOUT_SECONDS = 300
"""A process that has not delivered a batch for so long hangs."""
LEFTOVER_SECONDS = 24 * 3600
"""A half-written cache entry of this age has no writer any more."""
_DIGESTS = "sha256.json"


def derive(*parts: int | str) -> int:
    """A number of 63 bits that follows from `parts` alone, on every machine.

    >>> derive(0, "order", 1)
    8677279991123922410
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


# ---------------------------------------------------------------- the cases of a split


def limited(task: DataTask, split: str, settings: Settings) -> tuple[Case, ...]:
    """The cases of a split, at most `dataset.max_num_for_loading`; the choice follows from the seed.

    Raises:
        DataError: there is nothing to train on.
    """
    cases = task.cases.get(split, ())
    if split == "train" and not cases:
        raise DataError(
            f"{task.folder}: no training cases; prepare the data task with a training split"
        )
    most = settings.dataset.max_num_for_loading[("train", "val", "test", "debug").index(split)]
    if most == -1 or most >= len(cases):
        return cases
    seed = settings.tsk_set.seed
    ranked = sorted(cases, key=lambda case: derive(seed, "choice", case.id))[:most]
    return tuple(sorted(ranked, key=lambda case: case.id))


def validated(task: DataTask, split: str, settings: Settings) -> tuple[Case, ...]:
    """The cases of val or debug that a validation takes, in the same order; of several processes each has a share."""
    most = settings.tsk_set.max_batch_num_per_epoch[("train", "val", "debug").index(split)]
    cases = limited(task, split, settings)
    return tuple(distributed.share_of(cases if most == -1 else cases[:most]))


# ---------------------------------------------------------------- prepared cases


class PreparedCases(Dataset[Item]):
    """Cases after the deterministic chain, in the order they were given in, and where they wait.

    Args:
        items: what the chain has made, or makes when asked.
        data: what it was given.
        memory_bytes: what they take of the memory: 0 on disk.
        note: where they wait and why, for the log.
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
) -> PreparedCases:
    """Prepare cases and keep them where `dataset.cache` says; `for_training` if patches will be cut from them.

    The other arguments and what is raised are those of `prepare_items`.
    """
    chain = cached_chain(settings, table, for_training=for_training)
    data = [case_item(case) for case in cases]
    return prepare_items(data, chain, settings, table, cache_folder, taken_bytes=taken_bytes)


def prepare_items(
    data: Sequence[Item],
    transform: CaseChain,
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    taken_bytes: int = 0,
    beside: Dataset[Item] | None = None,
) -> PreparedCases:
    """Prepare items and keep them where `dataset.cache` says.

    Args:
        data: items as `case_item` makes them, with label maps.
        transform: as `cached_chain` makes it. What another chain makes is never kept on disk, where it could be found
            again by a training that means something else.
        settings: they decide the place.
        table: the labels that the settings ask for.
        cache_folder: where files go if it is the disk; created when needed. Entries are found again by the content of
            the case's files, so several trainings share them. Removing it is safe when none is running.
        taken_bytes: memory that other prepared cases take already.
        beside: such other cases.

    Raises:
        DataError: a case cannot be used; it is named.
        StorageError: the disk is full, read-only or failing.
    """
    wanted = settings.dataset.cache
    need = sum(_prepared_bytes(item, transform, settings, table) for item in data)
    allowance = _memory_allowance(
        wanted.memory_gb, taken_bytes + getattr(beside, "memory_bytes", 0)
    )
    fits = need <= allowance
    where = ("memory" if fits else "disk") if wanted.where == "auto" else wanted.where
    size = f"{len(data)} prepared cases take {_gigabytes(need)}"
    share = f"they may have {_gigabytes(allowance)} of memory"
    items: Dataset[Item]
    if where == "memory":
        # copy_cache: nothing in the training chain writes into what it is given.
        try:
            items = CacheDataset(
                data, transform, num_workers=_num_threads(), progress=False, copy_cache=False
            )
        except MemoryError as error:
            raise OutOfMemoryError(
                f"{size}, and memory ran out; set dataset.cache.where to disk"
            ) from error
        note = f"{size}, and {share}: kept there"
    elif where == "disk" and transform.digest is not None:
        items = DiskCache(data, transform, Path(cache_folder), transform.digest, need)
        note = f"{size}, and {share}: kept in {cache_folder}, which may be removed when no training runs"
    else:
        items = _Uncached(data, transform)
        note = f"{size}: kept nowhere, read anew each time"
    return PreparedCases(items, data, need if where == "memory" else 0, note)


def _prepared_bytes(item: Item, transform: CaseChain, settings: Settings, table: LabelTable) -> int:
    try:
        voxels = math.prod(target_shape(read_header(item["image"][0]).grid, settings))
    except DataError as error:
        raise DataError(f"case {case_name(item)!r}: {error}") from error
    index_bytes = index_dtype(table.num_classes).itemsize
    centres = transform.num_centre_groups * MAX_CENTRES
    return voxels * (4 * settings.dataset.num_channels + index_bytes) + 4 * min(centres, voxels)


def _memory_allowance(memory_gb: float | None, taken_bytes: int) -> int:
    """Bytes that may be taken now: what the settings give, or half of what was free before anything was taken.

    Processes that train together on one computer share it.
    """
    sharers = distributed.local_size()
    free = free_memory() / sharers
    total = (free + taken_bytes) / 2 if memory_gb is None else memory_gb * 2**30 / sharers
    return max(int(total) - taken_bytes, 0)


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


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 0.95 * 2**30 else f"{count / 2**20:.0f} MiB"


def _num_threads() -> int:
    return min(usable_cores(), 4)


class _Uncached(Dataset[Item]):
    """Prepares when asked, and remembers the last case: its patches are drawn one after the other."""

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
    """Prepared cases as memory-mapped `.npy` files, one folder a case; workers share the pages.

    A folder is named by what it is made from: SHA-256 of the case's files and of the chain. It appears under that name
    when it is complete, and holds the SHA-256 of its own files: they are compared when a training starts. (MONAI's `PersistentDataset` goes by the path: a replaced file gives the old voxels.)

    Args:
        data: items as the chain takes them.
        chain: deterministic; makes tensors and texts.
        folder: of all entries.
        chain_digest: of everything but the files that decides what the chain makes.
        need_bytes: what all entries take.
    """

    def __init__(
        self,
        data: Sequence[Item],
        chain: CaseChain,
        folder: Path,
        chain_digest: str,
        need_bytes: int,
    ) -> None:
        self.data, self.chain = data, chain
        with _writing(folder, need_bytes):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
        with ThreadPoolExecutor(_num_threads()) as pool:
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
        try:  # "c": the tensors could be written to, the files not
            arrays = {path.stem: np.load(path, mmap_mode="c") for path in entry.glob("*.npy")}
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except (OSError, ValueError) as error:
            raise DataError(
                f"case {case_id!r}: its cache {entry} cannot be read ({error}); remove that folder and resume"
            ) from error
        if not tensors:
            raise DataError(
                f"case {case_id!r}: its cache {entry} has been removed; resume to renew it"
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
    """Whether an entry is there as it was written; one that has been damaged since is removed, aloud."""
    if not entry.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        digests = json.loads((entry / _DIGESTS).read_bytes())
        if digests == {path.name: sha256_of(path) for path in entry.glob("*.npy")}:
            return True
    warnings.warn(f"{entry}: is damaged and made anew", MonaisegWarning, stacklevel=2)
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
        if not entry.is_dir():  # else another training was quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_room(folder: Path, need_bytes: int) -> None:
    """Better before the first entry than with a full disk, which checkpoints need as well."""
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
            f"{_gigabytes(need_bytes)}, {_gigabytes(shutil.disk_usage(existing).free)} are free; make room, or "
            "set dataset.cache.where to memory or none"
        ) from error


# ---------------------------------------------------------------- draws


class EpochSampler(Sampler[Key]):
    """The draws of an epoch: every case once before any comes again, in an order of its own each time.

    Set `epoch` before each pass, counted from 1. `skip` draws are left out of the next pass, and of no other: those
    that were done when a training is resumed. The length is that of a whole epoch.

    Args:
        num_cases: cases to draw from.
        draws_per_epoch: patches of an epoch.
        seed: of the order.
        draws_per_case: patches that are cut from a case when its turn comes, one after the other.
        batch_size: patches of a step, which all ranks share.
        rank: this process among those that train together; each takes its part of every batch.
        num_ranks: how many train together; `batch_size` divides by it.
    """

    def __init__(
        self,
        num_cases: int,
        draws_per_epoch: int,
        seed: int,
        draws_per_case: int = 1,
        *,
        batch_size: int = 1,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.num_cases, self.draws_per_epoch = num_cases, draws_per_epoch
        self.seed, self.draws_per_case = seed, draws_per_case
        self.batch_size, self.rank, self.num_ranks = batch_size, rank, num_ranks
        self.epoch, self.skip = 1, 0

    def __len__(self) -> int:
        return self.draws_per_epoch // self.num_ranks

    def __iter__(self) -> Iterator[Key]:
        skip, self.skip = self.skip, 0
        return self.keys(self.epoch, skip)

    def keys(self, epoch: int, skip: int = 0) -> Iterator[Key]:
        """This rank's keys of an epoch from the `skip`-th on. Orders follow one another across epochs without a seam."""
        orders: dict[int, list[int]] = {}
        part = self.batch_size // self.num_ranks
        for position in range(skip, self.draws_per_epoch):
            if position % self.batch_size // part != self.rank:
                continue
            turn = ((epoch - 1) * self.draws_per_epoch + position) // self.draws_per_case
            number, place = divmod(turn, self.num_cases)
            if number not in orders:
                orders = {number: self._order(number)}
            yield epoch, position, orders[number][place]

    def _order(self, number: int) -> list[int]:
        # RandomState: its stream is frozen for good (NEP 19), that of newer generators is not.
        stream = np.random.RandomState(derive(self.seed, "order", number) % 2**32)
        return [int(index) for index in stream.permutation(self.num_cases)]


class SeededDataset(Dataset[Item]):
    """Training patches by key: whoever asks for a key, whenever, gets the same bits.

    Args:
        items: prepared cases.
        chain: the random part; every transform with randomness has it from its own `R`.
        seed: of the training.
    """

    def __init__(self, items: Dataset[Item], chain: CaseChain, seed: int) -> None:
        self.items, self.chain, self.seed = items, chain, seed

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]  # torch's Dataset does not say that it has a length

    def __getitem__(self, key: Key) -> Item:
        """`image` (C, X, Y, Z) float32, `label` (1, X, Y, Z) uint8 or int16, `case_id`."""
        epoch, position, index = key
        seed = derive(self.seed, "augment", epoch, position)
        with _isolated(seed):
            item = self.items[index]
            self.chain.set_random_state(seed=seed)
            with _untracked():
                patch = self.chain(item)
        return {name: patch[name] for name in ("image", "label", "case_id")}

    def __getitems__(self, keys: Sequence[Key]) -> list[Item] | _Fault:
        """A batch, as a DataLoader asks for it; what goes wrong travels as a value, see `_Fault`."""
        try:
            patches = [self[key] for key in keys]
            _check_same_shape(patches)
        except MonaisegError as error:
            return _Fault(error, traceback.format_exc())
        except Exception as error:  # noqa: BLE001  raised again in the main process; as text: not all can travel
            return _Fault(RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc())
        return patches


@dataclass(frozen=True)
class _Fault:
    """An exception on its way from a worker: torch would make its message out of the worker's traceback."""

    error: MonaisegError | RuntimeError
    """Ours names its case."""
    traceback: str

    def named(self, cases: str) -> Exception:
        if isinstance(self.error, MonaisegError):
            return self.error
        return RuntimeError(f"{cases}: {self.error}")


def _check_same_shape(patches: Sequence[Item]) -> None:
    first = patches[0]
    for patch in patches[1:]:
        if patch["image"].shape != first["image"].shape:
            shapes = [tuple(item["image"].shape[1:]) for item in (first, patch)]
            raise DataError(
                f"cases {first['case_id']!r} and {patch['case_id']!r} have the shapes {shapes[0]} and {shapes[1]} "
                "and cannot be in one batch; set dataset.img_after_resize, or tsk_set.batch_size to 1"
            )


@contextlib.contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Global random states seeded, and one thread; all as before afterwards.

    One thread: sums over a tensor depend on how many share the work, and a worker has one.
    """
    python, pytorch, threads = random.getstate(), torch.get_rng_state(), torch.get_num_threads()
    legacy = np.random.get_state()  # noqa: NPY002  the global state is what is guarded
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # manual_seed would wake CUDA in a forked worker
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)
        torch.set_rng_state(pytorch)
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """MONAI's transforms make plain tensors of plain tensors: metadata would cost more than the cut."""
    tracking = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracking)


# ---------------------------------------------------------------- loaders


_OPEN: weakref.WeakSet[CaseLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before multiprocessing's own exit, which sends workers one SIGTERM, that they leave alone, and waits for ever."""
    for loader in list(_OPEN):
        loader.close()


class CaseLoader(DataLoader[Item]):
    """A DataLoader that says which cases were in work when a worker fails, dies or hangs.

    `note` says where the prepared cases wait and `memory_bytes` what they take.
    """

    def __init__(self, dataset: Dataset[Item], prepared: Dataset[Item], **kwargs: Any) -> None:
        workers = kwargs.get("num_workers", 0)
        super().__init__(
            dataset,
            collate_fn=_collate,
            worker_init_fn=_heed_the_main_process,
            persistent_workers=workers > 0,
            timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
            generator=torch.Generator(),  # else every pass draws from the global one
            **kwargs,
        )
        self.ids: tuple[str, ...] = getattr(prepared, "ids", ()) or _numbered(prepared)
        self.note: str = getattr(prepared, "note", f"cases of a {type(prepared).__name__}")
        self.memory_bytes: int = getattr(prepared, "memory_bytes", 0)
        self._coming: list[int] = []
        _OPEN.add(self)

    def close(self) -> None:
        """End the worker processes; the next pass starts others."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # of the kind that has workers
            self._iterator = None

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]  # a generator serves where torch's iterator does
        self._coming = self._order()
        batches: Any = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if (fault := self.fault(error)) is None:
                    raise
                batches._shutdown_workers()  # torch no longer watches them, whose end it would raise
                for worker in batches._workers:
                    worker.kill()
                raise fault from error
            if isinstance(batch, _Fault):
                self._iterator = batches = None  # ends the workers now, while all else is in order
                cases = self._named(self._coming[: self.batch_size])
                raise batch.named(cases) from RuntimeError(batch.traceback)
            del self._coming[: self.batch_size]
            yield batch

    def fault(self, error: RuntimeError) -> DataError | None:
        """What it means, wherever torch raised `error`, with the cases in work; None if it is not about a worker.

        A worker's death is raised by a signal handler, wherever the main process is: mostly in the middle of a step.
        """
        if (fault := worker_fault(error)) is None:
            return None
        ahead = (self.batch_size or 1) * self.num_workers * (self.prefetch_factor or 1)
        return DataError(f"{fault}; in work: {self._named(self._coming[:ahead])}")

    def _order(self) -> list[int]:
        """Indices of the cases of this pass, in order."""
        if isinstance(self.sampler, EpochSampler):
            return [
                index for _, _, index in self.sampler.keys(self.sampler.epoch, self.sampler.skip)
            ]
        return list(self.sampler)

    def _named(self, indices: Sequence[int]) -> str:
        names = list(dict.fromkeys(self.ids[index] for index in indices))
        return f"case{'s' if names[1:] else ''} {', '.join(map(repr, names))}"


def worker_fault(error: RuntimeError) -> DataError | None:
    """What it means that torch raised `error`; None if it is not about a worker."""
    text = str(error)
    if text.startswith("DataLoader timed out"):
        return DataError(
            f"a worker process has not delivered for {WORKER_TIMEOUT_SECONDS} seconds; check that the disk with the "
            "data answers, or set tsk_set.num_workers to 0"
        )
    if "DataLoader worker" not in text or "Caught" in text:
        return None
    what = text.partition(". ")[0].rstrip(".").replace("DataLoader worker", "worker process")
    return DataError(
        f"{what}; if memory ran out, lower tsk_set.num_workers or dataset.cache.memory_gb, and resume"
    )


def build_training_loader(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    device: torch.device | str = "cpu",
) -> CaseLoader:
    """`training_loader` of cases that are prepared and kept where `dataset.cache` says.

    Raises:
        SettingsError: as `training_loader`.
        DataError: a case cannot be used; it is named.
        StorageError: the cache's disk is full, read-only or failing.
    """
    check_batch(settings)
    prepared = cached_cases(cases, settings, table, cache_folder, for_training=True)
    return training_loader(prepared, settings, table, device)


def training_loader(
    dataset: Dataset[Item],
    settings: Settings,
    table: LabelTable,
    device: torch.device | str = "cpu",
) -> CaseLoader:
    """Batches of patches: `image` (B, C, X, Y, Z) float32, `label` (B, 1, X, Y, Z) uint8 or int16, `case_id`.

    Its length is the steps of an epoch. Its `sampler` is the `EpochSampler`: set `epoch` before each pass, and `skip`
    to batch_size times the steps done when a training is resumed. Of several processes that train together each has
    its own part of every batch.

    Args:
        dataset: items as `cached_chain` makes them.
        settings: batch, steps of an epoch, patches, augmentation, seed.
        table: the labels that the settings ask for.
        device: where the batches go.

    Raises:
        SettingsError: the augmentation asks for what the label table does not allow, or the batch does not divide.
    """
    check_batch(settings)
    task, num_ranks = settings.tsk_set, distributed.size()
    chain = CaseChain(training_chain(settings, table))
    num_cases = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not say that it has a length
    limit = task.max_batch_num_per_epoch[0]
    if limit == 0:
        raise SettingsError(
            "tsk_set.max_batch_num_per_epoch: 0 batches an epoch train nothing; give at least 1, or -1 for one a case"
        )
    draws = (num_cases if limit == -1 else limit) * settings.batch_size
    return CaseLoader(
        SeededDataset(dataset, chain, task.seed),
        dataset,
        batch_size=settings.batch_size // num_ranks,
        sampler=EpochSampler(
            num_cases,
            draws,
            task.seed,
            settings.dataset.seg.crops_per_image,
            batch_size=settings.batch_size,
            rank=distributed.rank(),
            num_ranks=num_ranks,
        ),
        num_workers=task.num_workers,
        pin_memory=torch.device(device).type == "cuda",
    )


def check_batch(settings: Settings) -> None:
    """Raises SettingsError where the patches of a step do not divide among the processes that train together."""
    num_ranks = distributed.size()
    if settings.batch_size % num_ranks:
        below, above = nearest_multiples(settings.batch_size, num_ranks)
        raise SettingsError(
            f"tsk_set.batch_size: {settings.batch_size} patches do not divide among {num_ranks} processes; use "
            f"{below} or {above}"
        )


def build_case_loader(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    taken_bytes: int = 0,
) -> CaseLoader:
    """`case_loader` of cases that are prepared and kept where `dataset.cache` says.

    `taken_bytes` is the `memory_bytes` of loaders that are there already.

    Raises:
        DataError, StorageError: as `build_training_loader`.
    """
    prepared = cached_cases(
        cases, settings, table, cache_folder, for_training=False, taken_bytes=taken_bytes
    )
    return case_loader(prepared)


def case_loader(dataset: Dataset[Item]) -> CaseLoader:
    """Whole volumes on the network grid, one after the other, in the main process: prepared cases cost it a copy.

    A batch has `image` (1, C, X, Y, Z) float32, `label` (1, 1, X, Y, Z), `affine` (1, 4, 4) float64 and `case_id`.
    """
    return CaseLoader(dataset, dataset, batch_size=1)


def _numbered(dataset: Dataset[Item]) -> tuple[str, ...]:
    """Names of the cases of a dataset that is not ours."""
    return tuple(f"number {index}" for index in range(len(dataset)))  # type: ignore[arg-type]


def _collate(patches: list[Item] | _Fault) -> Any:
    return patches if isinstance(patches, _Fault) else default_collate(patches)


def _heed_the_main_process(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the worker's number
    """Signals that go to every process of a group are left to the main one, which needs batches to end its step.

    Ctrl-C is ignored. So is the first SIGTERM, as a cluster sends it; a second ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
