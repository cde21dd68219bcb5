"""Sampling: the case and the random state of each training patch.

A *draw* is one training patch. Its key (epoch, position, index) and the seed determine which case it is cut from and
everything random about it. Nothing depends on the number of processes, on what they did before, or on a global random
state. Keys are computed by arithmetic, so a resumed run skips the draws that it has done without computing them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from torch.utils.data import Dataset, Sampler

from monaiseg.data import Case, DataTask
from monaiseg.errors import DataError, MonaisegError
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.transforms import CaseChain, Item

Key = tuple[int, int, int]
"""Epoch, position of the draw in the epoch, index of the case."""


def derive(*parts: int | str) -> int:
    """A 63-bit number that depends only on `parts`; it is the same on every machine.

    >>> derive(0, "order", 1)
    8677279991123922410
    """
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") >> 1


def limited(task: DataTask, split: str, settings: Settings) -> tuple[Case, ...]:
    """The cases of a split, at most `dataset.max_num_for_loading` of them, chosen by the seed.

    Raises:
        DataError: there are no training cases.
    """
    cases = task.cases.get(split, ())
    if split == "train" and not cases:
        raise DataError(
            f"{task.folder}: has no training cases; prepare the data with a training split"
        )
    most = settings.dataset.max_num_for_loading[("train", "val", "test", "debug").index(split)]
    if most == -1 or most >= len(cases):
        return cases
    seed = settings.tsk_set.seed
    ranked = sorted(cases, key=lambda case: derive(seed, "choice", case.id))[:most]
    return tuple(sorted(ranked, key=lambda case: case.id))


def validated(task: DataTask, split: str, settings: Settings) -> tuple[Case, ...]:
    """The cases of val or debug that a validation uses, in order. Each of several processes gets a share of them."""
    most = settings.tsk_set.max_batch_num_per_epoch[("train", "val", "debug").index(split)]
    cases = limited(task, split, settings)
    return tuple(distributed.share_of(cases if most == -1 else cases[:most]))


class EpochSampler(Sampler[Key]):
    """The draws of an epoch: each case is drawn once before any is drawn again, each time in a new order.

    Set `epoch`, counted from 1, before each pass. The next pass, and only that one, skips the first `skip` draws:
    those that were done before a run was resumed. The length is that of a whole epoch.

    Args:
        num_cases: number of cases to draw from.
        draws_per_epoch: number of patches per epoch.
        seed: seed of the order.
        draws_per_case: number of patches cut in succession from each case.
        batch_size: number of patches per step, over all ranks.
        rank: number of this process among those that train together; each takes its part of every batch.
        num_ranks: number of processes that train together; `batch_size` must be a multiple of it.
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
        """This rank's keys of an epoch, without the first `skip`. An order of cases may continue in the next epoch."""
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
        # NumPy guarantees that the stream of RandomState never changes (NEP 19); newer generators may change.
        stream = np.random.RandomState(derive(self.seed, "order", number) % 2**32)
        return [int(index) for index in stream.permutation(self.num_cases)]


class SeededDataset(Dataset[Item]):
    """Training patches by key. The same key always gives the same bits, in any process and at any time.

    Args:
        items: cached cases.
        chain: the random transforms; each draws only from its own `R`.
        seed: seed of the run.
    """

    def __init__(self, items: Dataset[Item], chain: CaseChain, seed: int) -> None:
        self.items, self.chain, self.seed = items, chain, seed

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]  # torch's Dataset does not say that it has a length

    def __getitem__(self, key: Key) -> Item:
        """`image` (C, X, Y, Z) float32, `label` (1, X, Y, Z) uint8 or int16, `case_id`; with an atlas, `positions`."""
        epoch, position, index = key
        seed = derive(self.seed, "augment", epoch, position)
        with _isolated(seed):
            item = self.items[index]
            self.chain.set_random_state(seed=seed)
            with _untracked():
                made = self.chain(item)
        patch = made[0] if isinstance(made, list) else made  # MONAI's crops return lists
        return {
            key: patch[key] for key in ("image", "label", "positions", "case_id") if key in patch
        }

    def __getitems__(self, keys: Sequence[Key]) -> list[Item] | Fault:
        """A batch, as requested by a DataLoader. An error is returned as a value; see `Fault`."""
        try:
            patches = [self[key] for key in keys]
            _check_same_shape(patches)
        except MonaisegError as error:
            return Fault(error, traceback.format_exc())
        except Exception as error:  # noqa: BLE001  raised again in the main process; as text: not all can be pickled
            return Fault(RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc())
        return patches


@dataclass(frozen=True)
class Fault:
    """An exception sent from a worker to the main process. torch would put the worker's traceback into its message."""

    error: MonaisegError | RuntimeError
    """A `MonaisegError` already names its case."""
    traceback: str

    def named(self, cases: str) -> Exception:
        """The exception to raise in the main process. If it is not a `MonaisegError`, its cases are added."""
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
    """Seed the global random states and use one thread while the block runs, then restore both.

    One thread, because the rounding of a sum depends on the number of threads, and a worker has one.
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
    """Let MONAI's transforms return plain tensors: tracking metadata would take longer than cropping."""
    tracking = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracking)
