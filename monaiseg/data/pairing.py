"""Pairing: match label maps to images by their file names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from monaiseg.data.nifti import volume_stem
from monaiseg.errors import DataError, counted, listed


def clashes(names: Sequence[str], folder: Path) -> list[str]:
    """Problems with volumes that would get the same id, or ids that some file systems do not distinguish."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[caseless(volume_stem(name))].append(name)
    return [
        f"{folder}: {' and '.join(same)} have the same name but for the ending; rename or remove one"
        for same in groups.values()
        if len(same) > 1
    ]


def caseless(name: str) -> str:
    """A name as seen by file systems that ignore case and normalise accents; equal names are the same file there."""
    return unicodedata.normalize("NFC", name).casefold()


def check_ids(ids: Sequence[str], where: str) -> None:
    """Raise DataError unless ids are unique, printable and valid file names: output files are named after them."""
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
        f"{where}: case id {same[0]!r} is used {len(same)} times"
        f"{' (in different letter case)' if len(set(same)) > 1 else ''}; give each case its own name"
        for same in groups.values()
        if len(same) > 1
    ]
    if problems:
        raise DataError(listed(problems))


def pair_files(
    images: Sequence[Path], labels: Sequence[Path], where: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pair images with label maps; returns the pairs and notes.

    Files are paired by equal names; else by what is left of the names without their common prefix and suffix (`S01_T1`
    and `S01_seg`), comparing numbers by value (`image7` and `label007`); else, if no names agree and there are as many
    images as label maps, in sorted order.

    Raises:
        DataError: some names agree and others do not, or the counts differ; the message names the files without a
            partner.
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
        note = f"names of images and label maps differ, so they are paired in sorted order: {first} to {last}"
        return pairs, [f"{where}: {note}; give an image and its label map the same name to be sure"]
    lone = [f"image {ours[k].name} has no label map" for k in sorted(ours.keys() - theirs.keys())]
    lone += [
        f"label map {theirs[k].name} has no image" for k in sorted(theirs.keys() - ours.keys())
    ]
    counts = f"{counted(len(images), 'image')} and {counted(len(labels), 'label map')}"
    raise DataError(
        f"{where}: {counts} do not match; give an image and its label map the same name\n{listed(lone)}"
    )


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    return {volume_stem(path): path for path in files}


def _by_core(files: Sequence[Path]) -> dict[str, Path]:
    """Files by the part of the stem that distinguishes them, with leading zeros removed from its numbers."""
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
    """Pairs if each label map's name is the distinguishing part of its image's name between a common prefix and suffix.

    The list is empty otherwise. Names of different lengths can share more at one end than at the other: `a` and `a_b`
    in `x_a_y` and `x_a_b_y`.
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
    """Length of the common prefix of all names, without cutting a number in two."""
    return len(os.path.commonprefix(names).rstrip("0123456789"))  # noqa: RUF071  letters are meant
