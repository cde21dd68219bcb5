"""Choice of post-processing: for each label the rule that raises its mean Dice over validation cases, if one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import Case, ChosenRule, apply_rules, read_header, read_label_map
from monaiseg.errors import SettingsError
from monaiseg.evaluation.metrics import mean_defined
from monaiseg.evaluation.scoring import Labeller, check_references
from monaiseg.portable import LabelRule, box_of

LEAST_GAIN = 0.0005
"""Mean Dice of a label has to rise by at least this much. Smaller gains are noise of the choice."""
SHARES = (0.01, 0.03, 0.1, 0.3)
"""Volumes below which components may be dropped, as shares of the median volume of the label in the references."""
LEAST_CASES = 2
"""Number of cases in which a label has to occur, for a rule to be chosen for it."""

Scores = dict[LabelRule, list[float]]
"""Dice of one label in each case, by rule. The rule that does nothing comes first."""


def choose_rules(
    predictor: Labeller,
    cases: Sequence[Case],
    on_case: Callable[[Case], None] | None = None,
) -> list[ChosenRule]:
    """The rules that raise the mean Dice of their labels over cases, which should not be those of the training.

    Args:
        predictor: the trained network, without post-processing.
        cases: cases with label maps.
        on_case: called after each case.

    Raises:
        SettingsError: there are fewer than two cases.
        DataError: a case cannot be used.
    """
    if len(cases) < LEAST_CASES:
        raise SettingsError(
            f"post-processing is chosen on at least {LEAST_CASES} validation cases, and there are {len(cases)}"
        )
    check_references(cases, "val")
    volumes = _median_volumes(cases, predictor.table.values[1:])
    scores: dict[int, Scores] = {
        value: {rule: [] for rule in _candidates(value, volume)}
        for value, volume in volumes.items()
    }
    for case in cases:
        _add_case(scores, predictor, case)
        if on_case is not None:
            on_case(case)
    return [chosen for of_label in scores.values() if (chosen := _best(of_label)) is not None]


def _median_volumes(cases: Sequence[Case], values: Sequence[int]) -> dict[int, float]:
    """Median volume in mm^3 of each label over the cases that have it; labels in too few cases are left out."""
    volumes: dict[int, list[float]] = {value: [] for value in values}
    for case in cases:
        assert case.label is not None
        label_map, header = read_label_map(case.label)
        found, counts = np.unique(label_map, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            if value in volumes:
                volumes[value].append(count * header.grid.voxel_volume_mm3)
    return {
        value: float(np.median(known))
        for value, known in volumes.items()
        if len(known) >= LEAST_CASES
    }


def _candidates(value: int, volume_mm3: float) -> list[LabelRule]:
    """The rules that are tried for a label, mildest first."""
    least = [float(f"{share * volume_mm3:.2g}") for share in SHARES]
    return [
        LabelRule(value),
        LabelRule(value, fill_holes=True),
        *(LabelRule(value, least_mm3=volume) for volume in least),
        LabelRule(value, keep_largest=True),
        LabelRule(value, keep_largest=True, fill_holes=True),
    ]


def _add_case(scores: dict[int, Scores], predictor: Labeller, case: Case) -> None:
    """Add the Dice of every label and rule in one case."""
    assert case.label is not None
    grid = read_header(case.images[0]).grid
    reference, _ = read_label_map(case.label, like=grid)
    prediction = predictor.predict(case.images)
    if predictor.table.ignored_value is not None:
        ignored = reference == predictor.table.ignored_value
        reference, prediction = (np.where(ignored, 0, values) for values in (reference, prediction))
    for value, of_label in scores.items():
        box = box_of((reference == value) | (prediction == value))
        for rule, dice in of_label.items():
            if box is None:
                dice.append(math.nan)
                continue
            found = apply_rules(prediction[box], [rule], grid.voxel_volume_mm3)
            dice.append(_dice(found == value, reference[box] == value))


def _dice(found: NDArray[Any], known: NDArray[Any]) -> float:
    """Dice of two masks; NaN if both are empty."""
    total = int(found.sum()) + int(known.sum())
    return 2 * int((found & known).sum()) / total if total else math.nan


def _best(scores: Scores) -> ChosenRule | None:
    """The rule with the highest mean; None if none gains enough, or more cases lose than gain."""
    nothing, *others = scores
    before = mean_defined(scores[nothing])
    best = max(others, key=lambda rule: mean_defined(scores[rule]))
    after = mean_defined(scores[best])
    changes = np.subtract(scores[best], scores[nothing])
    if not after >= before + LEAST_GAIN or (changes < 0).sum() > (changes > 0).sum():
        return None
    return ChosenRule(best, before, after)
