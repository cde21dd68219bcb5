"""Input range: what the scans of a training look like, and in which ways another scan lies far outside.

Each property of a scan has a *distance* from the training scans. For every training scan, the same distance is computed
from the others (leave-one-out). A scan lies *far outside* if it is more than twice as far from the training scans as
any of these is from the others. No threshold is fitted to scans that are labelled later.

The properties are voxel size, extent, and for each channel the distribution of intensities and a picture of 6 x 6 x 6
blocks; see `profiles`. The picture shows what no histogram can: a scan that its affine turns the wrong way and, in a
crop without air, inverted contrast. It is compared by its correlation with the mean picture of the training scans. A
scan looks inverted if the correlation is negative, and turned if it is higher after a flip: by more than twice what the
training scans lead to expect, so that flips that they hardly notice, as most heads do between left and right, are not
judged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.data.facts import CaseFacts
from monaiseg.data.grid import Grid, Spacing
from monaiseg.data.profiles import BLOCKS, SHARES, ChannelProfile, is_constant

FAR = 2.0
"""A scan lies far outside if it is this many times as far from the training scans as any of them is."""
LEAST_CASES = 8
"""Intensities are compared if there are at least this many training scans."""

RESAMPLED = 2.0
"""Voxels that differ by less than this factor are alike after resampling. It cannot restore details that they lack."""

# Training scans can agree by accident, as when all were cropped to one size. These distances are never far outside.
SAME_EXTENT = math.log(1.5)
SAME_SPACING = math.log(1.25)  # augmentation rarely scales by more
SAME_SHADES = 0.03  # mean difference between quantiles, as a share of the intensity range
SAME_PICTURE = 0.05  # 1 - correlation
FLAT = math.log(2)  # contrast of the picture below that of the flattest training scan
SYMMETRIC = 0.02  # gain in correlation by a flip

Triple = tuple[float, float, float]
Vector = NDArray[np.float64]
_FLIPS = [axes for count in (1, 2, 3) for axes in itertools.combinations(range(3), count)]


@dataclass(frozen=True)
class SizeRange:
    """Smallest and largest size along X, Y, Z, and the factor beyond them that is not yet far outside."""

    low: Triple
    high: Triple
    slack: float

    def is_far(self, sizes: Triple, least_slack: float = 1.0) -> bool:
        """Whether a size lies far outside along any axis; factors up to `least_slack` are not far."""
        logs = np.log([self.low, sizes, self.high])
        return _overshoot(logs[1], logs[[0, 2]]) > math.log(max(self.slack, least_slack))

    def __str__(self) -> str:
        """The sizes in words, such as "31 to 43 x 40 to 58 x 24 to 46"."""
        return " x ".join(
            f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
            for low, high in zip(self.low, self.high, strict=True)
        )


@dataclass(frozen=True)
class ChannelRange:
    """Distribution and picture of a channel in the training scans, and the limits of the distances from them."""

    quantiles: tuple[float, ...]
    """Median of each quantile."""
    shades_limit: float
    """Largest mean difference from these quantiles."""
    picture: tuple[float, ...]
    """Mean picture; see `_picture`."""
    picture_limit: float
    """Largest value of 1 - correlation with the mean picture."""
    least_contrast: float
    """Standard deviation of the blocks below which a picture is empty."""
    least_match: float
    """Correlation with the mean picture, 0 or less, below which a scan looks inverted."""


@dataclass(frozen=True)
class InputRange:
    """What the scans of a training look like. It is kept in the checkpoint."""

    num_cases: int
    orientations: tuple[str, ...]
    """Orientations of the files. Images are reoriented, so that another one is no fault."""
    spacing: SizeRange
    """mm along X, Y, Z of RAS."""
    extent: SizeRange
    """Voxels times voxel size, in mm along X, Y, Z of RAS."""
    channels: tuple[ChannelRange, ...]
    """Empty if there are too few scans."""
    flip_limits: dict[str, float]
    """Gain in correlation by a flip above which a scan looks turned, by the axes of the flip: "X", "YZ", ..."""

    @classmethod
    def of(cls, facts: Sequence[CaseFacts]) -> InputRange:
        """Range of the scans of at least one case."""
        grids = [case.grid for case in facts]
        profiles = [
            [channel.profile for channel in case.intensity if channel.profile is not None]
            for case in facts
        ]
        counts = {len(of_case) for of_case in profiles}
        known = len(facts) >= LEAST_CASES and len(counts) == 1
        columns = list(zip(*profiles, strict=True)) if known else []
        return cls(
            len(facts),
            tuple(sorted({grid.orientation for grid in grids})),
            _sizes([grid.along_ras[1] for grid in grids], SAME_SPACING),
            _sizes([extent_mm(grid) for grid in grids], SAME_EXTENT),
            tuple(_channel_range(column) for column in columns),
            _flip_limits(columns),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> InputRange:
        """Range from the result of `dataclasses.asdict`, read back from JSON.

        Raises:
            ValueError: the record is not that of a range.
        """
        try:
            return cls(
                int(record["num_cases"]),
                tuple(map(str, record["orientations"])),
                _sizes_from(record["spacing"]),
                _sizes_from(record["extent"]),
                tuple(map(_channel_from, record["channels"])),
                {str(axes): float(limit) for axes, limit in record["flip_limits"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an input range ({error!r})") from error

    @classmethod
    def of_spacing(cls, spacing: Spacing) -> InputRange:
        """Range of a training of which only the voxel size is known."""
        anything = SizeRange((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), math.inf)
        return cls(0, (), SizeRange(spacing, spacing, math.exp(SAME_SPACING)), anything, (), {})

    def far_outside(
        self, grid: Grid, channels: Sequence[ChannelProfile], *, resampled: bool = False
    ) -> list[str]:
        """In which ways a scan on `grid` with these channels lies far outside, in words; empty if it does not.

        `resampled`: scans are resampled to one voxel size, so only a large difference matters.
        """
        spacing, extent = grid.along_ras[1], extent_mm(grid)
        found = []
        if self.spacing.is_far(spacing, RESAMPLED if resampled else 1.0):
            found.append(f"voxels of {_words(spacing)} mm, those of the training {self.spacing}")
        if is_other_part := self.extent.is_far(extent):
            found.append(f"{_words(extent)} mm large, the training scans {self.extent}")
        if any(is_constant(channel) for channel in channels):
            found.append("contains a single value")
        elif self.channels and len(channels) == len(self.channels):
            found += self._looks(channels, is_comparable=not is_other_part)
        return found

    def _looks(self, channels: Sequence[ChannelProfile], *, is_comparable: bool) -> list[str]:
        """What the channels look like; without their pictures, if these show another part of the body."""
        looks = list(map(_look, channels, self.channels))
        if not is_comparable:
            looks = [look if look in (_EMPTY, _SHADES) else None for look in looks]
        elif not {_EMPTY, _SHADES} & set(looks) and (axes := self._turned(channels)):
            return [
                f"looks turned, maybe by a wrong affine: flipped along {axes}, it is like the training scans"
            ]
        if not channels[1:]:
            return [look for look in looks if look]
        return [f"channel {number} {look}" for number, look in enumerate(looks, 1) if look]

    def _turned(self, channels: Sequence[ChannelProfile]) -> str | None:
        """The axes along which the scan has to be flipped to look like the training scans; None if it need not be."""
        means = [np.asarray(known.picture) for known in self.channels]
        pictures = [_picture(channel) for channel in channels]
        now = _mean_match(pictures, means)
        after = {
            axes: _mean_match(_flipped(pictures, axes), means)
            for axes in _FLIPS
            if _letters(axes) in self.flip_limits
        }
        good = {
            axes: match
            for axes, match in after.items()
            if match - now > self.flip_limits[_letters(axes)] and match > max(-now, 0)
        }
        # flipping a symmetric axis as well makes no difference: name the fewest
        best = max(good.values(), default=0.0)
        return next((_letters(axes) for axes in good if good[axes] > best - SYMMETRIC), None)


def extent_mm(grid: Grid) -> Triple:
    """Voxels times voxel size, in mm along X, Y, Z of RAS."""
    shape, spacing = grid.along_ras
    return _triple([count * size for count, size in zip(shape, spacing, strict=True)])


# ---------------------------------------------------------------- sizes


def _sizes(triples: Sequence[Triple], least: float) -> SizeRange:
    logs = np.log(np.asarray(triples, dtype=float))
    furthest = max(_left_out(logs, _overshoot)) if len(logs) > 1 else 0.0
    low, high = (_triple(np.exp(ends).tolist()) for ends in (logs.min(axis=0), logs.max(axis=0)))
    return SizeRange(low, high, _digits(math.exp(max(FAR * furthest, least))))


def _overshoot(one: Vector, others: Vector) -> float:
    """How far a row of logarithms lies outside the range of the others, along the worst axis."""
    return float(np.max([others.min(axis=0) - one, one - others.max(axis=0)], initial=0.0))


# ---------------------------------------------------------------- intensities


def _channel_range(profiles: Sequence[ChannelProfile]) -> ChannelRange:
    quantiles = np.array([profile.quantiles for profile in profiles])
    pictures = np.array([_picture(profile) for profile in profiles])
    shades = max(_left_out(quantiles, _shade_distance))
    matches = list(_left_out(pictures, _match))
    contrasts = np.log([max(_contrast(profile), 1e-3) for profile in profiles])
    flattest = max(_left_out(contrasts[:, None], _overshoot))
    return ChannelRange(
        tuple(map(_digits, np.median(quantiles, axis=0))),
        _digits(max(FAR * shades, SAME_SHADES)),
        tuple(map(_digits, pictures.mean(axis=0))),
        _digits(max(FAR * (1 - min(matches)), SAME_PICTURE)),
        _digits(math.exp(contrasts.min() - max(FAR * flattest, FLAT))),
        _digits(min(FAR * min(matches) - float(np.median(matches)), 0.0)),
    )


_EMPTY = "looks empty: it shows almost no structure"
_INVERTED = "looks inverted: it is dark where the training scans are bright"
_SHADES = "has intensities that are distributed unlike those of the training"
_UNLIKE = "looks unlike the training scans"


def _look(channel: ChannelProfile, known: ChannelRange) -> str | None:
    """The most telling way in which a channel lies far outside."""
    match = _match(_picture(channel), np.asarray(known.picture)[None])
    quantiles = np.asarray(known.quantiles)[None]
    if _contrast(channel) < known.least_contrast:
        return _EMPTY
    if match < known.least_match:
        return _INVERTED
    if _shade_distance(np.asarray(channel.quantiles), quantiles) > known.shades_limit:
        return _SHADES
    return _UNLIKE if 1 - match > known.picture_limit else None


def _shade_distance(one: Vector, others: Vector) -> float:
    """Mean difference between quantiles and their medians: the earth mover's distance between histograms."""
    return float(np.abs(one - np.median(others, axis=0)).mean())


def _picture(profile: ChannelProfile) -> Vector:
    """The blocks as a vector of 216 numbers with mean 0 and norm 1; zeros if all blocks are equal."""
    blocks: Vector = profile.blocks.ravel() - profile.blocks.mean()
    norm = float(np.linalg.norm(blocks))
    return np.asarray(blocks / norm if norm > 0 else blocks)


def _contrast(profile: ChannelProfile) -> float:
    return float(profile.blocks.std())


def _match(one: Vector, others: Vector) -> float:
    """Correlation of a picture with the mean of the others."""
    mean = others.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    return float(one @ mean) / norm if norm > 0 else 0.0


# ---------------------------------------------------------------- flips


def _flip_limits(columns: Sequence[Sequence[ChannelProfile]]) -> dict[str, float]:
    """For each flip, the gain that is as far above the median gain as twice the largest gain of a training scan."""
    if not columns:
        return {}
    pictures = np.array([[_picture(p) for p in column] for column in columns])  # (C, cases, 216)
    sums = pictures.sum(axis=1)
    limits = {}
    for axes in _FLIPS:
        gains = [
            _mean_match(_flipped(one, axes), sums - one) - _mean_match(one, sums - one)
            for one in pictures.swapaxes(0, 1)
        ]
        middle = float(np.median(gains))
        limits[_letters(axes)] = _digits(max(middle + FAR * (max(gains) - middle), SYMMETRIC))
    return limits


def _flipped(pictures: Iterable[Vector], axes: tuple[int, ...]) -> list[Vector]:
    cube = (BLOCKS,) * 3
    return [np.flip(picture.reshape(cube), axes).ravel() for picture in pictures]


def _mean_match(pictures: Iterable[Vector], means: Iterable[Vector]) -> float:
    """Mean over channels of the correlation with the mean picture."""
    return float(
        np.mean([_match(one, mean[None]) for one, mean in zip(pictures, means, strict=True)])
    )


def _letters(axes: tuple[int, ...]) -> str:
    return "".join("XYZ"[axis] for axis in axes)


# ---------------------------------------------------------------- helpers


def _left_out(rows: Vector, distance: Callable[[Vector, Vector], float]) -> Iterator[float]:
    """Distance of each row from the others."""
    for place, row in enumerate(rows):
        yield distance(row, np.delete(rows, place, axis=0))


def _digits(value: float) -> float:
    """Six digits: more would differ between processors."""
    return float(f"{value:.6g}")


def _triple(values: Sequence[float]) -> Triple:
    x, y, z = (_digits(value) for value in values)
    return x, y, z


def _words(sizes: Triple) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)


def _sizes_from(record: Mapping[str, Any]) -> SizeRange:
    sizes = SizeRange(_triple(record["low"]), _triple(record["high"]), float(record["slack"]))
    if not (all(0 < size < math.inf for size in sizes.low + sizes.high) and sizes.slack >= 1):
        raise ValueError(f"sizes {sizes}")
    return sizes


def _channel_from(record: Mapping[str, Any]) -> ChannelRange:
    numbers = {
        name: float(record[name])
        for name in ("shades_limit", "picture_limit", "least_contrast", "least_match")
    }
    quantiles, picture = (tuple(map(float, record[name])) for name in ("quantiles", "picture"))
    if (len(quantiles), len(picture)) != (len(SHARES), BLOCKS**3):
        raise ValueError(f"{len(quantiles)} quantiles and a picture of {len(picture)} blocks")
    return ChannelRange(quantiles=quantiles, picture=picture, **numbers)
