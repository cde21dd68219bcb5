"""Case volumes: image, reference and prediction of a case, turned to RAS, for pictures and for viewers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy has no types

from monaiseg.data import LabelTable, Spacing, read_label_map, read_volume

Point = tuple[int, int, int]


@dataclass(frozen=True)
class CaseVolumes:
    """Three volumes of a case on one grid, in RAS orientation."""

    image: NDArray[Any]
    """Intensities (X, Y, Z) of the first channel; zeros if the case has no image."""
    reference: NDArray[Any]
    """Label values (X, Y, Z); 0 where the label table does not list the value."""
    prediction: NDArray[Any]
    """Label values (X, Y, Z), like `reference`."""
    affine: NDArray[np.float64]
    """Voxel index to mm, (4, 4)."""

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = (float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @cached_property
    def worst_point(self) -> Point:
        """Voxel deepest inside the largest error; see `worst_point`."""
        return worst_point(self.reference, self.prediction)

    def cropped(self, margin_mm: float) -> CaseVolumes:
        """The part around the labels of both maps, with a margin; the whole volumes if there are no labels."""
        labelled = (self.reference > 0) | (self.prediction > 0)
        if not labelled.any():
            return self
        margins = [int(np.ceil(margin_mm / size)) for size in self.spacing]
        (box,) = ndimage.find_objects(labelled.astype(np.int8))
        starts = [max(part.start - more, 0) for part, more in zip(box, margins, strict=True)]
        box = tuple(
            slice(start, part.stop + more)
            for start, part, more in zip(starts, box, margins, strict=True)
        )
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ starts
        return replace(
            self,
            image=self.image[box],
            reference=self.reference[box],
            prediction=self.prediction[box],
            affine=affine,
        )


def read_case(
    image: str | Path | None, reference: str | Path, prediction: str | Path, table: LabelTable
) -> CaseVolumes:
    """Read a case from its files, which have the same voxels in any axis order.

    Unlabelled voxels, which have the ignored value of the table in the reference, are 0 in both label maps.

    Raises:
        DataError: a file cannot be read.
    """
    known, affine = _along_ras(*_label_map(reference))
    found, _ = _along_ras(*_label_map(prediction))
    if table.ignored_value is not None:
        found = np.where(known == table.ignored_value, 0, found)
    known, found = (np.where(np.isin(v, table.values), v, 0) for v in (known, found))
    if image is None:
        return CaseVolumes(np.zeros(known.shape, np.uint8), known, found, affine)
    voxels, header = read_volume(image)
    scan, _ = _along_ras(voxels if voxels.ndim == 3 else voxels[..., 0], header.grid.array)
    return CaseVolumes(scan, known, found, affine)


def _label_map(path: str | Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    values, header = read_label_map(path)
    return values, header.grid.array


def _along_ras(
    voxels: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A volume with its axes turned to RAS, and its affine then."""
    turn = nib.orientations.io_orientation(affine)
    back = nib.orientations.inv_ornt_aff(turn, voxels.shape)
    return nib.orientations.apply_orientation(voxels, turn), affine @ back


def worst_point(reference: NDArray[Any], prediction: NDArray[Any]) -> Point:
    """Voxel (x, y, z) deepest inside the largest error, or the middle of the foreground if there is no error."""
    wrong = reference != prediction
    if not wrong.any():
        return middle_point(reference)
    return deepest_voxel(wrong)


def deepest_voxel(mask: NDArray[np.bool_]) -> Point:
    """A voxel (x, y, z) of a mask that is the most steps from voxel to neighbour away from its outside."""
    (box,) = ndimage.find_objects(mask.astype(np.int8))
    depth = ndimage.distance_transform_cdt(np.pad(mask[box], 1), "taxicab")[1:-1, 1:-1, 1:-1]
    place = np.unravel_index(int(depth.argmax()), depth.shape)
    x, y, z = (int(at) + part.start for at, part in zip(place, box, strict=True))
    return x, y, z


def middle_point(label_map: NDArray[Any]) -> Point:
    """Foreground voxel (x, y, z) nearest to the middle of the foreground; the middle of the grid if there is none."""
    places: NDArray[Any] = np.argwhere(label_map > 0)
    middle = places.mean(axis=0) if places.size else (np.array(label_map.shape) - 1) / 2
    places = places if places.size else middle[None]
    x, y, z = (int(place) for place in places[int(((places - middle) ** 2).sum(axis=1).argmin())])
    return x, y, z
