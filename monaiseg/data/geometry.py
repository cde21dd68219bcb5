"""Geometry: the grid that a NIfTI header describes by its sform and its qform, which may contradict each other."""

from __future__ import annotations

import contextlib
import math

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monaiseg.data.grid import Grid
from monaiseg.errors import DataError

GRID_TOLERANCE_DEGREES = 0.1
NOTED_SHARE = 0.01
"""Share of a grid's tolerance above which a difference between sform and qform is noted."""
MAX_SPACING_MM = 100.0
_FORM_CODES = range(6)
"""Coordinate systems defined by NIfTI: unknown, scanner, aligned, Talairach, MNI, another template."""


@np.errstate(all="ignore")  # overflows and NaNs are detected and reported below
def header_grid(
    fields: np.void, shape: tuple[int, ...], orientation: str | None
) -> tuple[Grid, list[str]]:
    """Grid from sform, else qform, else `orientation`, and notes; sform and qform must agree if both are set."""
    if int(fields["xyzt_units"]) & 7 in (1, 3):
        unit = {1: "metres", 3: "micrometres"}[int(fields["xyzt_units"]) & 7]
        raise DataError(f"its units are {unit}; write the file again in millimetres")
    pixdim = np.asarray(fields["pixdim"][1:4], dtype=float)
    usable = bool(np.all(np.isfinite(pixdim) & (pixdim > 0)))
    shown = tuple(float(f"{size:.6g}") for size in pixdim)
    codes = tuple(int(fields[f"{form}_code"]) for form in ("sform", "qform"))
    if strange := [code for code in codes if code not in _FORM_CODES]:
        raise DataError(
            f"sform_code is {codes[0]} and qform_code {codes[1]}, and programs disagree on what {strange[0]} means; "
            f"set them to 0 (none) to {_FORM_CODES[-1]}"
        )
    if codes == (0, 0) and orientation is None:
        raise DataError(
            "has no orientation (sform_code and qform_code are 0); copy the geometry from the original scan, or "
            "set a code if the matrix is right; for a whole dataset, use `prepare --assume-orientation`, "
            "and for new scans `predict --assume-orientation`"
        )
    if codes[0] == 0:
        if not usable:
            raise DataError(f"pixdim is {shown}; write the file again with its voxel size in mm")
        if codes[1] == 0 and orientation is not None:
            note = f"has no orientation; it is taken to be {orientation}"
            return _checked_grid("pixdim", shape, _centred(orientation, shape, pixdim)), [note]
        return _checked_grid("qform", shape, _qform(fields)), []
    grid = _checked_grid("sform", shape, _sform(fields))
    if not usable:
        return grid, [f"pixdim is {shown}; the sform is used"]
    if codes[1] > 0:
        qform = _checked_grid("qform", shape, _qform(fields))
        return grid, _compare_forms(grid, qform, _rounding_mm(fields, grid))
    if not np.allclose(pixdim, grid.spacing, rtol=1e-3):
        spacing = tuple(float(f"{size:.6g}") for size in grid.spacing)
        return grid, [
            f"pixdim is {shown}, but the spacing of the sform is {spacing}; the sform is used"
        ]
    return grid, []


@np.errstate(all="ignore")
def forms_of(fields: np.void, shape: tuple[int, ...]) -> dict[str, Grid]:
    """The grids that sform and qform describe, of those that are set and describe one."""
    found = {}
    for form, affine in (("sform", _sform), ("qform", _qform)):
        with contextlib.suppress(DataError):
            if int(fields[f"{form}_code"]) > 0:
                found[form] = _checked_grid(form, shape, affine(fields))
    return found


def _centred(
    orientation: str, shape: tuple[int, ...], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Affine for axes that run to `orientation`, with the centre of the volume at the origin."""
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(orientation)):
        affine[int(world), axis] = sign * spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[3, 3] = 1
    return affine


def _sform(fields: np.void) -> NDArray[np.float64]:
    rows = [fields["srow_x"], fields["srow_y"], fields["srow_z"], [0, 0, 0, 1]]
    return np.array(rows, dtype=float)


def _qform(fields: np.void) -> NDArray[np.float64]:
    """Affine from the quaternion, method 2 of the NIfTI-1 standard."""
    quaternion = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    rest = 1 - float(quaternion @ quaternion)
    if not rest > -1e-5:  # rounding to float32 may make it slightly negative
        raise DataError(
            f"qform quaternion {tuple(quaternion.tolist())} is not a rotation; write the file again"
        )
    rotation = nib.quaternions.quat2mat([max(rest, 0.0) ** 0.5, *quaternion])
    mirror = -1 if fields["pixdim"][0] < 0 else 1
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.asarray(fields["pixdim"][1:4], dtype=float) * [1, 1, mirror]
    affine[:3, 3] = [fields[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _checked_grid(form: str, shape: tuple[int, ...], affine: NDArray[np.float64]) -> Grid:
    if not np.isfinite(affine).all():
        raise DataError(f"its {form} has numbers that are not finite; write the file again")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacing > 0) & (spacing <= MAX_SPACING_MM)).all():
        raise DataError(
            f"its {form} has the spacing {tuple(float(f'{s:.6g}') for s in spacing)} mm; it must be above 0 and at "
            f"most {MAX_SPACING_MM:g}; write the file again in millimetres"
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise DataError(f"its {form} gives two axes the same direction; write the file again")
    return Grid.of(shape, affine)


def _rounding_mm(fields: np.void, grid: Grid) -> float:
    """How far, in mm, the rounding of a quaternion may move the voxel furthest from the first.

    The fourth component is computed from the three stored ones. Near half a turn, its square root turns a rounding
    error of 1e-7 into 3e-4.
    """
    stored = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=float)
    rounding = 2 * np.abs(stored).sum() * np.finfo(np.float32).eps / 2
    rest = max(1 - float(stored @ stored), 0.0)
    radians = 2 * (math.sqrt(rest + rounding) - math.sqrt(max(rest - rounding, 0.0)))
    extent = np.linalg.norm((np.array(grid.shape) - 1) * grid.spacing)
    return float(radians * extent)


def _compare_forms(sform: Grid, qform: Grid, rounding_mm: float) -> list[str]:
    """A note if sform and qform differ within the tolerances but by more than the quaternion's rounding error.

    Raises:
        DataError: they differ by more, so the position of the voxels is unknown.
    """
    cosines = np.sum(
        (sform.array[:3, :3] / sform.spacing) * (qform.array[:3, :3] / qform.spacing), axis=0
    )
    degrees = float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
    words = sform.difference(qform, slack_mm=rounding_mm)
    if words is not None or degrees > GRID_TOLERANCE_DEGREES:
        raise DataError(
            f"its sform and qform disagree: {words or f'axes are {degrees:.2f} degrees apart'}; "
            "set the code of the wrong one to 0"
        )
    if sform.difference(qform, NOTED_SHARE, rounding_mm) is not None:
        return ["sform and qform differ slightly; the sform is used"]
    return []
