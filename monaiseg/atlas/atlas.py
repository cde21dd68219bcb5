"""Atlases: the probability of each class at each position in template space.

A *probabilistic atlas* (Ashburner and Friston, NeuroImage 26, 2005, among many) holds the shares of the votes of the
training scans. Few classes occur at one position, so each cell keeps only the `MOST_CLASSES` most frequent ones. They
share the probability 1 - `SURPRISE`; the rest is shared equally by all classes. Cells that no training scan covers use
the frequencies of the classes over all cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.votes import Votes
from monaiseg.data import index_dtype
from monaiseg.errors import DataError
from monaiseg.portable import SURPRISE

MOST_CLASSES = 12
"""Largest number of classes that a cell keeps; with 145 brain structures these hold all but one in a million votes."""
LEAST_SHARE = 5e-4
"""Share of a cell's votes that a class needs to be kept. Smoothing leaves many classes with less, which `SURPRISE`
covers."""


@dataclass(frozen=True)
class Atlas:
    """Probabilities of classes in the cells of a lattice.

    Args:
        lattice: the cells.
        counts: number of classes that each row keeps, uint8 (cells + 1,). There is one row per cell, with 0 where no
            training scan was, and a last row that is used for those cells.
        classes: the kept classes, row by row, most frequent first.
        logs: logarithms of their probabilities, float16.
        frequencies: logarithms of the frequencies of all classes, (K,), `SURPRISE` included.
    """

    lattice: Lattice
    counts: Tensor
    classes: Tensor
    logs: Tensor
    frequencies: Tensor

    @property
    def num_classes(self) -> int:
        """K, background included."""
        return len(self.frequencies)

    @property
    def rest(self) -> float:
        """Logarithm of the probability of each class that a cell does not keep."""
        return float(np.log(SURPRISE / self.num_classes))

    @property
    def num_bytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @cached_property
    def _starts(self) -> Tensor:
        """First entry of each row."""
        return self.counts.long().cumsum(0) - self.counts

    def to(self, device: torch.device) -> Atlas:
        """The atlas for positions on a device."""
        if self.counts.device == device:
            return self
        parts = (self.counts, self.classes, self.logs, self.frequencies)
        return Atlas(self.lattice, *(part.to(device) for part in parts))

    def _rows(self, positions: Tensor) -> Tensor:
        """Row (N,) to use for each position (N, 3): that of its cell, or the last."""
        cells = self.lattice.cells(positions)
        return torch.where(self.counts[cells] > 0, cells, self.lattice.num_cells)

    def kept(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The kept classes and their log-probabilities at positions (N, 3) in template mm.

        Returns:
            int64 and float32, both (N, M), most frequent first. M is the largest number of classes kept at any of these
            positions. Positions with fewer repeat their first class, so all entries can be passed to `scatter`. Classes
            that are not kept have the log-probability `rest`.
        """
        rows = self._rows(positions)
        counts = self.counts[rows].long()[:, None]
        most = int(counts.max()) if len(counts) else 0
        slot = torch.arange(most, device=counts.device)[None]
        entry = self._starts[rows][:, None] + torch.where(slot < counts, slot, 0)
        return self.classes[entry].long(), self.logs[entry].float()

    def log_prior(self, positions: Tensor) -> Tensor:
        """Log-probabilities (N, K) of all classes at positions (N, 3) in template mm."""
        classes, logs = self.kept(positions)
        rest = logs.new_full((len(positions), self.num_classes), self.rest)
        return rest.scatter_(1, classes, logs)

    def log_prior_map(self, positions: Tensor) -> Tensor:
        """Log-probabilities (K, X, Y, Z) at positions (3, X, Y, Z) in template mm, as `Frame.positions` gives them."""
        prior = self.log_prior(positions.flatten(1).T)
        return prior.T.reshape(-1, *positions.shape[1:])

    def log_likelihood(self, positions: Tensor, classes: Tensor) -> Tensor:
        """Log-probability (N,) of one class (N,) for each of the positions (N, 3) in template mm."""
        kept, logs = self.kept(positions)
        found = torch.where(kept == classes[:, None], logs, -torch.inf).amax(1)
        return torch.where(found.isinf(), self.rest, found)

    def likeliest(self, positions: Tensor) -> Tensor:
        """The most frequent class (X, Y, Z) at positions (3, X, Y, Z): the majority vote."""
        rows = self._rows(positions.flatten(1).T)
        return self.classes[self._starts[rows]].view(positions.shape[1:])

    def check(self) -> None:
        """Raise DataError if the tensors do not belong together, as in a damaged or forged file."""
        self.lattice.check()
        rows, entries = self.lattice.num_cells + 1, int(self.counts.long().sum())
        fits = (
            len(self.counts) == rows
            and int(self.counts[-1]) > 0
            and len(self.classes) == len(self.logs) == entries
            and 0 <= int(self.classes.min()) <= int(self.classes.max()) < self.num_classes
            and bool(self.logs.isfinite().all())
        )
        if not fits:
            raise DataError("its atlas is damaged: cells, classes and probabilities do not match")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `from_tensors` needs, for a checkpoint."""
        return {
            "shape": torch.tensor(self.lattice.shape),
            "cell_mm": torch.tensor(self.lattice.cell_mm, dtype=torch.float64),
            "counts": self.counts,
            "classes": self.classes,
            "logs": self.logs,
            "frequencies": self.frequencies,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Atlas:
        """The atlas from the result of `tensors()`."""
        X, Y, Z = tensors["shape"].tolist()
        x, y, z = tensors["cell_mm"].tolist()
        parts = (tensors[name] for name in ("counts", "classes", "logs", "frequencies"))
        return cls(Lattice((X, Y, Z), (x, y, z)), *parts)


def atlas_of(votes: Votes) -> Atlas:
    """The atlas of votes that are already smoothed."""
    K, last = votes.num_classes, votes.lattice.num_cells
    sums = np.bincount(votes.classes, votes.counts, minlength=K)
    seen = np.flatnonzero(sums)
    rows = np.concatenate([votes.cells, np.full(len(seen), last)])
    classes = np.concatenate([votes.classes, seen])
    rows, classes, counts = _most(rows, classes, np.concatenate([votes.counts, sums[seen]]))
    total = np.bincount(rows, counts, minlength=last + 1)
    return Atlas(
        votes.lattice,
        torch.from_numpy(np.bincount(rows, minlength=last + 1).astype(np.uint8)),
        torch.from_numpy(classes.astype(index_dtype(K))),
        torch.from_numpy(_logs(counts / total[rows], K)).half(),
        torch.from_numpy(_logs(sums / sums.sum(), K)).float(),
    )


def _most(
    rows: NDArray[np.int64], classes: NDArray[np.int64], counts: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """The entries that a row keeps, largest first; ties are in order of class."""
    large = counts >= LEAST_SHARE * np.bincount(rows, counts)[rows]
    rows, classes, counts = rows[large], classes[large], counts[large]
    # Rows, and the classes of each, are in ascending order already.
    most = int(counts.max(initial=0)) + 1
    order = np.argsort(rows * most + (most - 1 - counts), kind="stable")
    rows = rows[order]
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(firsts, np.diff(firsts, append=len(rows)))
    kept = order[rank < MOST_CLASSES]
    return rows[rank < MOST_CLASSES], classes[kept], counts[kept]


def _logs(shares: NDArray[np.float64], num_classes: int) -> NDArray[np.float64]:
    return np.log((1 - SURPRISE) * shares + SURPRISE / num_classes)
