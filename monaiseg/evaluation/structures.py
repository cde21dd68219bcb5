"""Structures: the scores of one structure in one case, from two label maps on one grid.

A *structure* is a label or a union of labels. It is *found* if both maps have it. If the prediction lacks it, it is
*missed*; if the reference lacks it, it is *invented*. In both cases its overlap is 0 and its distances are the diagonal
of the grid, so a miss never improves a mean. If both lack it, it is *absent*, and its scores are NaN.

A *component* is a connected part of a structure; voxels that share a corner are connected (26-connectivity). If a
structure is marked as a lesion, each of its components is one lesion.

The module first measures evidence (voxel counts and distances) and then computes scores from it. Each structure is
measured in its own bounding box, so memory does not grow with the number of structures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy brings no types

from monaiseg.data import LabelTable, Spacing
from monaiseg.errors import DataError
from monaiseg.evaluation.surfaces import (
    Mask,
    SurfaceDistances,
    hausdorff_mm,
    mean_surface_distance_mm,
    surface_dice,
    surface_distances,
    voxels_of,
)
from monaiseg.machine import usable_cores

Box: TypeAlias = tuple[slice, ...]
Status: TypeAlias = Literal["found", "missed", "invented", "absent"]

TOLERANCE_MM = 1.0
"""Default tolerance of the surface Dice: surfaces at most this far apart agree."""


@dataclass(frozen=True)
class Structure:
    """A label or a union of labels to score."""

    name: str
    values: tuple[int, ...]
    """Label values, above 0."""
    tolerance_mm: float = TOLERANCE_MM
    """Tolerance of the surface Dice."""
    is_lesion: bool = False
    """Whether each component is a lesion that can be detected."""

    @property
    def is_union(self) -> bool:
        """Whether it is a union of labels; means over labels leave it out."""
        return len(self.values) > 1


def structures_of(table: LabelTable, tolerance_mm: float = TOLERANCE_MM) -> tuple[Structure, ...]:
    """What to score of a table: each foreground label, then the union of each group of two labels or more.

    Args:
        table: the labels.
        tolerance_mm: tolerance of labels that have none of their own, and of unions whose labels have different ones.
    """
    singles = [
        Structure(
            label.name,
            (label.value,),
            tolerance_mm if label.tolerance_mm is None else label.tolerance_mm,
            label.is_lesion,
        )
        for label in table.foreground
    ]
    groups: dict[str, list[Structure]] = {}
    for label, single in zip(table.foreground, singles, strict=True):
        if label.group is not None:
            groups.setdefault(label.group, []).append(single)
    unions = (
        _united(name, members, tolerance_mm) for name, members in groups.items() if members[1:]
    )
    return (*singles, *unions)


def _united(name: str, members: Sequence[Structure], tolerance_mm: float) -> Structure:
    """The union of labels; it is a lesion if all of them are."""
    tolerances = {member.tolerance_mm for member in members}
    return Structure(
        name,
        tuple(value for member in members for value in member.values),
        tolerances.pop() if len(tolerances) == 1 else tolerance_mm,
        all(member.is_lesion for member in members),
    )


@dataclass(frozen=True)
class StructureScores:
    """Scores of one structure in one case; NaN if not defined."""

    name: str
    values: tuple[int, ...]
    """Its label values."""
    status: Status
    dice: float
    iou: float
    precision: float
    """Share of the prediction that is correct; undefined (NaN) without a prediction, as recall is without a reference."""
    recall: float
    """Share of the reference that was found; NaN for an invented structure."""
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    """Surface Dice at the structure's tolerance."""
    centroid_distance_mm: float
    reference_ml: float
    prediction_ml: float
    volume_error_ml: float
    """Prediction minus reference."""
    relative_volume_error: float
    """Volume error divided by the reference volume; NaN without a reference."""
    reference_components: int
    prediction_components: int
    lesion_f1: float
    """NaN if the structure is not a lesion, or neither map has a lesion."""
    lesion_sensitivity: float
    """Share of the reference lesions that were detected; NaN without reference lesions."""
    lesion_false_positives: float
    """Number of false-positive lesions in this case; NaN if the structure is not a lesion."""

    @property
    def is_union(self) -> bool:
        """Whether it is a union of labels; means over labels leave it out."""
        return len(self.values) > 1


def score_structures(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    structures: Sequence[Structure],
    spacing: Spacing,
    *,
    threads: int | None = None,
) -> tuple[StructureScores, ...]:
    """Scores of each structure, in the order of `structures`.

    Args:
        reference: label values, (X, Y, Z), integers.
        prediction: label values with the same shape.
        structures: labels and unions of labels; they may overlap. All other values are background.
        spacing: voxel size in mm along the voxel axes.
        threads: number of structures measured in parallel; None means one per core. Scores do not depend on it.

    Raises:
        DataError: the shapes differ, or a structure has no label values or the background's.
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise DataError(
            f"a reference of shape {reference.shape} and a prediction of shape {prediction.shape} "
            "cannot be compared; resample one onto the other's grid"
        )
    for structure in structures:
        if not structure.values or min(structure.values) < 1:
            raise DataError(
                f"structure {structure.name!r} has the label values {structure.values}; "
                "give it at least one value, and none below 1"
            )
    table = LabelTable.from_values(value for one in structures for value in one.values)
    maps = [table.class_indices(labels, others="background") for labels in (reference, prediction)]
    boxes = [ndimage.find_objects(indices, table.num_classes - 1) for indices in maps]
    class_of = {value: index for index, value in enumerate(table.values)}
    diagonal_mm = math.hypot(*(n * mm for n, mm in zip(reference.shape, spacing, strict=True)))

    def score(structure: Structure) -> StructureScores:
        classes = [class_of[value] for value in structure.values]
        box = _union([found[index - 1] for found in boxes for index in classes])
        a, b = (_mask(indices[box], classes) for indices in maps)
        return scores(structure, measure(a, b, spacing, structure.is_lesion), diagonal_mm)

    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        return tuple(pool.map(score, structures))


def _union(boxes: Sequence[Box | None]) -> Box:
    """The smallest box around boxes, some of which may be None; an empty box if all are None."""
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(s.start for s in along), max(s.stop for s in along))
        for along in zip(*found, strict=True)
    )


def _mask(indices: NDArray[Any], classes: Sequence[int]) -> Mask:
    """Voxels whose class index is one of `classes`; comparing with each is faster than a lookup or `numpy.isin`."""
    mask: Mask = indices == classes[0]
    for index in classes[1:]:
        mask |= indices == index
    return mask


# ---------------------------------------------------------------- evidence


@dataclass(frozen=True)
class LesionCounts:
    """Number of lesions in the reference and in the prediction that share a voxel with the other map.

    As in the ISLES challenge (Hernandez Petzsche et al., "ISLES 2022", Scientific Data, 2022), one shared voxel is
    enough, and lesions are not matched one to one.
    """

    detected: int
    """Reference lesions that overlap the prediction."""
    overlooked: int
    """Reference lesions that do not overlap the prediction."""
    false_positives: int
    """Predicted lesions that overlap no reference lesion."""


@dataclass(frozen=True)
class Evidence:
    """The measurements from which the scores of one structure in one case are computed."""

    both: int
    """Voxels that belong to the structure in both maps."""
    reference: int
    """Voxels of the reference."""
    prediction: int
    """Voxels of the prediction."""
    voxel_mm3: float
    distances: SurfaceDistances | None
    """Distances between the surfaces; None if a map lacks the structure."""
    centroid_distance_mm: float | None
    components: tuple[int, int]
    """Number of components in the reference and in the prediction."""
    lesions: LesionCounts | None
    """None if the structure is not a lesion."""

    @property
    def status(self) -> Status:
        """Which of the maps have the structure."""
        if self.reference:
            return "found" if self.prediction else "missed"
        return "invented" if self.prediction else "absent"


def measure(reference: Mask, prediction: Mask, spacing: Spacing, is_lesion: bool) -> Evidence:
    """Evidence for one structure from two masks (X, Y, Z) that contain all of it; `spacing` is in mm."""
    in_reference, in_prediction = np.count_nonzero(reference), np.count_nonzero(prediction)
    found = bool(in_reference and in_prediction)
    components = [ndimage.label(mask, np.ones((3, 3, 3))) for mask in (reference, prediction)]
    return Evidence(
        both=int(np.count_nonzero(reference & prediction)),
        reference=int(in_reference),
        prediction=int(in_prediction),
        voxel_mm3=math.prod(spacing),
        distances=surface_distances(reference, prediction, spacing) if found else None,
        centroid_distance_mm=_centroid_distance_mm(reference, prediction, spacing)
        if found
        else None,
        components=(components[0][1], components[1][1]),
        lesions=_lesion_counts(*components[0], *components[1]) if is_lesion else None,
    )


def _centroid_distance_mm(reference: Mask, prediction: Mask, spacing: Spacing) -> float:
    a, b = (voxels_of(mask).mean(axis=0) for mask in (reference, prediction))
    return float(np.linalg.norm((a - b) * np.array(spacing)))


def _lesion_counts(
    reference: NDArray[Any], num_reference: int, prediction: NDArray[Any], num_prediction: int
) -> LesionCounts:
    """Lesion counts from both maps' component numbers (0 is outside) and numbers of components."""
    both = (reference > 0) & (prediction > 0)
    detected, confirmed = (len(np.unique(numbers[both])) for numbers in (reference, prediction))
    return LesionCounts(detected, num_reference - detected, num_prediction - confirmed)


# ---------------------------------------------------------------- numbers


def scores(structure: Structure, evidence: Evidence, diagonal_mm: float) -> StructureScores:
    """Scores from evidence; if one map lacks the structure, distances are the `diagonal_mm` of the grid."""
    both, reference, prediction = evidence.both, evidence.reference, evidence.prediction
    millilitres = evidence.voxel_mm3 / 1000
    return StructureScores(
        name=structure.name,
        values=structure.values,
        status=evidence.status,
        dice=_ratio(2 * both, reference + prediction),
        iou=_ratio(both, reference + prediction - both),
        precision=_ratio(both, prediction),
        recall=_ratio(both, reference),
        **_distance_scores(structure, evidence, diagonal_mm),
        reference_ml=reference * millilitres,
        prediction_ml=prediction * millilitres,
        volume_error_ml=(prediction - reference) * millilitres,
        relative_volume_error=_ratio(prediction - reference, reference),
        reference_components=evidence.components[0],
        prediction_components=evidence.components[1],
        **_lesion_scores(evidence.lesions),
    )


def _distance_scores(
    structure: Structure, evidence: Evidence, diagonal_mm: float
) -> dict[str, float]:
    distances, centroid_distance = evidence.distances, evidence.centroid_distance_mm
    if distances is None or centroid_distance is None:
        far, agreement = (math.nan, math.nan) if evidence.status == "absent" else (diagonal_mm, 0.0)
        names = ("hd_mm", "hd95_mm", "assd_mm", "centroid_distance_mm")
        return {**dict.fromkeys(names, far), "surface_dice": agreement}
    return {
        "hd_mm": hausdorff_mm(distances),
        "hd95_mm": hausdorff_mm(distances, 95),
        "assd_mm": mean_surface_distance_mm(distances),
        "surface_dice": surface_dice(distances, structure.tolerance_mm),
        "centroid_distance_mm": centroid_distance,
    }


def _lesion_scores(counts: LesionCounts | None) -> dict[str, float]:
    if counts is None:
        return dict.fromkeys(
            ("lesion_f1", "lesion_sensitivity", "lesion_false_positives"), math.nan
        )
    detected, wrong = counts.detected, counts.overlooked + counts.false_positives
    return {
        "lesion_f1": _ratio(2 * detected, 2 * detected + wrong),
        "lesion_sensitivity": _ratio(detected, detected + counts.overlooked),
        "lesion_false_positives": float(counts.false_positives),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
