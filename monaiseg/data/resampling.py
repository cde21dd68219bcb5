"""Resampling: how much an image's voxel size differs from the network's, and whether a wrong unit explains it."""

from __future__ import annotations

import math

from monaiseg.data.grid import Spacing
from monaiseg.errors import DataError

SAME_SPACING = 1e-3
"""Tolerance in mm within which MONAI's `Spacingd` leaves an image unchanged (its `AFFINE_TOL`)."""
DOUBTFUL_FACTOR = 3.0
"""Beyond this factor, resampling loses or invents most of an image; the user should check the result."""
IMPOSSIBLE_FACTOR = 10.0
"""Beyond this factor along one axis, nothing is left to label, or memory runs out."""
WRONG_UNIT_FACTOR = 9.0
"""If all three axes differ by at least this factor in the same direction, the unit is wrong."""
_UNITS = {
    1e-3: "in metres, read as millimetres",
    1e-1: "in centimetres, read as millimetres",
    1e1: "multiplied by 10, as is done for small animals",
    1e3: "in micrometres, read as millimetres",
}


def resampling_doubt(path: str, found: Spacing, wanted: Spacing) -> str | None:
    """Warning about doubtful resampling of an image; None if there is nothing doubtful.

    Args:
        path: path of the image.
        found: voxel size of the image in mm.
        wanted: voxel size of the network in mm, along the same axes.

    Raises:
        DataError: resampling makes no sense, because the factor is beyond 10 or the unit is wrong.

    >>> resampling_doubt("a.nii", (1, 1, 5), (1, 1, 2))
    """
    ratios = [ours / theirs for ours, theirs in zip(found, wanted, strict=True)]
    factor = max(max(ratio, 1 / ratio) for ratio in ratios)
    alike = max(min(ratios), 1 / max(ratios))
    if factor <= DOUBTFUL_FACTOR:
        return None
    what = f"{path}: has voxels of {_words(found)} mm, but the network was trained on voxels of {_words(wanted)} mm"
    unit = _likely_unit(ratios)
    cause = f" (is its voxel size {unit}?)" if unit else ""
    if factor > IMPOSSIBLE_FACTOR * (1 + 1e-6) or alike >= WRONG_UNIT_FACTOR:
        raise DataError(
            f"{what}, a factor of {factor:.3g}{cause}; write the file again with its voxel size in mm, or use a network "
            "for such scans"
        )
    return f"{what}, a factor of {factor:.3g}{cause}; check the label map by eye"


def _words(spacing: Spacing) -> str:
    return " x ".join(f"{size:.4g}" for size in spacing)


def _likely_unit(ratios: list[float]) -> str | None:
    """The unit that would explain the ratios, if all three are similar."""
    if max(ratios) > DOUBTFUL_FACTOR * min(ratios):
        return None
    middle = math.exp(sum(map(math.log, ratios)) / 3)
    near = min(_UNITS, key=lambda unit: abs(math.log(middle / unit)))
    return _UNITS[near] if max(middle / near, near / middle) <= 2 else None
