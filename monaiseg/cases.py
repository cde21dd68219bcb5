"""Cases: one subject's images and label map; found in folders, paired, examined, split, listed in files and read back.

A *case* has an id, one image file a channel (or one file of several channels) and a label map. A *split* is a list of
cases with one use: train, val, test, or debug, which is a part of train that shows over-fitting. A *data task* is a
set of cases with its splits and its label table, as it lies in a folder: EasyReg's list files, and `dataset.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.errors import DataError, SettingsError, StorageError, listed
from monaiseg.files import write_atomic
from monaiseg.geometry import Grid, Shape, Spacing
from monaiseg.labels import LabelTable
from monaiseg.settings import Settings
from monaiseg.volumes import (
    VolumeHeader,
    file_sha256,
    is_volume_name,
    other_format,
    read_label_map,
    read_volume,
    volume_stem,
)

SPLITS = ("train", "val", "test", "debug")
SCHEMA_VERSION = 1
DEBUG_CASES = 5
"""As many training cases are scored again beside validation; a few show over-fitting as well as all would."""
DATASET_FILE = "dataset.json"
PATHS_FILE, NAMES_FILE = "file_path_list.txt", "file_name_list.txt"
VOLUMES_FOLDER = "volumes"
"""Where a data task keeps volumes of its own, if preparation wrote any."""
CACHE_FOLDER = "cache"
"""Where trainings keep prepared cases, found again by their content."""
MOSTLY_FOREGROUND = 0.9
MANY_VALUES = 255
"""A label map with more values than this and no table to name them is rather an image."""

_MAX_TEXT_BYTES = 256 << 20
_LABELLED = ("train", "val", "debug")

Progress = Callable[[int, int], None]
"""Called with the number of cases done and of all."""


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
    pairs); nnU-Net's (`imagesTr` with a channel's number at the end of each name, `labelsTr`).

    Raises:
        DataError: the folder has none of the layouts, or images and label maps do not pair; all that do not are named.
    """
    root = Path(os.path.normpath(Path(dataset_path).absolute()))
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give the folder that holds the dataset")
    document = _json_object(root / DATASET_FILE) if (root / DATASET_FILE).is_file() else {}
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
    _check_ids([case.id for case in cases], str(root))
    return FoundCases(tuple(cases), splits, label_names, channel_names, (*notes, *more))


@contextmanager
def _collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Puts a fault on the list instead of stopping at it, so that all can be named at once."""
    try:
        yield
    except DataError as error:
        problems.append(f"{prefix}{error}")


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
        ordered = tuple(str(channels[key]) for key in sorted(channels, key=int))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f'{path}: {error}; "labels" and "channel_names" (or "modality") pair numbers with names'
        ) from error
    return names, ordered, notes


def _find_split(
    folders: Mapping[str, Path],
) -> tuple[list[Case], dict[str, tuple[str, ...]], list[str]]:
    cases: list[Case] = []
    splits: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    problems: list[str] = []
    for split, folder in folders.items():
        with _collecting(problems):
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
    pairs, notes = pair_files(image_files, label_files, f"{images} and {labels.name}")
    cases = [Case(volume_stem(image), (image,), label) for image, label in pairs]
    return cases, [*image_notes, *label_notes, *notes]


def _find_listed(root: Path, document: Mapping[str, Any]) -> tuple[list[Case], list[str]]:
    """Cases of nnU-Net's raw layout or the Decathlon's."""
    if (root / "imagesTr").is_dir() and (root / "labelsTr").is_dir():
        images, notes = _volumes_in(root / "imagesTr")
        labels, more = _volumes_in(root / "labelsTr")
        channels = [re.fullmatch(r"(.+)_(\d{4})", volume_stem(image)) for image in images]
        named = {volume_stem(label) for label in labels}
        if any(match and match[1] in named and match[0] not in named for match in channels):
            return _group_channels(root, images, labels), notes + more
    if "training" not in document:
        return _find_pairs(root / "imagesTr", root / "labelsTr")
    path, items = root / DATASET_FILE, document["training"]
    if not isinstance(items, list) or not items:
        raise DataError(f'{path}: "training" lists no cases; list pairs of image and label there')
    cases: list[Case] = []
    problems: list[str] = []
    for number, item in enumerate(items):
        with _collecting(problems, f"{path}: training[{number}]: "):
            image, label = (_inside(root, item, key) for key in ("image", "label"))
            cases.append(Case(volume_stem(image), (image,), label))
    if problems:
        raise DataError(listed(problems))
    unlabelled = document.get("test", [])
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


def _group_channels(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> list[Case]:
    """nnU-Net's cases: NAME_0000, NAME_0001, ... are the channels of NAME."""
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems = []
    for image in images:
        match = re.fullmatch(r"(.+)_(\d{4})", volume_stem(image))
        if match is None:
            problems.append(f"{image}: has no channel number; name it {volume_stem(image)}_0000")
        else:
            channels[match[1]][int(match[2])] = image
    by_name = {volume_stem(label): label for label in labels}
    everywhere = set().union(*channels.values())
    for name, files in sorted(channels.items()):
        if name not in by_name:
            problems.append(f"{root}: image {name} has no label map")
        if missing := sorted(everywhere - files.keys()):
            problems.append(
                f"{root}: image {name} lacks channel {', '.join(f'{c:04}' for c in missing)}"
            )
    problems += [
        f"{root}: label map {n} has no image" for n in sorted(by_name.keys() - channels.keys())
    ]
    if problems:
        raise DataError(listed(problems))
    return [
        Case(name, tuple(files[c] for c in sorted(files)), by_name[name])
        for name, files in sorted(channels.items())
    ]


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
        groups[_folded(volume_stem(name))].append(name)
    return [
        f"{folder}: {' and '.join(same)} would be one case; rename or remove one"
        for same in groups.values()
        if len(same) > 1
    ]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _check_ids(ids: Sequence[str], where: str) -> None:
    """Ids name output files and stand in lists: they must be printable, plain as a file name, and unique."""
    problems = [
        f"{where}: case id {name!r}: a file name of printable letters that starts with neither - nor . is needed; "
        "rename the file"
        for name in ids
        if not name.isprintable() or name != name.strip() or re.search(r"^[-.]|^$|[/\\]", name)
    ]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in ids:
        groups[_folded(name)].append(name)
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

    By equal names; else by what is left of the names without their common beginning and end (`S01_T1` and `S01_seg`,
    `image7` and `label007`); else, where no name agrees and there are as many of both, in sorted order.

    Raises:
        DataError: some names agree and others do not, or the counts differ; those without a partner are named.
    """
    for keyed in (_by_stem, _by_core):
        ours, theirs = keyed(images), keyed(labels)
        if ours.keys() == theirs.keys():
            return [(ours[key], theirs[key]) for key in sorted(ours)], []
        if ours.keys() & theirs.keys():
            break
    else:
        if len(images) == len(labels):
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


# ---------------------------------------------------------------- examining


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one channel; those of the foreground are None where there is none."""

    min: float
    max: float
    mean: float
    std: float
    p00_5: float
    p50: float
    p99_5: float
    foreground_mean: float | None
    foreground_std: float | None


@dataclass(frozen=True)
class CaseFacts:
    """What an examination measured on a case."""

    shape: Shape
    spacing: Spacing
    """mm along the file's axes."""
    orientation: str
    checksum: str
    """SHA-256 of the image files' bytes: another one means that the files have changed."""
    voxel_digest: str
    """SHA-256 of shape and intensities: equal for equal images, however they are packed."""
    label_voxels: dict[int, int]
    """Voxels of each label value; empty without a label map."""
    intensity: tuple[ChannelFacts, ...]
    notes: tuple[tuple[str, str], ...] = ()
    """Files, and what was put up with in them."""

    @property
    def foreground_share(self) -> float:
        """Labelled voxels, as a share of all."""
        return 1 - self.label_voxels.get(0, 0) / max(sum(self.label_voxels.values()), 1)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CaseFacts:
        """Facts from `dataclasses.asdict` after a journey through JSON."""
        x, y, z = (int(n) for n in record["shape"])
        dx, dy, dz = (float(s) for s in record["spacing"])
        return cls(
            (x, y, z),
            (dx, dy, dz),
            str(record["orientation"]),
            str(record["checksum"]),
            str(record["voxel_digest"]),
            {int(value): int(count) for value, count in record["label_voxels"].items()},
            tuple(ChannelFacts(**channel) for channel in record["intensity"]),
            tuple((str(path), str(note)) for path, note in record["notes"]),
        )


def examine_cases(
    cases: Sequence[Case], workers: int | None = None, on_progress: Progress | None = None
) -> dict[str, CaseFacts]:
    """Facts of every case by id; each file is read whole, several at a time.

    Raises:
        DataError: some cases cannot be used; every one is named with all that is wrong with it.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    facts: dict[str, CaseFacts] = {}
    problems: dict[str, list[str]] = {}
    # Threads, not processes: zlib, hashing and most of numpy let go of the interpreter's lock.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, (case, found) in enumerate(
                zip(cases, pool.map(_examine, cases), strict=True), 1
            ):
                if isinstance(found, CaseFacts):
                    facts[case.id] = found
                else:
                    problems[case.id] = found
                if on_progress:
                    on_progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    counts = Counter(len(found.intensity) for found in facts.values())
    for name, found in facts.items():
        usual = counts.most_common(1)[0][0]
        if len(found.intensity) != usual:
            problems[name] = [
                f"has {len(found.intensity)} channels and most cases {usual}; give all the same"
            ]
    if problems:
        lines = [f"case {name!r}: {text}" for name, texts in problems.items() for text in texts]
        raise DataError(f"{len(problems)} of {len(cases)} cases cannot be used:\n{listed(lines)}")
    return facts


def _examine(case: Case) -> CaseFacts | list[str]:
    """Facts of a case, or all that is wrong with it."""
    problems: list[str] = []
    headers: list[VolumeHeader] = []
    label: NDArray[Any] | None = None
    label_header: VolumeHeader | None = None
    channels: list[ChannelFacts] = []
    content = hashlib.sha256()
    if case.label is not None:
        with _collecting(problems, "label map "):
            label, label_header = read_label_map(case.label)
    for path in case.images:
        with _collecting(problems, "image "):
            image, header = read_volume(path)
            headers.append(header)
            problems += _grid_problems(headers, label_header)
            same_shape = label is not None and label.shape == image.shape[:3]
            for values in np.moveaxis(image, 3, 0) if image.ndim == 4 else [image]:
                channels.append(_channel_facts(values, label if same_shape else None))
                content.update(repr(values.shape).encode())
                content.update(np.ascontiguousarray(values.T, dtype=np.float32).data)
                if channels[-1].min == channels[-1].max:
                    raise DataError(
                        f"{path}: holds the one value {channels[-1].min:g}; give a scan"
                    )
    if problems:
        return problems
    checksum = _checksum(case)
    if case.label is not None and file_sha256(case.label) == file_sha256(case.images[0]):
        return [f"image and label map {case.label} are the same file; give the label map"]
    grid = headers[0].grid
    return CaseFacts(
        grid.shape,
        grid.spacing,
        grid.orientation,
        checksum,
        content.hexdigest(),
        {} if label is None else _count_values(label),
        tuple(channels),
        tuple(
            (str(header.path), note)
            for header in (*headers, *([label_header] if label_header else []))
            for note in header.notes
        ),
    )


def _grid_problems(headers: Sequence[VolumeHeader], label: VolumeHeader | None) -> list[str]:
    """How the newest image's grid differs from the first's; for the first, from the label map's."""
    newest = headers[-1]
    other: Grid | None = headers[0].grid if len(headers) > 1 else label.grid if label else None
    words = None if other is None else newest.grid.difference(other)
    if words is None:
        return []
    pair = f"channels {headers[0].path} and" if len(headers) > 1 else "label map and image"
    return [f"{pair} {newest.path} lie on different grids: {words}; resample one onto the other"]


def _channel_facts(values: NDArray[Any], label: NDArray[Any] | None) -> ChannelFacts:
    low, middle, high = np.percentile(values, [0.5, 50, 99.5])
    inside = values[label > 0] if label is not None else values[:0]
    return ChannelFacts(
        float(values.min()),
        float(values.max()),
        float(values.mean(dtype=np.float64)),
        float(values.std(dtype=np.float64)),
        float(low),
        float(middle),
        float(high),
        float(inside.mean(dtype=np.float64)) if inside.size else None,
        float(inside.std(dtype=np.float64)) if inside.size else None,
    )


def _count_values(label: NDArray[Any]) -> dict[int, int]:
    if int(label.max()) < 1 << 16:
        counts = np.bincount(label.ravel(order="K"))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _checksum(case: Case) -> str:
    """SHA-256 over the digests of the image files; for one file, that file's."""
    digests = [file_sha256(path) for path in case.images]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def check_unchanged(cases: Iterable[Case], facts: Mapping[str, CaseFacts]) -> None:
    """Raises DataError naming every case whose images have changed since they were examined."""
    changed = [
        f"case {case.id!r}: {', '.join(map(str, case.images))} changed since the check; run the preparation again"
        for case in cases
        if _checksum(case) != facts[case.id].checksum
    ]
    if changed:
        raise DataError(listed(changed))


def check_duplicates(
    splits: Mapping[str, Iterable[str]], facts: Mapping[str, CaseFacts]
) -> list[str]:
    """Notes on images that stand twice in one split.

    Raises:
        DataError: an image stands in two of train, val and test under different ids: its scores would be too good.
    """
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split in ("train", "val", "test"):
        for name in splits.get(split, ()):
            places[facts[name].voxel_digest].append((split, name))
    problems: list[str] = []
    notes: list[str] = []
    for same in places.values():
        if len(same) > 1:
            shown = " and ".join(f"{name} ({split})" for split, name in same)
            leaks = len({split for split, _ in same}) > 1
            (problems if leaks else notes).append(f"cases {shown} are the same image")
    if problems:
        raise DataError(listed([f"{problem}; remove all but one" for problem in problems]))
    return notes


def file_notes(facts: Mapping[str, CaseFacts]) -> list[str]:
    """What was put up with in the files, once for all files that share it."""
    paths: dict[str, list[str]] = defaultdict(list)
    for found in facts.values():
        for path, note in found.notes:
            paths[note].append(path)
    return [
        f"{files[0]}: {note}" + (f" (and {len(files) - 1} more files)" if files[1:] else "")
        for note, files in paths.items()
    ]


# ---------------------------------------------------------------- labels of many cases


def scan_labels(
    facts: Mapping[str, CaseFacts], names: Mapping[int, str] | None = None
) -> LabelTable:
    """Table of every label value that any case has.

    Raises:
        DataError: a label map without names has so many values that it is rather an image.
    """
    crowded = [
        f"case {name!r}: its label map has {len(found.label_voxels)} different values, like an image; give label maps, "
        "or name the values in a label table"
        for name, found in facts.items()
        if len(found.label_voxels) > MANY_VALUES and not names
    ]
    if crowded:
        raise DataError(listed(crowded))
    return LabelTable.from_values(
        {v for found in facts.values() for v in found.label_voxels}, names
    )


def check_labels(facts: Mapping[str, CaseFacts], table: LabelTable) -> None:
    """Raises DataError naming every case with values that the table lacks, with their voxel counts."""
    known = set(table.values)
    problems = []
    for name, found in facts.items():
        strange = {
            value: count for value, count in found.label_voxels.items() if value not in known
        }
        if strange:
            shown = ", ".join(f"{v} ({n} voxels)" for v, n in list(strange.items())[:10])
            problems.append(
                f"case {name!r}: its label map has values {shown} that the label table does not name"
            )
    if problems:
        raise DataError(
            listed(problems) + "\nadd the values to the label table, or mend the label maps"
        )


def label_notes(
    splits: Mapping[str, Iterable[str]], facts: Mapping[str, CaseFacts], table: LabelTable
) -> list[str]:
    """Notes on label maps that are all background or hardly any, and on classes that no training case has."""
    notes = []
    for name in dict.fromkeys(
        name for split in ("train", "val", "test") for name in splits.get(split, ())
    ):
        share = facts[name].foreground_share
        if facts[name].label_voxels and share == 0:
            notes.append(f"case {name!r}: its label map is all background")
        elif share > MOSTLY_FOREGROUND:
            notes.append(
                f"case {name!r}: {share:.0%} of its label map is foreground; is it inverted?"
            )
    trained = {value for name in splits.get("train", ()) for value in facts[name].label_voxels}
    absent = [
        f"{label.value} ({label.name})" for label in table.foreground if label.value not in trained
    ]
    if absent:
        notes.append(f"no training case has the labels {', '.join(absent)}: they cannot be learnt")
    return notes


# ---------------------------------------------------------------- list files


def read_list_file(path: str | Path, root: str | Path | None = None) -> tuple[Case, ...]:
    """Cases of a list file as EasyReg writes it: a line has the paths of image(s) and label map.

    White space, commas, | and + separate paths; a path that holds one of them stands in double quotes, as in JSON.
    The last of several paths is the label map, `None` means that there is none. Relative paths start at the current
    folder or, where nothing is there, at the list's. Names stand in `file_name_list.txt` beside a
    `file_path_list.txt`, or follow from the image's.

    Args:
        path: list file.
        root: folder that no path may lead out of.

    Raises:
        DataError: a line cannot be read, or files are missing, no regular files, or outside of `root`; all are named.
    """
    path = Path(path)
    problems: list[str] = []
    rows: list[tuple[Path, ...]] = []
    labels: list[Path | None] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        with _collecting(problems, f"{path}, line {number}: "):
            tokens = _tokens(line)
            files = tuple(_located(t, path.parent, root) for t in tokens if t != "None")
            if tokens and (not files or "None" in tokens[:-1]):
                raise DataError("starts with None; put the image's path first")
            if tokens:
                labelled = len(tokens) > 1 and tokens[-1] != "None"
                rows.append(files[:-1] if labelled else files)
                labels.append(files[-1] if labelled else None)
    if problems:
        raise DataError(listed(problems))
    names = _listed_names(path, [images[0] for images in rows])
    _check_ids(names, str(path))
    return tuple(map(Case, names, rows, labels))


def write_list_file(path: str | Path, cases: Iterable[Case]) -> None:
    """Writes `file_path_list.txt` in EasyReg's form, and `file_name_list.txt` beside it."""
    lines, names = "", ""
    for case in cases:
        paths = [*map(str, case.images), str(case.label)]  # a case without label map says None
        lines += "     ".join(map(_quoted, paths)) + "\n"
        names += case.id + "\n"
    write_atomic(path, lines.encode())
    write_atomic(Path(path).with_name(NAMES_FILE), names.encode())


def _quoted(path: str) -> str:
    """A path as it stands in a list.

    >>> _quoted("/data/S01 left, right.nii.gz")
    '"/data/S01 left, right.nii.gz"'
    """
    if not re.search(r'[\s,|+"]', path) and path.isprintable():
        return path
    printable = all(letter.isprintable() for letter in path)
    return json.dumps(path, ensure_ascii=not printable)


def _tokens(line: str) -> list[str]:
    word = r'"(?:[^"\\]|\\.)*"|[^\s,|+"]+'
    if re.sub(word, "", line).strip(" \t\r\f\v,|+\ufeff"):
        raise DataError("a quotation mark stands alone; put the whole path in a pair of them")
    try:
        return [json.loads(t) if t.startswith('"') else t for t in re.findall(word, line)]
    except ValueError as error:
        raise DataError(f"{error}; between quotation marks, \\ is written \\\\") from error


def _located(token: str, folder: Path, root: str | Path | None) -> Path:
    """Absolute path of a listed file, which is there and is a regular file."""
    if re.match(r"(?i)[a-z][a-z0-9.-]+://|\\\\", token):
        raise DataError(
            f"{token!r} is no path of this machine; download the file and list its path"
        )
    for path in (Path(token).absolute(), (folder / token).absolute()):
        try:
            mode = path.stat().st_mode
            break
        except (OSError, ValueError):  # ValueError: a NUL
            continue
    else:
        raise DataError(
            f"{token!r} cannot be found; check it, and put a path with a space, comma, | or + in double quotes"
        )
    if root is not None and Path(root).resolve() not in path.resolve().parents:
        raise DataError(f"{path} lies outside of {root}; list files inside it")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file; list a NIfTI file")
    return path


def _listed_names(path: Path, images: Sequence[Path]) -> list[str]:
    names_file = path.with_name(NAMES_FILE)
    if path.name != PATHS_FILE or not names_file.exists():
        return [volume_stem(image).replace(".", "d") for image in images]  # as EasyReg derives them
    names = [line.strip() for line in _text(names_file).splitlines() if line.strip()]
    if len(names) != len(images):
        raise DataError(
            f"{names_file}: has {len(names)} names for {len(images)} lines of {path.name}; give one a line"
        )
    return names


def _text(path: Path) -> str:
    """A small UTF-8 text file; nothing but regular files is opened."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: is not a regular file; give a text file")
        if status.st_size > _MAX_TEXT_BYTES:
            raise DataError(
                f"{path}: has {status.st_size} bytes, at most {_MAX_TEXT_BYTES} are read; split it"
            )
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not JSON ({error}); mend it or write it again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds no JSON object; mend it or write it again")
    return document


# ---------------------------------------------------------------- data tasks


@dataclass(frozen=True)
class DataTask:
    """Cases, splits and labels, as prepared in a folder."""

    folder: Path
    name: str
    seed: int
    cases: dict[str, tuple[Case, ...]]
    """Cases of train, val, test and debug."""
    table: LabelTable
    """Every label of the data task; what a training uses is `label_table(settings)`."""
    facts: dict[str, CaseFacts]
    """By case id."""
    channel_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def label_table(self, settings: Settings) -> LabelTable:
        """The labels that the settings ask for.

        Raises:
            SettingsError: `interested_label_list` names values that there are not, or `class_num` is another number.
        """
        values = settings.dataset.seg.interested_label_list
        if strange := sorted(set(values) - {-1, *self.table.values}):
            raise SettingsError(
                f"dataset.seg.interested_label_list: the data task {self.name} has no labels "
                f"{', '.join(map(str, strange))}; it has {', '.join(map(str, self.table.values))}"
            )
        table = self.table if -1 in values else self.table.restricted_to(values)
        class_num = settings.tsk_set.seg.class_num
        if class_num not in (-1, table.num_classes):
            raise SettingsError(
                f"tsk_set.seg.class_num: {class_num} is not the number of labels with background; use "
                f"{table.num_classes}, or -1"
            )
        return table


def write_data_task(task: DataTask) -> None:
    """Writes a data task's folder, whole or not at all. One that says the same already is left as it is.

    Raises:
        SettingsError: there is something else in the folder, such as trainings on another split.
        StorageError: the folder cannot be written.
    """
    if _is_same(task):
        return
    with fresh_folder(task.folder) as scratch:
        write_lists(task, scratch)


def write_lists(task: DataTask, folder: Path) -> None:
    """Writes list files and `dataset.json` into `folder`."""
    for split in SPLITS:
        (folder / split).mkdir()
        write_list_file(folder / split / PATHS_FILE, task.cases.get(split, ()))
    write_atomic(folder / DATASET_FILE, _dataset_json(task))


def _is_same(task: DataTask) -> bool:
    try:
        return (task.folder / DATASET_FILE).read_bytes() == _dataset_json(task) and all(
            read_list_file(task.folder / split / PATHS_FILE) == task.cases.get(split, ())
            for split in SPLITS
        )
    except (OSError, DataError):
        return False


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of the data task `target` when the block ends, and vanishes if it raises."""
    check_replaceable(target)
    target = target.resolve()
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = scratch.with_suffix(".old")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if target.exists():
            target.rename(old)
        scratch.rename(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{target}: cannot be written ({error.strerror}); choose another output_root_path, or make room"
        ) from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (scratch, old):
            shutil.rmtree(left, ignore_errors=True)


def check_replaceable(target: Path) -> None:
    """Raises SettingsError where `target` holds more than a data task's own files."""
    if not target.exists():
        return
    if not target.is_dir():
        raise SettingsError(
            f"{target}: is a file; choose another data_task_name or output_root_path"
        )
    ours = {*SPLITS, DATASET_FILE, VOLUMES_FOLDER, CACHE_FOLDER}
    if others := sorted({path.name for path in target.iterdir()} - ours):
        raise SettingsError(
            f"{target}: holds {', '.join(others[:5])}{', ...' if others[5:] else ''} beside another data task; choose "
            "another data_task_name, or move the folder away"
        )
    if strange := [
        p for s in SPLITS for p in (target / s).glob("*") if p.name not in (PATHS_FILE, NAMES_FILE)
    ]:
        raise SettingsError(
            f"{target}: holds {strange[0]}, which is not part of a data task; choose another data_task_name"
        )


def _dataset_json(task: DataTask) -> bytes:
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": task.name,
        "seed": task.seed,
        "channels": list(task.channel_names),
        "labels": task.table.to_records(),
        "notes": list(task.notes),
        "debug": [case.id for case in task.cases.get("debug", ())],
        "cases": [
            {
                "id": case.id,
                "split": split,
                "images": [str(path) for path in case.images],
                "label": None if case.label is None else str(case.label),
                "facts": asdict(task.facts[case.id]),
            }
            for split in ("train", "val", "test")
            for case in task.cases.get(split, ())
        ],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def read_data_task(
    folder: str | Path, root: str | Path | None = None, on_progress: Progress | None = None
) -> DataTask:
    """The data task of a folder: list files and, where it is there, `dataset.json`.

    Lists alone, as EasyReg leaves them, will do: then every case is examined, the label table is the union of all
    splits' values, and debug, where it has no list, is a few of the training cases.

    Args:
        folder: `<output_root>/<data_task_name>`.
        root: folder that no listed path may lead out of.
        on_progress: told of every case that is examined, if any is.

    Raises:
        DataError: lists are missing, name files that are not there, share cases, or disagree with `dataset.json`.
    """
    folder = Path(folder).absolute()
    lists = {split: folder / split / PATHS_FILE for split in SPLITS}
    if not any(path.exists() for path in lists.values()):
        raise DataError(
            f"{folder}: has no {PATHS_FILE} in train, val or test; make a data task with `monaiseg prepare`"
        )
    cases: dict[str, tuple[Case, ...]] = {}
    problems: list[str] = []
    for split, path in lists.items():
        with _collecting(problems):
            cases[split] = read_list_file(path, root) if path.exists() else ()
            if split in _LABELLED:
                lone = [c.id for c in cases[split] if c.label is None]
                problems += [f"{path}: case {name!r} has no label map; add it" for name in lone]
    if problems:
        raise DataError(listed(problems))
    _check_disjoint(cases, folder)
    if (folder / DATASET_FILE).exists():
        return _with_dataset_json(folder, cases)
    facts = examine_cases(
        [case for split in ("train", "val", "test") for case in cases[split]], None, on_progress
    )
    splits = {split: tuple(case.id for case in members) for split, members in cases.items()}
    if not cases["debug"]:
        chosen = choose_debug(splits["train"], 0)
        cases["debug"] = tuple(case for case in cases["train"] if case.id in chosen)
    table = scan_labels(facts)
    notes = [
        f"{folder}: has lists and no {DATASET_FILE}; labels were read from all the label maps",
        *check_duplicates(splits, facts),
        *label_notes(splits, facts, table),
        *file_notes(facts),
    ]
    return DataTask(folder, folder.name, 0, cases, table, facts, (), tuple(notes))


def _check_disjoint(cases: Mapping[str, tuple[Case, ...]], folder: Path) -> None:
    """Raises DataError where train, val and test share ids or images, or debug is no part of train."""
    places: dict[str, set[str]] = defaultdict(set)
    for split in ("train", "val", "test"):
        for case in cases[split]:
            places[f"case {_folded(case.id)!r}"].add(split)
            for image in case.images:
                places[f"image {image}"].add(split)
    problems = [
        f"{folder}: {what} stands in {' and '.join(sorted(splits))}; keep it in one"
        for what, splits in places.items()
        if len(splits) > 1
    ]
    problems += [
        f"{folder}: debug case {case.id!r} is not a training case; list cases of train there"
        for case in cases["debug"]
        if case not in cases["train"]
    ]
    if problems:
        raise DataError(listed(problems))


def _with_dataset_json(folder: Path, cases: dict[str, tuple[Case, ...]]) -> DataTask:
    path = folder / DATASET_FILE
    document = _json_object(path)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: has schema_version {version!r} and this monaiseg reads {SCHEMA_VERSION}; prepare the data again"
        )
    try:
        recorded: dict[str, list[Case]] = {split: [] for split in SPLITS}
        facts = {}
        for record in document["cases"]:
            label = record["label"]
            case = Case(
                str(record["id"]),
                tuple(map(Path, record["images"])),
                None if label is None else Path(label),
            )
            recorded[record["split"]].append(case)
            facts[case.id] = CaseFacts.from_record(record["facts"])
        recorded["debug"] = [case for case in recorded["train"] if case.id in document["debug"]]
        task = DataTask(
            folder,
            str(document["name"]),
            int(document["seed"]),
            cases,
            LabelTable.from_records(document["labels"]),
            facts,
            tuple(map(str, document["channels"])),
            tuple(map(str, document["notes"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: {error!r} while reading it; prepare the data again") from error
    different = [s for s in SPLITS if set(recorded[s]) != set(cases[s])]
    if different:
        raise DataError(
            f"{path}: names other cases than {', '.join(f'{s}/{PATHS_FILE}' for s in different)}; prepare the data "
            f"again, or remove {DATASET_FILE} to go by the lists"
        )
    return task
