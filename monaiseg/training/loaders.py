"""Loaders: batches of training patches and whole cases for MONAI's engines."""

from __future__ import annotations

import atexit
import math
import signal
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from monaiseg.data import Case, LabelTable, index_dtype, nearest_multiples
from monaiseg.errors import DataError, SettingsError
from monaiseg.machine import SHARED_MEMORY, free_shared_memory
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.cache import cached_cases
from monaiseg.training.sampling import EpochSampler, Fault, SeededDataset
from monaiseg.transforms import CaseChain, Item, training_chain

PREFETCHED = 2
"""Batches that each worker makes ahead, torch's default."""
WORKER_TIMEOUT_SECONDS = 300
"""A process that has not delivered a batch for so long hangs."""

_OPEN: weakref.WeakSet[CaseLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before multiprocessing's own exit, which sends workers one SIGTERM, that they leave alone, and waits for ever."""
    for loader in list(_OPEN):
        loader.close()


class CaseLoader(DataLoader[Item]):
    """A DataLoader that says which cases were in work when a worker fails, dies or hangs.

    `note` says where the cached cases are kept and `memory_bytes` what they take of the memory.
    """

    def __init__(self, dataset: Dataset[Item], cases: Dataset[Item], **kwargs: Any) -> None:
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
        self.ids: tuple[str, ...] = getattr(cases, "ids", ()) or _numbered(cases)
        self.note: str = getattr(cases, "note", f"cases of a {type(cases).__name__}")
        self.memory_bytes: int = getattr(cases, "memory_bytes", 0)
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
            if isinstance(batch, Fault):
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
    """`training_loader` of cases that are kept where `dataset.cache` says.

    Raises:
        SettingsError: as `training_loader`.
        DataError: a case cannot be used; it is named.
        StorageError: the cache's disk is full, read-only or failing.
    """
    check_batch(settings)
    cached = cached_cases(cases, settings, table, cache_folder, for_training=True)
    return training_loader(cached, settings, table, device)


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
    check_shared_memory(settings, table)
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


def check_shared_memory(settings: Settings, table: LabelTable) -> None:
    """Raises SettingsError where the batches that workers make ahead do not fit into what processes may share.

    A worker that finds no room there dies of a bus error in the middle of a step.
    """
    workers, free = settings.tsk_set.num_workers, free_shared_memory()
    if not workers or free is None:
        return
    voxels = settings.batch_size * math.prod(settings.patch_shape)
    of_voxel = 4 * settings.dataset.num_channels + index_dtype(table.num_classes).itemsize
    need = PREFETCHED * workers * voxels * of_voxel // distributed.size() * distributed.local_size()
    if need > free:
        raise SettingsError(
            f"tsk_set.num_workers: the batches that {workers} worker processes make ahead take {need >> 20} MiB of shared "
            f"memory, and {SHARED_MEMORY} has {free >> 20} MiB free; set num_workers to 0, or give the container more "
            "(docker run --shm-size=2g)"
        )


def build_case_loader(
    cases: Sequence[Case],
    settings: Settings,
    table: LabelTable,
    cache_folder: str | Path,
    *,
    taken_bytes: int = 0,
) -> CaseLoader:
    """`case_loader` of cases that are kept where `dataset.cache` says.

    `taken_bytes` is the `memory_bytes` of loaders that are there already.

    Raises:
        DataError, StorageError: as `build_training_loader`.
    """
    cached = cached_cases(
        cases, settings, table, cache_folder, for_training=False, taken_bytes=taken_bytes
    )
    return case_loader(cached)


def case_loader(dataset: Dataset[Item]) -> CaseLoader:
    """Whole volumes on the network grid, one after the other, in the main process: cached cases cost it a copy.

    A batch has `image` (1, C, X, Y, Z) float32, `label` (1, 1, X, Y, Z), `affine` (1, 4, 4) float64 and `case_id`.
    """
    return CaseLoader(dataset, dataset, batch_size=1)


def _numbered(dataset: Dataset[Item]) -> tuple[str, ...]:
    """Names of the cases of a dataset that is not ours."""
    return tuple(f"number {index}" for index in range(len(dataset)))  # type: ignore[arg-type]


def _collate(patches: list[Item] | Fault) -> Any:
    return patches if isinstance(patches, Fault) else default_collate(patches)


def _heed_the_main_process(worker_id: int) -> None:  # noqa: ARG001  torch calls it with the worker's number
    """Signals that go to every process of a group are left to the main one, which needs batches to end its step.

    Ctrl-C is ignored. So is the first SIGTERM, as a cluster sends it; a second ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
