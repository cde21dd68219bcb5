"""Cases: one subject's images and label map; found in folders, paired, and split.

A *case* has an id, one image file a channel (or one file of several channels) and a label map. A *split* is a list of
cases with one use: train, val, test, or debug, which is a part of train that shows over-fitting.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monaiseg.errors import DataError, SettingsError, collecting, listed
from monaiseg.files import checked_text, read_json_object
from monaiseg.volumes import (
    is_volume_name,
    other_format,
    volume_stem,
)

SPLITS = ("train", "val", "test", "debug")
DEBUG_CASES = 5
"""As many training cases are scored again beside validation; a few show over-fitting as well as all would."""
DATASET_FILE = "dataset.json"
"""The Decathlon's and nnU-Net's name for a dataset's description, and ours for a data task's."""
_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's name for one channel of a case."""


@dataclass(frozen=True)
class Case:
    """One subject: id, image files in the order of channels, and label map."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case, the label map last."""
        return (*self.images, *([self.label] if self.label else []))


# ---------------------------------------------------------------- finding


@dataclass(frozen=True)
class FoundCases:
    """What a dataset folder holds."""

    cases: tuple[Case, ...]
    splits: dict[str, tuple[str, ...]] | None
    """Case ids of train, val and test where the folders are split; None where the splitting is left to us."""
    label_names: dict[int, str]
    channel_names: tuple[str, ...]
    notes: tuple[str, ...]


def find_cases(dataset_path: str | Path) -> FoundCases:
    """Cases of a dataset in one of four layouts, paired and with sound ids; no volume is opened.

    The layouts: `train|val|test/{images,labels}`; `images`, `labels`; the Decathlon's (`dataset.json` that lists
    pairs); nnU-Net's (`imagesTr`, `labelsTr`). In all but the Decathlon's, channels may be files of their own, with
    nnU-Net's number at the end of each name.

    Raises:
        DataError: the folder has none of the layouts, or images and label maps do not pair; all that do not are named.
    """
    root = Path(os.path.normpath(Path(dataset_path).absolute()))
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give the folder that holds the dataset")
    document = read_json_object(root / DATASET_FILE) if (root / DATASET_FILE).is_file() else {}
    label_names, channel_names, notes = _names(document, root / DATASET_FILE)
    folders = {s: root / s for s in ("train", "val", "test") if (root / s / "images").is_dir()}
    splits = None
    if (root / "imagesTr").is_dir() or "training" in document:
        cases, more = _find_listed(root, document)
    elif (root / "images").is_dir() and (root / "labels").is_dir():
        if folders:
            raise DataError(
                f"{root}: has images, labels and {', '.join(folders)}; keep either the split folders or the others"
            )
        cases, more = _find_pairs(root / "images", root / "labels")
    elif "train" in folders:
        cases, splits, more = _find_split(folders)
    else:
        raise DataError(
            f"{root}: has {_shown_entries(root)}; a dataset has images/ and labels/, or both of them inside train/, "
            "val/ and test/, or a Decathlon or nnU-Net dataset.json with imagesTr/ and labelsTr/"
        )
    check_ids([case.id for case in cases], str(root))
    return FoundCases(tuple(cases), splits, label_names, channel_names, (*notes, *more))


def _shown_entries(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not _is_hidden(path.name))
    return ", ".join([*names[:8], *(["..."] if names[8:] else [])]) or "nothing in it"


def _names(
    document: Mapping[str, Any], path: Path
) -> tuple[dict[int, str], tuple[str, ...], list[str]]:
    """Label names by value, channel names, and notes, in the Decathlon's spelling or nnU-Net's."""
    labels = document.get("labels", {})
    channels = document.get("channel_names", document.get("modality", {}))
    names, notes = {}, []
    try:
        for key, value in labels.items():
            if isinstance(value, list):
                notes.append(f"{path}: region {key!r} is made of several labels; ignored")
            elif isinstance(value, str):
                names[int(key)] = value
            else:
                names[int(value)] = key
        ordered = tuple(
            str(name) for _, name in sorted(channels.items(), key=lambda channel: int(channel[0]))
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f'{path}: {error}; "labels" and "channel_names" (or "modality") pair numbers with names'
        ) from error
    for name in names.values():
        checked_text(name, f"{path}: label name")
    for name in ordered:
        checked_text(name, f"{path}: channel name")
    return names, ordered, notes


def _find_split(
    folders: Mapping[str, Path],
) -> tuple[list[Case], dict[str, tuple[str, ...]], list[str]]:
    cases: list[Case] = []
    splits: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    problems: list[str] = []
    for split, folder in folders.items():
        with collecting(problems):
            found, more = _find_pairs(folder / "images", folder / "labels")
            cases += found
            splits[split] = tuple(case.id for case in found)
            notes += more
    if problems:
        raise DataError(listed(problems))
    notes += [
        f"no {split} folder: that split is empty"
        for split in ("val", "test")
        if split not in splits
    ]
    return cases, splits, notes


def _find_pairs(images: Path, labels: Path) -> tuple[list[Case], list[str]]:
    """Cases of a folder of images and a folder of label maps."""
    image_files, image_notes = _volumes_in(images)
    label_files, label_notes = _volumes_in(labels)
    if _are_channels(image_files, label_files):
        return _group_channels(images, image_files, label_files), [*image_notes, *label_notes]
    pairs, notes = pair_files(image_files, label_files, f"{images} and {labels.name}")
    cases = [Case(volume_stem(image), (image,), label) for image, label in pairs]
    return cases, [*image_notes, *label_notes, *notes]


def _find_listed(root: Path, document: Mapping[str, Any]) -> tuple[list[Case], list[str]]:
    """Cases of nnU-Net's raw layout or the Decathlon's."""
    folders = root / "imagesTr", root / "labelsTr"
    if "training" not in document:
        found, notes = _find_pairs(*folders)
        held_out = root / "imagesTs"
        names = [path.name for path in held_out.iterdir()] if held_out.is_dir() else []
        if left_out := sum(is_volume_name(name) and not _is_hidden(name) for name in names):
            notes.append(
                f"{held_out}: {left_out} images left out; for a split of your own use train, val and test folders"
            )
        return found, notes
    there = all(folder.is_dir() for folder in folders)
    if there and _are_channels(*(_volumes_in(folder)[0] for folder in folders)):
        return _find_pairs(*folders)
    path, items = root / DATASET_FILE, document["training"]
    if not isinstance(items, list) or not items:
        raise DataError(f'{path}: "training" lists no cases; list pairs of image and label there')
    cases: list[Case] = []
    problems: list[str] = []
    for number, item in enumerate(items):
        with collecting(problems, f"{path}: training[{number}]: "):
            image, label = (_inside(root, item, key) for key in ("image", "label"))
            cases.append(Case(volume_stem(image), (image,), label))
    if problems:
        raise DataError(listed(problems))
    unlabelled = document.get("test", [])
    if not isinstance(unlabelled, list):
        raise DataError(f'{path}: "test" is {unlabelled!r:.60}; list paths of images there')
    return cases, [
        f"{len(unlabelled)} test images without label maps left out"
    ] if unlabelled else []


def _inside(root: Path, item: object, key: str) -> Path:
    """A listed path below `root`; links inside it may lead where their owner wants them to."""
    entry = item.get(key) if isinstance(item, dict) else None
    path = Path(os.path.normpath(root / entry)) if isinstance(entry, str) else root
    if root not in path.parents:
        raise DataError(f"{key!r} is {entry!r}; give a path inside the dataset's folder")
    return path


def _are_channels(images: Iterable[Path], labels: Iterable[Path]) -> bool:
    """Whether images are named as nnU-Net names channels: NAME_0000 for the label map NAME."""
    named = {volume_stem(label) for label in labels}
    matches = (_CHANNEL.fullmatch(volume_stem(image)) for image in images)
    return any(match and match[1] in named and match[0] not in named for match in matches)


def channels_by_case(
    root: Path, images: Iterable[Path]
) -> tuple[dict[str, dict[int, Path]], list[str]]:
    """Images of several channels as nnU-Net names them: NAME_0000, NAME_0001, ... are the channels of NAME.

    Returns:
        The channels of each case by number, and what is wrong with them: a file without a number, a case without a
        channel that others have.
    """
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems = []
    for image in images:
        match = _CHANNEL.fullmatch(volume_stem(image))
        if match is None:
            problems.append(f"{image}: has no channel number; name it {volume_stem(image)}_0000")
        else:
            channels[match[1]][int(match[2])] = image
    everywhere = set().union(*channels.values())
    for name, files in sorted(channels.items()):
        if missing := sorted(everywhere - files.keys()):
            lacking = ", ".join(f"{c:04}" for c in missing)
            problems.append(f"{root}: image {name} lacks channel {lacking}")
    return {
        name: {c: files[c] for c in sorted(files)} for name, files in sorted(channels.items())
    }, problems


def case_id_of(images: Sequence[Path]) -> str:
    """The name of a case by its image files: NAME of NAME_0000, NAME_0001, ..., else the first file's.

    >>> case_id_of([Path("S01_0000.nii.gz"), Path("S01_0001.nii.gz")])
    'S01'
    """
    stems = [volume_stem(image) for image in images]
    matches = [_CHANNEL.fullmatch(stem) for stem in stems]
    names = {match[1] for match in matches if match}
    named_alike = len(images) > 1 and len(names) == 1 and all(matches)
    return names.pop() if named_alike else stems[0]


def _group_channels(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> list[Case]:
    """nnU-Net's cases."""
    channels, faults = channels_by_case(root, images)
    by_name = {volume_stem(label): label for label in labels}
    problems = [
        f"{root}: image {n} has no label map" for n in sorted(channels.keys() - by_name.keys())
    ]
    problems += faults
    problems += [
        f"{root}: label map {n} has no image" for n in sorted(by_name.keys() - channels.keys())
    ]
    if problems:
        raise DataError(listed(problems))
    return [Case(name, tuple(files.values()), by_name[name]) for name, files in channels.items()]


def _is_hidden(name: str) -> bool:
    return (
        name.startswith((".", "~"))
        or name.endswith(("~", ".tmp"))
        or name in ("Thumbs.db", "desktop.ini")
    )


def _volumes_in(folder: Path) -> tuple[list[Path], list[str]]:
    """NIfTI files of a folder by name, and notes on what else lies there.

    Raises:
        DataError: the folder cannot be read, holds no NIfTI file, holds images of other formats, or one twice.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); it should hold NIfTI files"
        ) from error
    hidden = [name for name in names if _is_hidden(name)]
    seen = [name for name in names if not _is_hidden(name)]
    volumes = [name for name in seen if is_volume_name(name)]
    others = {name: kind for name in seen if (kind := other_format(name)) is not None}
    problems = [f"{folder / name}: is {kind}; convert it to NIfTI" for name, kind in others.items()]
    problems += _clashes(volumes, folder)
    if not volumes and not problems:
        problems = [
            f"{folder}: holds no NIfTI files (.nii, .nii.gz) but {_shown_entries(folder)}; put some there"
        ]
    if problems:
        raise DataError(listed(problems))
    rest = [name for name in seen if not is_volume_name(name)]
    notes = [f"{folder}: {len(hidden)} hidden or temporary files ignored"] if hidden else []
    if rest:
        shown = ", ".join(rest[:5]) + (", ..." if rest[5:] else "")
        notes.append(f"{folder}: ignored, no volumes: {shown}")
    return [folder / name for name in volumes], notes


def _clashes(names: Sequence[str], folder: Path) -> list[str]:
    """Volumes that would get one id, or ids that some file systems hold to be one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[folded(volume_stem(name))].append(name)
    return [
        f"{folder}: {' and '.join(same)} would be one case; rename or remove one"
        for same in groups.values()
        if len(same) > 1
    ]


def folded(name: str) -> str:
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
        groups[folded(name)].append(name)
    problems += [
        f"{where}: case id {same[0]!r} stands {len(same)} times"
        f"{' (in different letter case)' if len(set(same)) > 1 else ''}; give each case its own name"
        for same in groups.values()
        if len(same) > 1
    ]
    if problems:
        raise DataError(listed(problems))


# ---------------------------------------------------------------- pairing


def pair_files(
    images: Sequence[Path], labels: Sequence[Path], where: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images with their label maps, and notes.

    By equal names; else by what is left of the names without their common beginning and end (`S01_T1` and `S01_seg`),
    numbers by their value (`image7` and `label007`); else, where no name agrees and there are as many of both, in sorted
    order.

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


# ---------------------------------------------------------------- splitting


def split_cases(
    ids: Iterable[str], sizes: tuple[int, int, int] = (70, 20, 10), seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """Case ids of train, val, test and debug.

    The order that decides is a hash of seed and id: it depends neither on the order of the files nor on which other
    cases there are.

    Args:
        ids: distinct case ids.
        sizes: percent of train, test and val; together 100. A split of more than 0 percent gets at least one case.
        seed: another seed, another split.

    Raises:
        SettingsError: the sizes are not percentages that sum to 100 with something to train on.
        DataError: there are fewer cases than splits to fill.

    >>> {split: len(ids) for split, ids in split_cases([f"S{n:02}" for n in range(40)]).items()}
    {'train': 28, 'val': 4, 'test': 8, 'debug': 5}
    """
    if any(size < 0 for size in sizes) or sum(sizes) != 100 or sizes[0] == 0:
        raise SettingsError(
            f"train_size, test_size and val_size are {sizes[0]}, {sizes[1]} and {sizes[2]}: use percentages that sum "
            "to 100, with more than 0 to train on"
        )
    order = _seeded_order(ids, seed)
    percent = dict(zip(("train", "test", "val"), sizes, strict=True))
    wanted = [split for split, size in percent.items() if size]
    if len(order) < len(wanted):
        raise DataError(
            f"{len(order)} cases cannot fill {', '.join(wanted)}: add cases, or give a split 0 percent"
        )
    counts = {split: len(order) * size // 100 for split, size in percent.items()}
    by_remainder = sorted(wanted, key=lambda split: -(len(order) * percent[split] % 100))
    for split in by_remainder[: len(order) - sum(counts.values())]:
        counts[split] += 1
    for split in wanted:
        if counts[split] == 0:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[split] = 1
    splits: dict[str, Sequence[str]] = {}
    start = 0
    for split, count in counts.items():
        splits[split] = order[start : start + count]
        start += count
    splits["debug"] = choose_debug(splits["train"], seed)
    return {split: tuple(sorted(splits[split])) for split in SPLITS}


def choose_debug(train_ids: Iterable[str], seed: int) -> tuple[str, ...]:
    """Ids of a few training cases, the same for the same seed."""
    return tuple(sorted(_seeded_order(train_ids, seed)[:DEBUG_CASES]))


def _seeded_order(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
