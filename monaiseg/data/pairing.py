"""Pairing: which label map belongs to which image, by their file names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from monaiseg.data.nifti import volume_stem
from monaiseg.errors import DataError, listed


def clashes(names: Sequence[str], folder: Path) -> list[str]:
    """Volumes that would get one id, or ids that some file systems hold to be one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[caseless(volume_stem(name))].append(name)
    return [
        f"{folder}: {' and '.join(same)} would be one case; rename or remove one"
        for same in groups.values()
        if len(same) > 1
    ]


def caseless(name: str) -> str:
    """A name as file systems that fold case and accents see it: two alike would be one file there."""
    return unicodedata.normalize("NFC", name).casefold()


def check_ids(ids: Sequence[str], where: str) -> None:
    """Ids name output files and stand in lists: they must be printable, plain as a file name, and unique."""
    problems = [
        f"{where}: case id {name!r}: a file name of printable letters that starts with neither - nor . is needed; "
        "rename the file"
        for name in ids
        if not name.isprintable() or name != name.strip() or re.search(r"^[-.]|^$|[/\\]", name)
    ]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ids:
        groups[caseless(name)].append(name)
    problems += [
        f"{where}: case id {same[0]!r} stands {len(same)} times"
        f"{' (in different letter case)' if len(set(same)) > 1 else ''}; give each case its own name"
        for same in groups.values()
        if len(same) > 1
    ]
    if problems:
        raise DataError(listed(problems))


def pair_files(
    images: Sequence[Path], labels: Sequence[Path], where: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images with their label maps, and notes.

    By equal names; else by what is left of the names without their common beginning and end (`S01_T1` and `S01_seg`),
    numbers by their value (`image7` and `label007`); else, where no name agrees and there are as many of both, in
    sorted order.

    Raises:
        DataError: some names agree and others do not, or the counts differ; those without a partner are named.
    """
    ours, theirs = _by_stem(images), _by_stem(labels)
    if not ours.keys() & theirs.keys():
        if embedded := _embedded(images, labels):
            return embedded, []
        ours, theirs = _by_core(images), _by_core(labels)
    if ours.keys() == theirs.keys():
        return [(ours[key], theirs[key]) for key in sorted(ours)], []
    if not ours.keys() & theirs.keys() and len(images) == len(labels):
        pairs = list(zip(sorted(images), sorted(labels), strict=True))
        first, last = (" with ".join(path.name for path in pairs[i]) for i in (0, -1))
        note = f"names do not agree, so files are paired in sorted order: {first} to {last}"
        return pairs, [f"{where}: {note}; give pairs the same name to be sure"]
    lone = [f"image {ours[k].name} has no label map" for k in sorted(ours.keys() - theirs.keys())]
    lone += [
        f"label map {theirs[k].name} has no image" for k in sorted(theirs.keys() - ours.keys())
    ]
    counts = f"{len(images)} images and {len(labels)} label maps"
    raise DataError(f"{where}: {counts} do not pair; give pairs the same name\n{listed(lone)}")


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    return {volume_stem(path): path for path in files}


def _by_core(files: Sequence[Path]) -> dict[str, Path]:
    """Files by the part of the stem that tells them apart, its numbers without leading zeros."""
    stems = [volume_stem(path) for path in files]
    if len(stems) == 1:
        return _by_stem(files)
    start = _common_start(stems)
    end = _common_start([stem[start:][::-1] for stem in stems])
    cores = [stem[start : len(stem) - end] for stem in stems]
    numbered = [re.sub(r"\d+", lambda digits: str(int(digits[0])), core) for core in cores]
    distinct = numbered if len(set(numbered)) == len(files) else cores
    return dict(zip(distinct, files, strict=True))


def _embedded(images: Sequence[Path], labels: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs where every label map's name is what tells its image apart, between one beginning and one end; else none.

    Names that are longer than others can share more with one end than with the other: `a`, `a_b` in `x_a_y`, `x_a_b_y`.
    """
    stems, ours = ([volume_stem(path) for path in files] for files in (labels, images))
    start = len(os.path.commonprefix(ours))  # noqa: RUF071  letters are meant
    end = len(os.path.commonprefix([stem[start:][::-1] for stem in ours]))  # noqa: RUF071
    cores = {stem[start : len(stem) - end]: image for stem, image in zip(ours, images, strict=True)}
    around = min(map(len, stems)) - min(map(len, cores))
    shared = len(os.path.commonprefix(stems))  # noqa: RUF071
    for before in range(min(shared, around) + 1):
        after = around - before
        found = {
            stem[before : len(stem) - after]: label
            for stem, label in zip(stems, labels, strict=True)
        }
        ends = {stem[len(stem) - after :] for stem in stems}
        if found.keys() == cores.keys() and len(found) == len(labels) and len(ends) == 1:
            return [(cores[core], found[core]) for core in sorted(cores)]
    return []


def _common_start(names: Sequence[str]) -> int:
    """Number of letters that all names begin with; a number is not cut in two."""
    return len(os.path.commonprefix(names).rstrip("0123456789"))  # noqa: RUF071  letters are meant
