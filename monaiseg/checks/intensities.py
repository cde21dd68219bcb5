"""Intensities: images with little in them, images unlike all others, and labels where nothing is seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import median

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding, counted
from monaiseg.checks.outliers import FEWEST, MOST_SHARE, far_out
from monaiseg.data import ChannelFacts

FEW_LEVELS = 15
"""An image of whole numbers with at most this range looks like a label map."""
ODD_SCALE = 10.0
"""Factor between the standard deviations of two images beyond which their scales differ."""
ODD_CONTRAST = 1.0
"""Difference in contrast that matters, in standard deviations of the image."""
AIR = -500.0
"""Hounsfield units; the air around the patient is below this."""
ODD_AIR = 200.0
"""Difference between the darkest voxels of two CT scans that matters, in Hounsfield units."""


def nearly_constant(evidence: Evidence) -> Iterator[Finding]:
    """Images in which 99 of 100 voxels have one value, and images with about as few levels as a label map."""
    flat, few = [], []
    for name, number, channel in _channels(evidence):
        if channel.p00_5 == channel.p99_5:
            words = f"99 % of the voxels of channel {number} are {channel.p50:g}"
            flat.append(Doubt(name, words))
        elif _is_whole(evidence, name, number) and channel.max - channel.min <= FEW_LEVELS:
            words = f"whole numbers from {channel.min:g} to {channel.max:g}"
            few.append(Doubt(name, words))
    if flat:
        yield Finding(
            "nearly-constant-image",
            f"{counted(len(flat), 'image')} with almost no content",
            "The network cannot tell the structures apart in such an image.",
            "Look at the images; export them again, or remove the cases.",
            tuple(flat),
        )
    if few:
        yield Finding(
            "few-levels",
            f"{counted(len(few), 'image')} with about as few levels as a label map",
            "If it is a label map, the network learns to copy its input; if it was rounded, the contrast is lost.",
            "Look at the images, and replace them with the original scans.",
            tuple(few),
        )


def _channels(evidence: Evidence) -> Iterator[tuple[str, int, ChannelFacts]]:
    """Case, number of the channel, and its facts."""
    for name, found in evidence.facts.items():
        for number, channel in enumerate(found.intensity):
            yield name, number, channel


def _is_whole(evidence: Evidence, name: str, channel: int) -> bool:
    """Whether the file of a channel holds integers; False if that is not known."""
    if name not in evidence.details:
        return False
    dtypes = evidence.details[name].image_dtypes
    return bool(dtypes) and dtypes[min(channel, len(dtypes) - 1)].kind in "iu"


def odd_scale(evidence: Evidence) -> Iterator[Finding]:
    """Images whose intensities spread ten times more or less than those of all others."""

    def spread(channel: ChannelFacts) -> float:
        return math.log(channel.std)

    doubts = _odd_channels(evidence, spread, math.log(ODD_SCALE))
    if doubts:
        yield Finding(
            "odd-intensity-scale",
            f"{counted(len(doubts), 'image')} on another intensity scale than all others",
            "With dataset.intensity.method zscore this has no effect; with a fixed clip_range such an image is black or white.",
            "Was it exported with another program, or divided by its maximum? Export all images in the same way.",
            tuple(
                Doubt(
                    name, f"standard deviation {math.exp(value):.3g}, median {math.exp(usual):.3g}"
                )
                for name, value, usual in doubts
            ),
        )


def odd_contrast(evidence: Evidence) -> Iterator[Finding]:
    """Images whose labelled voxels are much brighter or darker than in all others."""

    def contrast(channel: ChannelFacts) -> float | None:
        if channel.foreground_mean is None:
            return None
        return (channel.foreground_mean - channel.mean) / channel.std

    doubts = _odd_channels(evidence, contrast, ODD_CONTRAST)
    if doubts:
        yield Finding(
            "odd-contrast",
            f"{counted(len(doubts), 'image')} where the labelled voxels are brighter or darker than in all others",
            "It may be another sequence or an inverted image, or the label map belongs to another scan.",
            "Look at the image with its label map on it; correct or remove the case.",
            tuple(
                Doubt(
                    name,
                    f"labelled voxels lie {value:+.2f} standard deviations from the image's mean, usually {usual:+.2f}",
                )
                for name, value, usual in doubts
            ),
        )


def _odd_channels(
    evidence: Evidence, measure: Callable[[ChannelFacts], float | None], least: float
) -> list[tuple[str, float, float]]:
    """Case, value and usual value of the channels whose value is far from that of the same channel in other cases."""
    by_channel: dict[int, dict[str, float]] = {}
    for name, number, channel in _channels(evidence):
        if (value := measure(channel)) is not None:
            by_channel.setdefault(number, {})[name] = value
    return [
        (name, values[name], median(values.values()))
        for values in by_channel.values()
        for name in far_out(values, least)
    ]


def not_hounsfield(evidence: Evidence) -> Iterator[Finding]:
    """CT scans whose numbers have another offset than those of the others."""
    darkest = {name: found.intensity[0].p00_5 for name, found in evidence.facts.items()}
    if len(darkest) < FEWEST or median(darkest.values()) > AIR:
        return
    if odd := [name for name in far_out(darkest, ODD_AIR) if darkest[name] > AIR]:
        yield Finding(
            "not-hounsfield",
            f"{counted(len(odd), 'CT scan')} not in Hounsfield units",
            "The others have air near -1000. Clipping and scaling to fixed units would distort these.",
            "Apply the slope and intercept of the DICOM files; often 1024 has to be subtracted.",
            tuple(Doubt(name, f"darkest voxels {darkest[name]:g}") for name in odd),
        )


def labels_on_nothing(evidence: Evidence) -> Iterator[Finding]:
    """Label maps that lie where the image has a single value."""
    doubts = tuple(
        Doubt(name, f"all labelled voxels are {channel.foreground_mean:g}")
        for name, number, channel in _channels(evidence)
        if number == 0 and channel.foreground_std == 0 and _size(evidence.labelled.get(name)) > 1
    )
    if doubts:
        yield Finding(
            "labels-on-nothing",
            f"{counted(len(doubts), 'case')} with labels where the image is empty",
            "The label map is not where its structures are.",
            "Do image and label map belong together? Check their names and their geometry.",
            doubts,
        )


def _size(voxels: Mapping[int, int] | None) -> int:
    return sum((voxels or {}).values())


def odd_number_type(evidence: Evidence) -> Iterator[Finding]:
    """Images with 8 bits among images with more."""
    images = {
        name: details.image_dtypes[0]
        for name, details in evidence.details.items()
        if details.image_dtypes
    }
    byte = [name for name, dtype in images.items() if dtype.itemsize == 1]
    if 0 < len(byte) <= MOST_SHARE * len(images):
        yield Finding(
            "eight-bits",
            f"{counted(len(byte), 'image')} stored with 8 bits, the others with more",
            "256 levels cannot hold the range of a scan: contrast was lost when the file was written.",
            "Export these scans again as int16 or float32.",
            tuple(Doubt(name, str(images[name])) for name in byte),
        )
