"""What the place of a voxel says about its label, for datasets: the atlas without a network, each person left out in turn.

Usage: python benchmarks/atlas.py DATASET [DATASET ...] [--group-by REGEX_OR_CSV] [--most CASES]

`--group-by` is that of `monaiseg prepare`: scans of one person never vote for one another. Label names come from `labels.csv` in the dataset's folder, where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import nibabel as nib
import numpy as np
import torch
from common import machine, table

from monaiseg.atlas import LabelledScan, TrainedAtlas, measure_atlas, train_atlas
from monaiseg.data import Case, LabelTable, find_cases, load_label_table, read_groups
from monaiseg.errors import SettingsError


class Cases(Sequence[LabelledScan]):
    """Cases of a dataset, turned to RAS; label maps and images stay in memory as small as they were stored."""

    def __init__(self, cases: Sequence[Case], labels: LabelTable) -> None:
        self.cases, self.labels = cases, labels
        self.read: dict[int, LabelledScan] = {}

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> LabelledScan: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledScan]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if index not in range(len(self)):
            raise IndexError(index)
        if index not in self.read:
            self.read[index] = read(self.cases[index], self.labels)
        return self.read[index]


def read(case: Case, labels: LabelTable) -> LabelledScan:
    channels = [nib.as_closest_canonical(nib.load(path)) for path in case.images]
    values = np.asanyarray(nib.as_closest_canonical(nib.load(case.label)).dataobj)
    image = np.stack([np.asarray(channel.dataobj, dtype=np.float32) for channel in channels])
    classes = labels.class_indices(np.rint(values).astype(np.int32))
    x, y, z = map(float, channels[0].header.get_zooms()[:3])
    return LabelledScan(torch.from_numpy(image), torch.from_numpy(classes), (x, y, z))


def label_table(folder: Path, cases: Sequence[Case]) -> LabelTable:
    values = sorted({v for case in cases for v in np.unique(nib.load(case.label).dataobj).tolist()})
    names = {}
    if (folder / "labels.csv").exists():
        known = load_label_table(folder / "labels.csv")
        names = dict(zip(known.values, known.names, strict=True))
    return LabelTable.from_values([int(v) for v in values], names)


def partners_of(labels: LabelTable) -> tuple[int, ...] | None:
    """Partners where labels have sides; without any, a mirror image may be no body (hearts)."""
    try:
        partners = labels.partner_classes
    except SettingsError:
        return None
    return partners if partners != tuple(range(labels.num_classes)) else None


def row(folder: Path, group_by: str | None, most: int | None) -> list[str]:
    found = sorted(find_cases(folder).cases, key=lambda case: case.id)[:most]
    labels = label_table(folder, found)
    cases = Cases(found, labels)
    ids = [case.id for case in found]
    groups = read_groups(ids, group_by) if group_by else dict(zip(ids, ids, strict=True))
    persons = [groups[name] for name in ids]
    list(cases)  # reading is not what is measured
    started = time.process_time()
    trained = train_atlas(cases, persons, labels.num_classes, partners_of(labels))
    built = time.process_time() - started
    evidence = measure_atlas(cases, trained)
    measured = time.process_time() - started - built
    placed = seconds_to_place(cases, trained)
    inner, outer = trained.template.correlations.T
    least = trained.template.least_correlations.tolist()
    inside, everywhere = evidence.foreground, evidence.everywhere
    return [
        folder.name,
        f"{len(found)} / {len(set(persons))}",
        " x ".join(f"{mm:.2g}" for mm in trained.template.lattice.cell_mm),
        " x ".join(map(str, trained.total.lattice.shape)),
        f"{built / len(found):.2f}",
        f"{measured / len(found):.2f}",
        f"{placed:.2f}",
        f"{evidence.mean_dice:.3f}",
        f"{inside.by_place:.2f} / {inside.by_frequency:.2f}",
        f"{everywhere.by_place:.3f} / {everywhere.by_frequency:.3f}",
        f"{inner.mean():.2f} ({inner.min():.2f}) / {outer.mean():.2f} ({outer.min():.2f})",
        " / ".join(f"{value:.2f}" for value in least),
        f"{trained.atlas().num_bytes / 1e6:.1f}",
    ]


def seconds_to_place(cases: Cases, trained: TrainedAtlas) -> float:
    """CPU seconds of a new scan: its frame, and the vote at each of its voxels."""
    atlas = trained.atlas()
    started = time.process_time()
    scan = trained.template.scan(cases[0].image, cases[0].spacing)
    atlas.likeliest(trained.template.place(scan).positions())
    return time.process_time() - started


COLUMNS = [
    "dataset", "scans / persons", "block, mm", "cells", "CPU s a scan: build", "measure", "place",
    "Dice of the vote", "log-likelihood, foreground: place / frequency", "all voxels",
    "correlation: mean (least), inside / with outline", "does not fit below", "MB",
]  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--group-by")
    parser.add_argument("--most", type=int)
    options = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads", sep=", ", end="\n\n")
    print(table(COLUMNS, [row(d, options.group_by, options.most) for d in options.datasets]))
