"""Sizes: patches, voxel sizes and images that do not go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from statistics import median

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted, several
from monaiseg.data import Shape, Spacing, resampled_shape, resampling_doubt
from monaiseg.errors import DataError, MonaisegError

MOSTLY_PADDING = 0.5
"""A patch of which less than this share is image wastes most of its time."""
FEWEST_VOXELS = 8
"""A structure with fewer voxels at the network's voxel size is hardly there."""


def patch_and_images(evidence: Evidence) -> Iterator[Finding]:
    """Images that fill only a small part of a patch, if most are so; a few small images among large ones do no harm."""
    settings = evidence.settings
    if settings is None or settings.dataset.seg.use_whole_img_as_input:
        return
    patch = settings.patch_shape
    shapes = {name: shape for name, (shape, _) in _network_grids(evidence).items()}
    filled = {
        name: math.prod(min(size, side) for size, side in zip(shape, patch, strict=True))
        / math.prod(patch)
        for name, shape in shapes.items()
    }
    small = {name: share for name, share in filled.items() if share < MOSTLY_PADDING}
    if 2 * len(small) > len(filled):
        doubts = (
            Doubt(name, f"{_by(shapes[name])} voxels fill {share:.0%} of a patch")
            for name, share in small.items()
        )
        yield Finding(
            "patch-larger-than-images",
            f"{counted(len(small), 'image')} much smaller than a patch of {_by(patch)} voxels",
            "The rest of the patch is padding, which takes the same time and memory as image.",
            f"Lower dataset.seg.patch_size; the median image has {_by(_median(shapes.values()))} voxels.",
            tuple(doubts),
        )


def network_fits(evidence: Evidence) -> Iterator[Finding]:
    """Patch sizes that the network cannot halve."""
    if evidence.settings is None or not evidence.facts:
        return
    from monaiseg.networks import plan_topology  # noqa: PLC0415  it needs torch

    settings = evidence.settings
    spacing = _median([spacing for _, spacing in _network_grids(evidence).values()])
    try:
        plan_topology(settings.tsk_set.network, settings.patch_shape, spacing)
    except MonaisegError as error:
        yield Finding(
            "patch-size",
            str(error),
            "Each stage of the network halves the patch.",
            "Correct the settings.",
            stops_training=True,
        )


def doubtful_resampling(evidence: Evidence) -> Iterator[Finding]:
    """Images whose voxel size is far from the one that the settings ask for."""
    if evidence.settings is None or (wanted := evidence.settings.spacing_mm) is None:
        return
    doubts = []
    paths = {case.id: str(case.images[0]) for case in evidence.cases}
    for name, found in evidence.facts.items():
        try:
            words = resampling_doubt(paths[name], found.grid.along_ras[1], wanted)
        except DataError as error:
            words = str(error)
        if words:
            doubts.append(Doubt(name, words))
    if doubts:
        yield Finding(
            "strong-resampling",
            f"{counted(len(doubts), 'image')} with a voxel size far from dataset.spacing",
            "Resampling by such a factor loses or invents most of the image.",
            "Correct the voxel size in the header, or set dataset.spacing near that of the scans.",
            tuple(doubts),
        )


def vanishing_structures(evidence: Evidence) -> Iterator[Finding]:
    """Structures that have hardly a voxel left on the network's grid."""
    if evidence.settings is None:
        return
    grids = _network_grids(evidence)
    sizes: dict[int, list[float]] = {}
    for name, voxels in evidence.labelled.items():
        before = math.prod(evidence.facts[name].spacing)
        after = math.prod(grids[name][1])
        for value, count in voxels.items():
            sizes.setdefault(value, []).append(count * before / after)
    kept = evidence.settings.dataset.seg.interested_label_list
    gone = [
        value
        for value, counts in sorted(sizes.items())
        if median(counts) < FEWEST_VOXELS and (-1 in kept or value in kept)
    ]
    if gone:
        yield Finding(
            "tiny-structures",
            f"{counted(len(gone), 'structure')} with fewer than {FEWEST_VOXELS} voxels on the network's grid: "
            f"{several(map(evidence.label_name, gone))}",
            "A structure of a few voxels is rarely in a patch, and its Dice is a matter of chance.",
            "Use a smaller dataset.spacing, or leave these labels out with dataset.seg.interested_label_list.",
        )


def _network_grids(evidence: Evidence) -> dict[str, tuple[Shape, Spacing]]:
    """Shape and voxel size of each image after resampling, along X, Y, Z."""
    settings = evidence.settings
    found = {}
    for name, facts in evidence.facts.items():
        shape, spacing = facts.grid.along_ras
        if settings is not None and settings.spacing_mm is not None:
            shape = resampled_shape(shape, spacing, settings.spacing_mm)
            spacing = settings.spacing_mm
        if settings is not None and settings.image_shape is not None:
            x, y, z = (
                n * step / size
                for n, step, size in zip(shape, spacing, settings.image_shape, strict=True)
            )
            shape, spacing = settings.image_shape, (x, y, z)
        found[name] = (shape, spacing)
    return found


def _median(triples: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = (median(sizes) for sizes in zip(*triples, strict=True))
    return x, y, z


def _by(shape: tuple[float, float, float]) -> str:
    return " x ".join(f"{size:g}" for size in shape)
