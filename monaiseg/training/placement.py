"""Placement: the atlas of the training cases, and these cases with the position of each voxel in template space.

A training case gets the same kind of input as a new scan: its frame and its atlas come from other persons' cases.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
from torch.utils.data import Dataset

from monaiseg.atlas import Frame, LabelledScan, TrainedAtlas, train_atlas
from monaiseg.data import LabelTable
from monaiseg.machine import free_memory
from monaiseg.networks import AtlasPrior
from monaiseg.training import distributed
from monaiseg.training.cache import CachedCases
from monaiseg.transforms import Item

log = logging.getLogger("monaiseg")

POSITION_BYTES = 6
"""Memory of the position of a voxel: three coordinates in float16."""


def placed(
    cases: CachedCases, prior: AtlasPrior, table: LabelTable, persons: Mapping[str, str]
) -> CachedCases:
    """Training cases with `positions`, from an atlas that `prior` learns from them.

    Every process that trains learns the same atlas. It takes about four seconds a whole brain on one core.

    Args:
        cases: the training cases after `cached_chain`.
        prior: part of the network, which gets the atlas.
        table: label table of the network.
        persons: the person of each case by case id; a case without an entry is of a person of its own.

    Raises:
        DataError: all cases are of one person.
    """
    owners = [persons.get(name, name) for name in cases.ids]
    trained = learned_atlas(_Scans(cases), owners, table)
    of_person = trained.atlases_without(list(dict.fromkeys(owners)))
    without = {name: of_person[owner] for name, owner in zip(cases.ids, owners, strict=True)}
    prior.learn(trained.template, trained.atlas(), without)
    log.info(
        "atlas: learned from %d cases of %d persons, %.1f MB",
        len(cases),
        len(of_person),
        prior.atlas.num_bytes / 1e6,
    )
    items = _Placed(cases, trained.frames)
    taken = cases.memory_bytes + items.memory_bytes
    return CachedCases(items, cases.data, taken, cases.note)


def learned_atlas(
    scans: Sequence[LabelledScan], persons: Sequence[str], table: LabelTable
) -> TrainedAtlas:
    """The atlas of scans of these persons, symmetric where the table says what labels become in a mirror image."""
    partners = table.partner_classes if table.can_mirror else None
    return train_atlas(scans, persons, table.num_classes, partners)


def labelled_scan(item: Item) -> LabelledScan:
    """An item after `cached_chain` as a scan that an atlas can be learned from."""
    x, y, z = np.linalg.norm(item["affine"].numpy()[:3, :3], axis=0)
    return LabelledScan(item["image"], item["label"][0], (float(x), float(y), float(z)))


class _Scans(Sequence[LabelledScan]):
    """The cached cases as scans that an atlas can be trained from."""

    def __init__(self, cases: CachedCases) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> LabelledScan: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledScan]: ...
    def __getitem__(self, index: int | slice) -> LabelledScan | list[LabelledScan]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return labelled_scan(self.cases[index])


class _Placed(Dataset[Item]):
    """Cached items with `positions` (3, X, Y, Z) float16 in template mm.

    They are kept in memory, `POSITION_BYTES` a voxel, if they take at most half of what is free; otherwise they are computed from
    the frame each time.
    """

    def __init__(self, items: Dataset[Item], frames: Sequence[Frame]) -> None:
        self.items, self.frames = items, frames
        need = sum(POSITION_BYTES * math.prod(frame.blocks.shape) for frame in frames)
        keeps = need <= free_memory() / distributed.local_size() / 2
        self.kept = [frame.positions().half() for frame in frames] if keeps else None
        self.memory_bytes = need if keeps else 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Item:
        positions = self.frames[index].positions().half() if self.kept is None else self.kept[index]
        return {**self.items[index], "positions": positions}
