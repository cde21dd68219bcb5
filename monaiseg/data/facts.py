"""Facts: measurements of every case's files, and checks of the dataset as a whole that follow from them.

All problems of all cases are collected before an error is raised. The facts are stored with the data task, so training
can detect files that have changed since, and planning does not need to open any file.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid, Shape, Spacing, check_same_grid
from monaiseg.data.nifti import VolumeHeader, file_sha256
from monaiseg.data.placement import check_placed
from monaiseg.data.profiles import ChannelProfile
from monaiseg.data.volumes import read_header, read_label_map, read_volume
from monaiseg.errors import DataError, collecting, counted, listed
from monaiseg.machine import free_memory, gigabytes, reading_threads

MOST_WORKERS = 8
"""Maximum number of threads that examine cases."""

EXAMINING_BYTES = 16
"""Memory per voxel of an image while a case is examined: its file, its values, a sorted copy, the label map."""

Progress = Callable[[int, int], None]
"""Called with the number of cases done and the number of all cases."""

Look = Callable[[str, NDArray[Any], VolumeHeader], None]
"""Called with "image" or "label map", the voxels of the file, and its header."""

Step = Literal["header", "grid", "label map", "image", "constant image", "same file"]
"""The step at which a case is refused."""


@dataclass(frozen=True)
class Refusal:
    """A reason why a case cannot be used."""

    step: Step
    sentence: str
    """Names the files, the fault and the remedy."""


@dataclass(frozen=True)
class ChannelFacts:
    """Intensity statistics of one channel; those of the foreground are None if there is no foreground."""

    min: float
    max: float
    mean: float
    std: float
    p00_5: float
    p50: float
    p99_5: float
    foreground_mean: float | None
    foreground_std: float | None
    profile: ChannelProfile | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ChannelFacts:
        """Statistics from the result of `dataclasses.asdict`, read back from JSON."""
        profile = record.get("profile")
        return cls(**{**record, "profile": profile and ChannelProfile.from_record(profile)})


@dataclass(frozen=True)
class CaseFacts:
    """Measurements of one case."""

    shape: Shape
    spacing: Spacing
    """mm along the file's axes."""
    orientation: str
    checksum: str
    """SHA-256 of the files' bytes, including the label map; it changes when a file changes."""
    voxel_digest: str
    """SHA-256 of shape and intensities: equal for equal images, however the files are compressed."""
    label_voxels: dict[int, int]
    """Voxels of each label value; empty without a label map."""
    intensity: tuple[ChannelFacts, ...]
    notes: tuple[tuple[str, str], ...] = ()
    """Paths of files, each with an oddity that was accepted in it."""

    @property
    def grid(self) -> Grid:
        """A grid with this shape, voxel size and orientation; the position in the world is not stored."""
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(self.orientation)):
            affine[int(world), axis] = sign * self.spacing[axis]
        return Grid.of(self.shape, affine)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CaseFacts:
        """Facts from the result of `dataclasses.asdict`, read back from JSON."""
        x, y, z = (int(n) for n in record["shape"])
        dx, dy, dz = (float(s) for s in record["spacing"])
        return cls(
            (x, y, z),
            (dx, dy, dz),
            str(record["orientation"]),
            str(record["checksum"]),
            str(record["voxel_digest"]),
            {int(value): int(count) for value, count in record["label_voxels"].items()},
            tuple(map(ChannelFacts.from_record, record["intensity"])),
            tuple((str(path), str(note)) for path, note in record["notes"]),
        )


def examine_cases(
    cases: Sequence[Case],
    workers: int | None = None,
    on_progress: Progress | None = None,
    *,
    ignored_value: int | None = None,
) -> dict[str, CaseFacts]:
    """Facts of every case by id. Every file is read completely, in parallel threads.

    Voxels with the label value `ignored_value` do not count as foreground.

    Raises:
        DataError: some cases cannot be used; the message names each of them with all of its problems.
    """
    facts: dict[str, CaseFacts] = {}
    problems: dict[str, list[str]] = {}
    examine = partial(examine_case, ignored_value=ignored_value)
    # Threads, not processes: zlib, hashing and most of NumPy release the global interpreter lock.
    with ThreadPoolExecutor(workers or _examining_threads(cases)) as pool:
        try:
            for done, (case, found) in enumerate(
                zip(cases, pool.map(examine, cases), strict=True), 1
            ):
                if isinstance(found, CaseFacts):
                    facts[case.id] = found
                else:
                    problems[case.id] = [refusal.sentence for refusal in found]
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
                f"has {counted(len(found.intensity), 'channel')}, but most cases have {usual}; give all cases the same channels"
            ]
    if problems:
        lines = [f"case {name!r}: {text}" for name, texts in problems.items() for text in texts]
        raise DataError(f"{len(problems)} of {len(cases)} cases cannot be used:\n{listed(lines)}")
    return facts


def _examining_threads(cases: Sequence[Case]) -> int:
    """Number of cases that may be examined at the same time within half of the free memory; at least one."""
    images = [image for case in cases for image in case.images if image.is_file()]
    largest = max(images, key=lambda image: image.stat().st_size, default=None)
    if largest is None:
        return 1
    try:
        header = read_header(largest)
    except DataError:  # reported when the case is examined
        return reading_threads(MOST_WORKERS)
    need = EXAMINING_BYTES * header.num_channels * math.prod(header.grid.shape)
    return max(min(reading_threads(MOST_WORKERS), free_memory() // 2 // need), 1)


def examine_case(
    case: Case, ignored_value: int | None = None, look: Look | None = None
) -> CaseFacts | list[Refusal]:
    """Facts of a case, or all reasons why it cannot be used.

    Voxels with the label value `ignored_value` do not count as foreground. `look` is called for every file whose voxels
    can be read, also in a case that cannot be used.
    """
    try:
        return _examined(case, ignored_value, look)
    except MemoryError:
        free = f"{gigabytes(free_memory())} are free"
        words = f"memory ran out while it was read ({free}); close other programs, or crop the scan"
        return [Refusal("image", words)]


def _examined(
    case: Case, ignored_value: int | None, look: Look | None
) -> CaseFacts | list[Refusal]:
    refusals: list[Refusal] = []
    headers = _headers(case, refusals)
    label: NDArray[Any] | None = None
    if case.label in headers:
        with _refusing(refusals, "label map", "label map "):
            like = headers[case.images[0]].grid if case.images[0] in headers else None
            label, headers[case.label] = read_label_map(case.label, like=like)
            if look:
                look("label map", label, headers[case.label])
    _check_grids(case, headers, refusals)
    channels: list[ChannelFacts] = []
    content = hashlib.sha256()
    for path in [path for path in case.images if path in headers]:
        known = len(channels)
        with _refusing(refusals, "image", "image "):
            image, headers[path] = read_volume(path)
            if look:
                look("image", image, headers[path])
            same_shape = label is not None and label.shape == image.shape[:3]
            inside = (label > 0) & (label != ignored_value) if label is not None else None
            for values in np.moveaxis(image, 3, 0) if image.ndim == 4 else [image]:
                channels.append(
                    _channel_facts(
                        values, inside if same_shape else None, headers[path].grid.orientation
                    )
                )
                content.update(repr(values.shape).encode())
                content.update(np.ascontiguousarray(values.T, dtype=np.float32).data)
        if constant := [channel for channel in channels[known:] if channel.min == channel.max]:
            words = f"image {path}: all voxels have the value {constant[0].min:g}; give a scan"
            refusals.append(Refusal("constant image", words))
    if refusals:
        return refusals
    checksum = _checksum(case)
    if case.label is not None and file_sha256(case.label) == file_sha256(case.images[0]):
        words = f"image and label map {case.label} are the same file; give the label map"
        return [Refusal("same file", words)]
    grid = headers[case.images[0]].grid
    return CaseFacts(
        grid.shape,
        grid.spacing,
        grid.orientation,
        checksum,
        content.hexdigest(),
        {} if label is None else _count_values(label),
        tuple(channels),
        tuple((str(path), note) for path in case.files for note in headers[path].notes),
    )


@contextmanager
def _refusing(refusals: list[Refusal], step: Step, prefix: str = "") -> Iterator[None]:
    """Append DataErrors raised in the block to `refusals`."""
    problems: list[str] = []
    with collecting(problems, prefix):
        yield
    refusals += [Refusal(step, problem) for problem in problems]


def _headers(case: Case, refusals: list[Refusal]) -> dict[Path, VolumeHeader]:
    """Headers of the files of a case, as far as they can be read."""
    headers: dict[Path, VolumeHeader] = {}
    for path in case.files:
        with _refusing(refusals, "header", "label map " if path == case.label else "image "):
            headers[path] = read_header(path)
    return headers


def _check_grids(case: Case, headers: Mapping[Path, VolumeHeader], refusals: list[Refusal]) -> None:
    """Check that all images have the grid of the first, and that the label map has it, too."""
    if case.images[0] not in headers:
        return
    first = headers[case.images[0]]
    for path in case.images[1:]:
        if path in headers:
            with _refusing(refusals, "grid"):
                what = f"channels {first.path} and {path}"
                check_same_grid(what, first.grid, headers[path].grid)
    if case.label is not None and case.label in headers:
        with _refusing(refusals, "grid"):
            label = headers[case.label]
            what = f"label map {label.path} and image {first.path}"
            check_placed(what, label.grid, first.grid)


def _channel_facts(
    values: NDArray[Any], foreground: NDArray[Any] | None, orientation: str
) -> ChannelFacts:
    low, middle, high = np.percentile(values, [0.5, 50, 99.5])
    inside = values[foreground] if foreground is not None else values[:0]
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
        ChannelProfile.of(values, orientation),
    )


def _count_values(label: NDArray[Any]) -> dict[int, int]:
    if int(label.max()) < 1 << 16:
        counts = np.bincount(label.ravel(order="K"))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(label, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _checksum(case: Case) -> str:
    """SHA-256 over the digests of the case's files; for a single file, the digest of that file."""
    digests = [file_sha256(path) for path in case.files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def check_unchanged(cases: Iterable[Case], facts: Mapping[str, CaseFacts]) -> None:
    """Raise DataError naming every case with a file that has changed since it was examined."""
    changed = [
        f"case {case.id!r}: {', '.join(map(str, case.files))} changed after `prepare` had checked them; prepare the data again, "
        "under another name if the folder already has runs"
        for case in cases
        if _checksum(case) != facts[case.id].checksum
    ]
    if changed:
        raise DataError(listed(changed))


def check_duplicates(
    splits: Mapping[str, Iterable[str]], facts: Mapping[str, CaseFacts]
) -> list[str]:
    """Notes on images that occur twice in the same split.

    Raises:
        DataError: an image occurs in two of train, val and test under different ids; the scores would be too good.
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
    """Oddities accepted in the files of all cases, see `grouped_notes`."""
    return grouped_notes(note for found in facts.values() for note in found.notes)


def grouped_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Each note once, with the first file that it is about and the number of others; from pairs of path and note.

    >>> grouped_notes([("a.nii", "is odd"), ("b.nii", "is odd"), ("c.nii", "is even")])
    ['a.nii: is odd (and 1 more file)', 'c.nii: is even']
    """
    paths: dict[str, list[str]] = defaultdict(list)
    for path, note in notes:
        paths[note].append(path)
    return [
        f"{files[0]}: {note}"
        + (f" (and {len(files) - 1} more file{'s' * (len(files) > 2)})" if files[1:] else "")
        for note, files in paths.items()
    ]
