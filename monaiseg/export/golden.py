"""The golden scan: a synthetic scan and its label map, by which an installation is checked.

It shows nobody's anatomy: it is a phantom or, for a network with an atlas, a small picture of the template, which is a
mean of the training scans. Its axes do not run as the network's, its voxels are of another size if the network resamples,
and it takes more than one window, so that every step of the way there and back counts.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monaiseg.atlas import Template
from monaiseg.data import Shape, make_phantom, read_header, write_image
from monaiseg.errors import MonaisegWarning
from monaiseg.prediction import Predictor

ORIENTATION = "LSA"
SIZE = 40
"""Voxels along the axes on which one window is enough."""
TRIES = 3


@dataclass(frozen=True)
class GoldenScan:
    """A synthetic scan, and the label map that the network gives it."""

    image: NDArray[np.int16]
    """(C, X, Y, Z)"""
    affine: NDArray[np.float64]
    label_map: NDArray[Any]


def golden_scan(predictor: Predictor) -> GoldenScan:
    """Of a few synthetic scans the one in which the network finds most labels."""
    prior = getattr(predictor.network, "prior", None)
    template = None if prior is None else prior.template
    scans = (_labelled(predictor, seed, template) for seed in range(TRIES if prior is None else 1))
    return max(scans, key=lambda scan: np.unique(scan.label_map).size)


def _labelled(predictor: Predictor, seed: int, template: Template | None) -> GoldenScan:
    settings = predictor.settings
    x, y, z = settings.patch_shape
    step = predictor.spacing if settings.spacing_mm is None else settings.spacing_mm
    factors = (1.0, 1.0, 1.0) if settings.spacing_mm is None else (0.9, 1.1, 1.0)
    across, depth, up = (mm * factor for mm, factor in zip(step, factors, strict=True))
    shape = (round((x + 8) / factors[0]), min(z, SIZE), min(y, SIZE))  # along L, S, A
    channels = [
        make_phantom(shape, (across, up, depth), ORIENTATION, range(1, 7), seed + 10 * channel)
        for channel in range(settings.dataset.num_channels)
    ]
    images = [
        10 * phantom.image if template is None else _small_picture(template, phantom.image.shape)
        for phantom in channels
    ]
    image = np.stack([np.rint(voxels) for voxels in images]).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"golden_{number:04d}.nii" for number in range(len(image))]
        for file, channel in zip(files, image, strict=True):
            write_image(file, channel, channels[0].grid)
        affine = read_header(files[0]).grid.array
        with warnings.catch_warnings():  # that it is no training scan is no news
            warnings.simplefilter("ignore", MonaisegWarning)
            scan = predictor.read(files)
            return GoldenScan(image, affine, predictor.label_map(scan, predictor.infer(scan)))


def _small_picture(template: Template, shape: Shape) -> NDArray[Any]:
    """The whole template in `shape` voxels along L, S, A, with intensities from 0."""
    left, up, front = shape
    volume = torch.nn.functional.interpolate(
        template.image[None, None], (left, front, up), mode="trilinear", align_corners=True
    )[0, 0]
    return 100 * (volume - volume.min()).flip(0).swapaxes(1, 2).numpy()
