"""Agreement: how far predicted volumes are from those of the references (Bland and Altman, The Lancet, 1986)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monaiseg.report.score_folder import Scores

LIMITS = 1.96
"""Standard deviations from the bias to the limits of agreement: 95 % of normal differences are within them."""
FEWEST_CASES = 3
"""With fewer cases there are no limits."""


@dataclass(frozen=True)
class Agreement:
    """Volumes of one structure in the cases that have it in at least one map."""

    name: str
    cases: tuple[str, ...]
    mean_ml: NDArray[np.float64]
    """Mean of both volumes in each case."""
    difference_ml: NDArray[np.float64]
    """Prediction minus reference in each case."""

    @property
    def bias_ml(self) -> float:
        """Mean difference."""
        return float(self.difference_ml.mean())

    @property
    def limits_ml(self) -> tuple[float, float]:
        """Limits of agreement; NaN with too few cases."""
        if len(self.cases) < FEWEST_CASES:
            return math.nan, math.nan
        reach = LIMITS * float(self.difference_ml.std(ddof=1))
        return self.bias_ml - reach, self.bias_ml + reach


def agreements(reference_ml: Scores, prediction_ml: Scores) -> dict[str, Agreement]:
    """The agreement of each structure, from its volumes in all cases.

    >>> one = agreements({"a": {"liver": 10.0}}, {"a": {"liver": 12.0}})["liver"]
    >>> one.bias_ml, float(one.mean_ml[0])
    (2.0, 11.0)
    """
    names = dict.fromkeys(name for row in reference_ml.values() for name in row)
    found = {}
    for name in names:
        pairs = {
            case: pair
            for case in reference_ml
            if max(pair := _volumes(name, reference_ml[case], prediction_ml.get(case, {}))) > 0
        }
        if pairs:
            table = np.array(list(pairs.values()))
            found[name] = Agreement(
                name, tuple(pairs), table.mean(axis=1), table[:, 1] - table[:, 0]
            )
    return found


def _volumes(
    name: str, reference: Mapping[str, float], prediction: Mapping[str, float]
) -> tuple[float, float]:
    """Both volumes; a structure that a map lacks has none."""
    pair = (reference.get(name, math.nan), prediction.get(name, math.nan))
    first, second = (0.0 if math.isnan(volume) else volume for volume in pair)
    return first, second
