"""Masks: one file per structure, or one layer per structure in a 4-D file, and the label map merged from them.

TotalSegmentator writes a folder of masks for each scan; 3D Slicer exports layers. A rule decides which structure wins
where masks overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from monaiseg.data.cases import channels_by_case, find_cases
from monaiseg.data.grid import Grid
from monaiseg.data.nifti import is_volume_name, volume_stem
from monaiseg.data.volumes import read_header, read_label_map, read_layers
from monaiseg.errors import DataError, counted, listed

OverlapRule = Literal["smaller", "later", "refuse"]
"""Which of two structures wins where their masks overlap: the smaller one by voxels in all cases, such as a tumour in a
kidney; the later one by name; or neither, and the case is refused."""
OVERLAP_RULES: tuple[OverlapRule, ...] = get_args(OverlapRule)
_FOLDERS = ("labels", "masks", "segmentations")


@dataclass(frozen=True)
class MaskedCase:
    """Images of a case and its masks: one file per structure name, or one file with layers."""

    id: str
    images: tuple[Path, ...]
    masks: Mapping[str, Path]
    layers: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case."""
        return (*self.images, *self.masks.values(), *([self.layers] if self.layers else []))


def find_masked_cases(root: Path) -> tuple[list[MaskedCase], list[str]]:
    """Find cases with masks, without reading any voxels; returns the cases and notes.

    The layouts are a folder per case with its images and a subfolder with its masks (TotalSegmentator's); and a folder
    `images` beside `labels`, `masks` or `segmentations`, with a folder of masks or a file of layers for each image.

    Raises:
        DataError: the folder has none of these layouts, or cases lack images or masks; the message names all of them.
    """
    root = root.absolute()
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give the folder that holds the dataset")
    if not (root / "images").is_dir():
        return _in_case_folders(root), []
    folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), root / _FOLDERS[0])
    if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        return _in_mask_folders(root / "images", folder), []
    found = find_cases(root)
    cases = [MaskedCase(case.id, case.images, {}, case.label) for case in found.cases]
    return cases, list(found.notes)


def _in_case_folders(root: Path) -> list[MaskedCase]:
    cases, problems = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and _is_seen(path)):
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and _is_seen(path))
        named = [path for path in inner if path.name in _FOLDERS] or inner
        images = _volumes(folder)
        if not images or len(named) != 1 or not _volumes(named[0]):
            problems.append(
                f"{folder}: has {counted(len(images), 'image')} and {counted(len(inner), 'folder')}; a case needs its images and a folder "
                "segmentations/ with a mask for each structure"
            )
            continue
        masks = {volume_stem(path): path for path in _volumes(named[0])}
        cases.append(MaskedCase(folder.name, tuple(images), masks))
    usual = Counter(tuple(image.name for image in case.images) for case in cases).most_common(1)
    problems += [
        f"{root / case.id}: has the images {', '.join(image.name for image in case.images)}, but most cases have "
        f"{', '.join(usual[0][0])}; give all cases the same"
        for case in cases
        if tuple(image.name for image in case.images) != usual[0][0]
    ]
    if problems:
        raise DataError(listed(problems))
    if not cases:
        raise DataError(
            f"{root}: has no cases; for --masks give images/ and labels/NAME/STRUCTURE.nii.gz, or a folder for each case"
        )
    return cases


def _in_mask_folders(images: Path, labels: Path) -> list[MaskedCase]:
    folders = {path.name: path for path in labels.iterdir() if path.is_dir() and _is_seen(path)}
    files = _volumes(images)
    by_case: dict[str, tuple[Path, ...]] = {volume_stem(path): (path,) for path in files}
    if not by_case.keys() & folders.keys():  # NAME_0000, NAME_0001, ... as nnU-Net names channels
        channels, faults = channels_by_case(images, files)
        if not faults:
            by_case = {name: tuple(found.values()) for name, found in channels.items()}
    problems = [
        f"{images}: image {n} has no folder of masks {labels / n}"
        for n in sorted(by_case.keys() - folders.keys())
    ]
    problems += [
        f"{labels / n}: has no image {n} in {images}"
        for n in sorted(folders.keys() - by_case.keys())
    ]
    problems += [
        f"{path}: has no masks" for n, path in sorted(folders.items()) if not _volumes(path)
    ]
    if problems:
        raise DataError(listed(problems))
    return [
        MaskedCase(
            name, by_case[name], {volume_stem(path): path for path in _volumes(folders[name])}
        )
        for name in sorted(folders)
    ]


def _is_seen(path: Path) -> bool:
    return not path.name.startswith((".", "~"))


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_volume_name(path.name) and _is_seen(path))


@dataclass(frozen=True)
class MergeOrder:
    """Label values of the structures, in the order in which their masks are painted."""

    values: Mapping[str, int]
    rule: OverlapRule


def structure_voxels(case: MaskedCase) -> dict[str, int]:
    """Number of voxels of each structure of a case."""
    return {name: int(mask.sum()) for name, mask in _masks(case, _image_grid(case))}


def merge_order(
    voxels: Iterable[Mapping[str, int]], named: Mapping[str, int], rule: OverlapRule
) -> MergeOrder:
    """Label values for the structures of all cases, and the order in which they are painted.

    Args:
        voxels: number of voxels of each structure, for each case.
        named: label value of each structure by name, if a label table gives them; otherwise structures are numbered in
            the order of their names.
        rule: which structure wins where masks overlap.

    Raises:
        DataError: the label table lacks structures.
    """
    totals: Counter[str] = Counter()
    for counts in voxels:
        totals.update(counts)
    names = sorted(totals, key=lambda name: (layer_number(name) or 0, name))
    missing = [name for name in names if name not in named and layer_number(name) is None]
    if named and missing:
        raise DataError(
            f"the label table has no structures named {', '.join(missing[:10])}{', ...' if missing[10:] else ''}; use the "
            "names of the mask files"
        )
    values = {
        name: layer_number(name) or named.get(name, number)
        for number, name in enumerate(names, start=1)
    }
    order = sorted(names, key=lambda name: -totals[name]) if rule == "smaller" else names
    return MergeOrder({name: values[name] for name in order}, rule)


def layer_number(name: str) -> int | None:
    """Label value of a structure that is named only by the number of its layer; None for other structures.

    >>> layer_number("layer 3"), layer_number("liver")
    (3, None)
    """
    head, _, tail = name.rpartition(" ")
    return int(tail) if head == "layer" and tail.isdigit() else None


def merged_masks(
    case: MaskedCase, order: MergeOrder
) -> tuple[NDArray[np.int32], Grid, dict[tuple[str, str], int]]:
    """Label map (X, Y, Z) of a case, its grid, and the number of overlapping voxels for each pair (below, above).

    Raises:
        DataError: a mask cannot be read, has several values, or is on another grid than the image; or masks overlap and
            the rule is "refuse".
    """
    grid = _image_grid(case)
    label = np.zeros(grid.shape, np.int32)
    names = {value: name for name, value in order.values.items()}
    overlaps: dict[tuple[str, str], int] = {}
    masks = dict(_masks(case, grid)) if case.layers else None
    for name in order.values:
        if masks is None and name in case.masks:
            mask = _read_mask(case.masks[name], grid)
        elif masks is not None and name in masks:
            mask = masks[name]
        else:
            continue
        below, counts = np.unique(label[mask], return_counts=True)
        for value, count in zip(below.tolist(), counts.tolist(), strict=True):
            if value:
                overlaps[names[value], name] = count
        label[mask] = order.values[name]
    if overlaps and order.rule == "refuse":
        shown = ", ".join(
            f"{a} and {b} ({counted(n, 'voxel')})" for (a, b), n in list(overlaps.items())[:5]
        )
        raise DataError(
            f"masks overlap: {shown}; correct them, or use --overlaps smaller or --overlaps later"
        )
    return label, grid, overlaps


def _image_grid(case: MaskedCase) -> Grid:
    return read_header(case.images[0]).grid


def _masks(case: MaskedCase, grid: Grid) -> Iterable[tuple[str, NDArray[np.bool_]]]:
    if case.layers is None:
        for name, path in case.masks.items():
            yield name, _read_mask(path, grid)
        return
    layers, header = read_layers(case.layers, like=grid)
    if words := header.grid.difference(grid):
        raise DataError(f"{case.layers}: is not on the grid of its image: {words}; resample it")
    yield from _layer_masks(layers, case.layers)


def _layer_masks(layers: NDArray[Any], path: Path) -> Iterable[tuple[str, NDArray[np.bool_]]]:
    """A mask per layer if all layers hold only 0 and 1; else one per label value, which must be in only one layer."""
    values = [np.unique(layers[..., n]) for n in range(layers.shape[3])]
    if all(set(found.tolist()) <= {0, 1} for found in values):
        for n in range(len(values)):
            yield f"layer {n + 1}", layers[..., n] == 1
        return
    places = Counter(int(value) for found in values for value in found if value)
    if shared := sorted(value for value, count in places.items() if count > 1):
        raise DataError(
            f"{path}: several layers have the value {shared[0]}; use layers of 0 and 1, or each value in only one layer"
        )
    for n, found in enumerate(values):
        for value in found[found > 0].tolist():
            yield f"layer {int(value)}", layers[..., n] == value


def _read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    values, header = read_label_map(path, like=grid)
    if words := header.grid.difference(grid):
        raise DataError(f"{path}: is not on the grid of its image: {words}; resample it")
    mask: NDArray[np.bool_] = values > 0
    if mask.any() and (inside := values[mask]).min() != inside.max():
        raise DataError(
            f"{path}: has several values ({inside.min()} to {inside.max()}); a mask has one. Prepare label maps without "
            "--masks"
        )
    return mask


def overlap_note(overlaps: Sequence[Mapping[tuple[str, str], int]], order: MergeOrder) -> list[str]:
    """A note on where masks overlap and which structure wins there; empty if they do not overlap."""
    totals: Counter[tuple[str, str]] = Counter()
    for found in overlaps:
        totals.update(found)
    if not totals:
        return []
    shown = ", ".join(f"{below} and {above} ({n})" for (below, above), n in totals.most_common(3))
    count = sum(bool(found) for found in overlaps)
    counts = {"smaller": "smaller structure", "later": "later name"}[order.rule]
    note = (
        f"masks overlap in {counted(totals.total(), 'voxel')} of {counted(count, 'case')}, mostly {shown}; the {counts}, the second of each "
        "pair, was kept there"
    )
    return [note]


def missing_note(cases: Sequence[MaskedCase], order: MergeOrder) -> list[str]:
    """A note on structures that have no mask in some cases; empty if there are none."""
    lacking = {
        name: count
        for name in order.values
        if (count := sum(case.layers is None and name not in case.masks for case in cases))
    }
    if not lacking:
        return []
    shown = ", ".join(
        f"{name} (in {n} of {len(cases)} cases)" for name, n in list(lacking.items())[:5]
    )
    rest = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    return [f"masks are missing: {shown}{rest}; in these cases the structure is background"]
