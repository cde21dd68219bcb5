"""Embedded volumes: image, reference and prediction of a case as text in the page, for the interactive viewer.

Each volume is a NIfTI-1 file, compressed by gzip and written as base64. Its header is made anew: sizes and the affine,
and nothing of the headers that it came from. Intensities become 128 levels of gray and label values class indices, in
bytes where they fit.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data import LabelTable
from monaiseg.evaluation import CaseVolumes, deepest_voxel

GRAYS = 128
"""Levels of gray: a screen shows few more, and noise below a level need not be stored."""
COARSEST = 4
"""Largest number of voxels that become one along each axis."""
MOST_PLACES = 8


@dataclass(frozen=True)
class Place:
    """The deepest voxel of an error in a structure."""

    name: str
    """Name of the structure."""
    voxel: tuple[int, int, int]
    """Voxel of the embedded volume."""
    ml: float
    """Wrong volume of the structure."""


@dataclass(frozen=True)
class EmbeddedVolumes:
    """The volumes of a case as text."""

    texts: dict[str, str]
    """base64 by "image", "reference" and "prediction"."""
    step: int
    """Number of voxels that became one along each axis; 1 for the full resolution."""
    places: tuple[Place, ...]
    """The largest errors, and where they are."""

    @property
    def size(self) -> int:
        """Length of the texts."""
        return sum(map(len, self.texts.values()))


def embedded(case: CaseVolumes, table: LabelTable, budget: int) -> EmbeddedVolumes | None:
    """The volumes of a case, at the finest resolution whose texts have at most `budget` letters; None if none has."""
    for step in range(1, COARSEST + 1):
        coarse = _coarser(case, step)
        if sum(volume.size for volume in (coarse.image, coarse.reference)) > 8 * budget:
            continue  # no gzip is that good
        texts = {
            name: _text(voxels, coarse.affine, GRAYS - 1 if name == "image" else None)
            for name, voxels in _volumes(coarse, table)
        }
        found = EmbeddedVolumes(texts, step, ())
        if found.size <= budget:
            return EmbeddedVolumes(texts, step, _places(coarse, table))
    return None


def _volumes(case: CaseVolumes, table: LabelTable) -> Iterator[tuple[str, NDArray[Any]]]:
    low, high = (float(level) for level in np.percentile(case.image, [0.5, 99.5]))
    scaled = (case.image.astype(np.float32) - low) / max(high - low, 1e-6)
    yield "image", (np.clip(scaled, 0, 1) * (GRAYS - 1)).round().astype(np.uint8)
    yield "reference", table.class_indices(case.reference)
    yield "prediction", table.class_indices(case.prediction)


def _text(voxels: NDArray[Any], affine: NDArray[np.float64], shown_up_to: int | None) -> str:
    image = nib.Nifti1Image(voxels, affine)
    if shown_up_to is None:
        image.header.set_intent("label")  # the viewer has discrete colours then
    else:
        image.header["cal_max"] = shown_up_to
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _coarser(case: CaseVolumes, step: int) -> CaseVolumes:
    """Every `step`-th voxel; labels are not mixed, and the image stays under its labels."""
    if step == 1:
        return case
    cut = (slice(None, None, step),) * 3
    affine = case.affine @ np.diag([step, step, step, 1.0])
    return CaseVolumes(case.image[cut], case.reference[cut], case.prediction[cut], affine)


def _places(case: CaseVolumes, table: LabelTable) -> tuple[Place, ...]:
    """The structures with the largest wrong volumes, each with the voxel deepest inside its error."""
    reference, prediction = (table.class_indices(v) for v in (case.reference, case.prediction))
    wrong = reference != prediction
    counts = np.bincount(reference[wrong], minlength=table.num_classes)
    counts = counts + np.bincount(prediction[wrong], minlength=table.num_classes)
    counts[0] = 0
    voxel_ml = float(abs(np.linalg.det(case.affine[:3, :3]))) / 1000
    found = []
    for index in np.argsort(-counts, kind="stable")[:MOST_PLACES]:
        if counts[index]:
            of_structure = wrong & ((reference == index) | (prediction == index))
            name = table.labels[int(index)].name
            found.append(Place(name, deepest_voxel(of_structure), float(counts[index]) * voxel_ml))
    return tuple(found)
