"""Loaders: batches of training patches and whole cases for MONAI's engines."""

from __future__ import annotations

import atexit
import math
import signal
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from monaiseg.data import Case, LabelTable, index_dtype, nearest_multiples
from monaiseg.errors import DataError, SettingsError
from monaiseg.machine import SHARED_MEMORY, free_shared_memory
from monaiseg.networks import AtlasPrior
from monaiseg.progress import Advance
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.cache import cached_cases
from monaiseg.training.placement import placed
from monaiseg.training.sampling import EpochSampler, Fault, SeededDataset
from monaiseg.transforms import CaseChain, Item, training_chain

PREFETCHED = 2
"""Number of batches that each worker prepares in advance; torch's default."""
WORKER_TIMEOUT_SECONDS = 300
"""A worker that has not delivered a batch for this long is considered hung."""

_OPEN: weakref.WeakSet[CaseLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all loaders before multiprocessing exits: it sends workers one SIGTERM, which they ignore, and waits."""
    for loader in list(_OPEN):
        loader.close()


class CaseLoader(DataLoader[Item]):
    """A DataLoader that names the cases in progress when a worker fails, dies or hangs.

    `note` says where the cached cases are kept; `memory_bytes` is the memory that they take.
    """

    def __init__(self, dataset: Dataset[Item], cases: Dataset[Item], **kwargs: Any) -> None:
        workers = kwargs.get("num_workers", 0)
        super().__init__(
            dataset,
            collate_fn=_collate,
            worker_init_fn=_heed_the_main_process,
            persistent_workers=workers > 0,
            timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
            generator=torch.Generator(),  # otherwise each pass draws from the global generator
            **kwargs,
        )
        self.ids: tuple[str, ...] = getattr(cases, "ids", ()) or _numbered(cases)
        self.note: str = getattr(cases, "note", f"cases of a {type(cases).__name__}")
        self.memory_bytes: int = getattr(cases, "memory_bytes", 0)
        self._coming: list[int] = []
        _OPEN.add(self)

    def close(self) -> None:
        """Stop the worker processes; the next pass starts new ones."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # only the kind with workers
            self._iterator = None

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]  # a generator instead of torch's iterator
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
                batches._shutdown_workers()  # torch stops watching them; else it would raise when they end
                for worker in batches._workers:
                    worker.kill()
                raise fault from error
            if isinstance(batch, Fault):
                self._iterator = batches = None  # stops the workers while the rest still works
                cases = self._named(self._coming[: self.batch_size])
                raise batch.named(cases) from RuntimeError(batch.traceback)
            del self._coming[: self.batch_size]
            yield batch

    def fault(self, error: RuntimeError) -> DataError | None:
        """The error to raise in place of torch's `error`, with the cases in progress; None if no worker is at fault.

        A signal handler raises the death of a worker wherever the main process is, usually in the middle of a step.
        """
        if (fault := worker_fault(error)) is None:
            return None
        ahead = (self.batch_size or 1) * self.num_workers * (self.prefetch_factor or 1)
        return DataError(f"{fault}; it was preparing {self._named(self._coming[:ahead])}")

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
    """The error to raise in place of torch's `error`; None if it is not about a worker."""
    text = str(error)
    if text.startswith("DataLoader timed out"):
        return DataError(
            f"a worker process has returned nothing for {WORKER_TIMEOUT_SECONDS} seconds; check that the disk with the "
            "data responds, or set tsk_set.num_workers to 0"
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
    on_progress: Advance | None = None,
    *,
    prior: AtlasPrior | None = None,
    persons: Mapping[str, str] | None = None,
) -> CaseLoader:
    """Training loader for cases that are cached where `dataset.cache` says; see `training_loader`.

    A network's `prior` learns its atlas from the cases; `persons` are those of cases that share one, see `placed`.
    `on_progress` is called after each case that is read.

    Raises:
        SettingsError: see `training_loader`.
        DataError: a case cannot be used; the message names it.
        StorageError: the cache's disk is full, read-only or failing.
    """
    check_batch(settings)
    cached = cached_cases(
        cases, settings, table, cache_folder, for_training=True, on_progress=on_progress
    )
    if prior is not None:
        cached = placed(cached, prior, table, persons or {})
    return training_loader(cached, settings, table, device)


def training_loader(
    dataset: Dataset[Item],
    settings: Settings,
    table: LabelTable,
    device: torch.device | str = "cpu",
) -> CaseLoader:
    """Batches of patches: `image` (B, C, X, Y, Z) float32, `label` (B, 1, X, Y, Z) uint8 or int16, `case_id`.

    The length is the number of steps per epoch. The `sampler` is an `EpochSampler`: set its `epoch` before each pass.
    When a run is resumed, also set its `skip` to batch_size times the number of steps done. Each of several processes
    that train together gets its own part of every batch.

    Args:
        dataset: items after `cached_chain`.
        settings: batch size, steps per epoch, patches, augmentation and seed.
        table: label table of the network.
        device: device that the batches are moved to.

    Raises:
        SettingsError: the label table does not allow the augmentation, or the processes cannot share the batch evenly.
    """
    check_batch(settings)
    check_shared_memory(settings, table)
    task, num_ranks = settings.tsk_set, distributed.size()
    chain = CaseChain(training_chain(settings, table))
    num_cases = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not say that it has a length
    limit = task.max_batch_num_per_epoch[0]
    if limit == 0:
        raise SettingsError(
            "tsk_set.max_batch_num_per_epoch: an epoch of 0 batches trains nothing; use at least 1, or -1 for one per case"
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
    """Raise SettingsError if the processes that train together cannot share the patches of a step evenly."""
    num_ranks = distributed.size()
    if settings.batch_size % num_ranks:
        below, above = nearest_multiples(settings.batch_size, num_ranks)
        raise SettingsError(
            f"tsk_set.batch_size: {settings.batch_size} patches cannot be divided evenly among {num_ranks} processes; use "
            f"{below} or {above}"
        )


def check_shared_memory(settings: Settings, table: LabelTable) -> None:
    """Raise SettingsError if the batches that workers prepare in advance do not fit into shared memory.

    Otherwise a worker dies of a bus error in the middle of a step.
    """
    workers, free = settings.tsk_set.num_workers, free_shared_memory()
    if not workers or free is None:
        return
    voxels = settings.batch_size * math.prod(settings.patch_shape)
    of_voxel = 4 * settings.network_channels + index_dtype(table.num_classes).itemsize
    need = PREFETCHED * workers * voxels * of_voxel // distributed.size() * distributed.local_size()
    if need > free:
        raise SettingsError(
            f"tsk_set.num_workers: the batches that {workers} worker processes prepare in advance need {need >> 20} MiB of shared "
            f"memory, but {SHARED_MEMORY} has only {free >> 20} MiB free; set num_workers to 0, or give the container more "
            "(docker run --shm-size=2g)"
        )


def build_case_loader(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    taken_bytes: int = 0,
    on_progress: Advance | None = None,
) -> CaseLoader:
    """Loader of whole cases that are cached where `dataset.cache` says; see `case_loader`.

    `taken_bytes` is the `memory_bytes` of the loaders built so far; `on_progress` is called after each case that is
    read.

    Raises:
        DataError, StorageError: see `build_training_loader`.
    """
    cached = cached_cases(
        cases,
        settings,
        table,
        cache_folder,
        for_training=False,
        taken_bytes=taken_bytes,
        on_progress=on_progress,
    )
    return case_loader(cached)


def case_loader(dataset: Dataset[Item]) -> CaseLoader:
    """Whole volumes on the network grid, one by one, loaded in the main process: a cached case only has to be copied.

    A batch has `image` (1, C, X, Y, Z) float32, `label` (1, 1, X, Y, Z), `affine` (1, 4, 4) float64 and `case_id`.
    """
    return CaseLoader(dataset, dataset, batch_size=1)


def _numbered(dataset: Dataset[Item]) -> tuple[str, ...]:
    """Case names for a dataset without case ids."""
    return tuple(f"number {index}" for index in range(len(dataset)))  # type: ignore[arg-type]


def _collate(patches: list[Item] | Fault) -> Any:
    return patches if isinstance(patches, Fault) else default_collate(patches)


def _heed_the_main_process(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the worker's number
    """Leave signals to the main process, which still needs batches to finish its step.

    Signals go to every process of a group. A worker ignores Ctrl-C and the first SIGTERM, as a cluster sends it; a
    second SIGTERM ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
