"""Volumes: read and write images and label maps.

A *volume* is an image (X, Y, Z), an image with several channels (X, Y, Z, C) or a label map (X, Y, Z) on its grid, in
the axis order of its file. Files are opened through `monaiseg.data.nifti`, which checks them.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.grid import Grid
from monaiseg.data.label_extension import parse_table, table_xml
from monaiseg.data.labels import LabelTable
from monaiseg.data.nifti import NiftiSource, VolumeHeader, is_volume_name, naming, opened
from monaiseg.data.placement import Placement
from monaiseg.errors import DataError, counted
from monaiseg.files import write_atomic

LABEL_TOLERANCE = 1e-3
"""Allowed distance of a label map's values from integers; `scl_slope` may turn 1 into 0.9999."""
LARGEST_STEP = 0.25
"""Label maps saved as decimals under an integer header have values in steps of `scl_slope`: 0.996 for 1. Up to this
step size, the intended integer is clear."""

FLOAT32_INTEGERS = 1 << 24
"""Integers up to this are exact in float32."""


def read_header(
    path: str | Path, cap_bytes: int | None = None, *, orientation: str | None = None
) -> VolumeHeader:
    """Read and check the header of a NIfTI-1 or NIfTI-2 file, without its voxels. `orientation` as in `read_volume`.

    Raises:
        DataError: the file does not exist, is not a regular file, is not NIfTI, or has a header that cannot be used.
    """
    with opened(Path(path)) as file:
        return NiftiSource(file, Path(path), cap_bytes, orientation).header


def read_volume(
    path: str | Path, *, cap_bytes: int | None = None, orientation: str | None = None
) -> tuple[NDArray[Any], VolumeHeader]:
    """Voxels (X, Y, Z) or (X, Y, Z, C) and header of an image.

    `orientation`, such as "RAS", gives the axis directions if the file has no orientation.

    Unscaled integers keep their type (64-bit integers become int32); everything else becomes float32. The file is read
    to its last byte, so that gzip checksums are verified.

    Raises:
        DataError: as `read_header`; or the data are truncated, damaged, not finite, or too large for float32.
    """
    with opened(Path(path)) as file:
        source = NiftiSource(file, Path(path), cap_bytes, orientation)
        stored, header = source.voxels()
        if source.scaling is None and stored.dtype.kind in "iu":
            if stored.dtype.itemsize > 2:
                _check_exact(stored)
                stored = stored.astype(np.int32) if stored.dtype.itemsize == 8 else stored
            return stored, header
        return _scaled(stored, source.scaling), header


def read_label_map(
    path: str | Path,
    *,
    like: Grid | None = None,
    cap_bytes: int | None = None,
    orientation: str | None = None,
) -> tuple[NDArray[Any], VolumeHeader]:
    """Label values (X, Y, Z), integers of at most 32 bits, and header of a label map.

    If `like`, the grid of its image, has its voxels in another axis order, or more than them, the label map is returned
    on that grid, with a note (`monaiseg.data.placement`). `orientation` as in `read_volume`.

    Raises:
        DataError: as `read_volume`; or there are several channels, values that are not integers, or negative ones.
    """
    values, header = _read_integers(Path(path), cap_bytes, orientation, most_channels=1)
    if like is not None and header.grid.difference(like) is not None:
        values, header = _placed(values, header, like)
    return values, header


def read_layers(
    path: str | Path, *, like: Grid | None = None, cap_bytes: int | None = None
) -> tuple[NDArray[Any], VolumeHeader]:
    """Label values (X, Y, Z, C) and header of overlapping label maps in one file; `like` as in `read_label_map`."""
    values, header = _read_integers(Path(path), cap_bytes, None, most_channels=None)
    values = values if values.ndim == 4 else values[..., None]
    if like is not None and header.grid.difference(like) is not None:
        values, header = _placed(values, header, like)
    return values, header


def _read_integers(
    path: Path, cap_bytes: int | None, orientation: str | None, *, most_channels: int | None
) -> tuple[NDArray[Any], VolumeHeader]:
    with opened(path) as file:
        source = NiftiSource(file, path, cap_bytes, orientation)
        if most_channels is not None and source.header.num_channels > most_channels:
            raise DataError(
                f"has {counted(source.header.num_channels, 'channel')}; a label map has one value for each voxel. `prepare --masks` "
                "builds one from layers"
            )
        values, header = source.voxels()
        if source.scaling is not None or values.dtype.kind == "f":
            numbers = _scaled(values, source.scaling, np.float64)
            is_stepped = source.scaling is not None and values.dtype.kind in "iu"
            step = abs(source.scaling[0]) if source.scaling and is_stepped else 0.0
            values, notes = _rounded(numbers, step)
            header = replace(header, notes=header.notes + notes)
    with naming(header.path):
        low, high = int(values.min()), int(values.max())
        if low < 0:
            count = int((values < 0).sum())
            raise DataError(
                f"has negative label values (from {low}, in {counted(count, 'voxel')}); use values of 0 or more"
            )
        if high > np.iinfo(np.int32).max:
            raise DataError(f"has the label value {high}; use values below 2147483648")
    return (values if values.dtype.itemsize < 4 else values.astype(np.int32, copy=False)), header


def _placed(
    values: NDArray[Any], header: VolumeHeader, like: Grid
) -> tuple[NDArray[Any], VolumeHeader]:
    """A label map, or layers, on the grid `like`; unchanged if `like` does not have its voxels."""
    if (placement := Placement.of(header.grid, like)) is None:
        return values, header
    notes = (*header.notes, *placement.notes)
    return placement.apply(values), replace(header, grid=like, notes=notes)


def read_label_table(path: str | Path) -> LabelTable | None:
    """Label table from a label map's header extension; None if there is none."""
    with opened(Path(path)) as file:
        source = NiftiSource(file, Path(path), None)
        for content in source.extensions():
            if b"<CaretExtension" in content:
                return parse_table(content)
    return None


def _scaled(
    stored: NDArray[Any],
    scaling: tuple[float, float] | None,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Scaled values as `dtype`, checked to be finite; label values up to 2147483647 need float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored
        if scaling is not None:
            exact = np.dtype(np.float64 if stored.dtype.itemsize > 2 else dtype)
            slope, intercept = np.array(scaling, dtype=exact)
            values = stored.astype(exact) * slope + intercept
        values = values.astype(dtype, copy=False)
        finite = bool(np.isfinite(values.min()) and np.isfinite(values.max()))
    if not finite:
        bad = ~np.isfinite(values)
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        what = "NaN or infinite" if not np.isfinite(stored).all() else "too large for float32"
        raise DataError(
            f"{int(bad.sum())} values are {what} (the first at voxel {first}); replace them with numbers"
        )
    return values


def _check_exact(stored: NDArray[Any]) -> None:
    low, high = int(stored.min()), int(stored.max())
    if max(-low, high) > FLOAT32_INTEGERS:
        raise DataError(
            f"has whole numbers from {low} to {high}, but float32 is exact only up to {FLOAT32_INTEGERS}; "
            "scale them down, or store them as float32 if that is close enough"
        )


def _rounded(values: NDArray[Any], step: float = 0.0) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Round nearly integer values to the smallest integer type that holds them; a note says if values have changed.

    Args:
        values: values of a label map.
        step: difference between neighbouring values that the file can store, if its header scales integers; else 0.
    """
    nearest = np.rint(values)
    distance = np.abs(values - nearest)
    furthest = float(distance.max())
    if furthest > LABEL_TOLERANCE and not _is_stepped(values, furthest, step):
        strange = np.unique(values[distance > LABEL_TOLERANCE])
        shown = ", ".join(f"{value:g}" for value in strange[:5])
        advice = (
            f"its header scales whole numbers in steps of {step:.3g}; save it again as whole numbers"
            if step
            else "give a label map; if it was resampled, use nearest-neighbour interpolation"
        )
        raise DataError(
            f"has {len(strange)} values that are not whole numbers ({shown}{', ...' if strange[5:].size else ''}); "
            f"{advice}"
        )
    if np.abs(nearest).max() > np.iinfo(np.int32).max:
        raise DataError(f"has the label value {nearest.max():g}; use values below 2147483648")
    integers = nearest.astype(_smallest_integer(float(nearest.min()), float(nearest.max())))
    notes = (f"label values were rounded by up to {furthest:.2g}",) if furthest else ()
    return integers, notes


def _is_stepped(values: NDArray[Any], furthest: float, step: float) -> bool:
    """Whether values are within a step of integers, with one value at each integer: an image has several."""
    if not furthest <= 1.01 * step <= 1.01 * LARGEST_STEP:
        return False
    found = np.unique(values)
    return np.unique(np.rint(found)).size == found.size


def _smallest_integer(low: float, high: float) -> np.dtype[Any]:
    """The first of uint8, int16 and int32 that holds both numbers."""
    fits = (t for t in (np.uint8, np.int16) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype(next(fits, np.int32))


def write_label_map(
    path: str | Path,
    label_map: NDArray[Any],
    grid: Grid,
    like: str | Path | None = None,
    table: LabelTable | None = None,
) -> None:
    """Write label values (X, Y, Z) on `grid`, completely or not at all.

    The header gets the orientation codes and units of the file `like`, but none of its text. If `like` says nothing of
    orientation, neither does the label map. Names and colours of
    `table` are stored in a header extension that Connectome Workbench and `read_label_table` can read.
    """
    assert label_map.shape == grid.shape, (label_map.shape, grid.shape)
    assert label_map.dtype.kind in "iub", label_map.dtype
    high = max(int(label_map.max()), table.values[-1] if table else 0)
    image = _image(label_map.astype(_smallest_integer(int(label_map.min()), high)), grid, like)
    image.header.set_intent("label")
    if table is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", table_xml(table)))
    _write(Path(path), image)


def write_image(
    path: str | Path, image: NDArray[Any], grid: Grid, like: str | Path | None = None
) -> None:
    """Write intensities (X, Y, Z) or (X, Y, Z, C) on `grid` as float32, whole or not at all; header as in `like`."""
    assert image.shape[:3] == grid.shape, (image.shape, grid.shape)
    _write(Path(path), _image(image.astype(np.float32, copy=False), grid, like))


def write_confidence(
    path: str | Path, confidence: NDArray[np.uint8], grid: Grid, like: str | Path | None = None
) -> None:
    """Write confidences (X, Y, Z), given in 255ths, on `grid`, whole or not at all; header as in `like`.

    The file holds the 255ths as bytes, a quarter of the size of float32 before compression. Its header scales them, so
    that programs read numbers from 0 to 1.
    """
    assert confidence.shape == grid.shape, (confidence.shape, grid.shape)
    image = _image(confidence, grid, like)
    image.header.set_slope_inter(1 / 255, 0)
    image.header["cal_max"] = 1
    _write(Path(path), image)


def _write(path: Path, image: nib.Nifti1Image) -> None:
    if not is_volume_name(path.name):
        raise DataError(
            f"{path}: volumes are written as .nii or .nii.gz; give the file such a name"
        )
    payload = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        payload = gzip.compress(payload, 6, mtime=0)  # equal content gives equal bytes
    write_atomic(path, payload)


def _image(voxels: NDArray[Any], grid: Grid, like: str | Path | None) -> nib.Nifti1Image:
    """A nibabel image with a new header: geometry, codes and units only."""
    version, sform_code, qform_code, units, source = 1, 1, 1, 2, None
    if like is not None:
        with opened(Path(like)) as file:
            source = NiftiSource(file, Path(like), None, "RAS")  # any: only its fields are copied
        names = ("sform_code", "qform_code", "xyzt_units")
        sform_code, qform_code, units = (int(source.fields[name]) for name in names)
        version = source.version
    image = _nifti(voxels, None, version)
    header = image.header
    header["xyzt_units"] = units
    is_unoriented = sform_code <= 0 and qform_code <= 0
    if source is not None and sform_code <= 0 and (is_unoriented or source.header.grid == grid):
        # Copied unchanged: a recomputed quaternion would differ in its last digit, and a label map with an orientation
        # would not lie on a scan without one.
        for name in ("pixdim", *(f"quatern_{a}" for a in "bcd"), *(f"qoffset_{a}" for a in "xyz")):
            header[name] = source.fields[name]
        header["pixdim"][4:] = 0
        header["qform_code"] = qform_code
        return image
    header.set_sform(grid.array, sform_code if sform_code > 0 else max(qform_code, 1))
    header.set_qform(grid.array, qform_code, strip_shears=True)
    if Grid.of(grid.shape, header.get_qform()).difference(grid, 0.1) is not None:
        header["qform_code"] = 0  # a sheared grid has no quaternion
    return image


def _nifti(
    voxels: NDArray[Any], affine: NDArray[np.float64] | None, version: int = 1
) -> nib.Nifti1Image:
    if version == 2 or max(voxels.shape) > np.iinfo(np.int16).max:  # NIfTI-1 has 16-bit sizes
        return nib.Nifti2Image(voxels, affine)
    return nib.Nifti1Image(voxels, affine)
