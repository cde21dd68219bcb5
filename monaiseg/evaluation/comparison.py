"""Comparison: means of scores with confidence intervals, and tests of the difference between two sets of scores.

*Scores* map case -> label -> number, for one metric. A *label mean* is the mean of a label over the cases in which its
score is defined (not NaN); the *overall mean* is the mean of the label means, so all structures have equal weight.
Unions of labels have label means too, and are left out of the overall mean.
*Differences* are second minus first, case by case and label by label, of two sets of scores of the same cases.

An interval says how much a mean would vary with other cases of the same kind. It covers no other source of variation:
two training runs with different seeds can differ by more. To compare recipes rather than networks, first average the
scores over several seeds, or set `negligible` to the difference that a seed makes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats  # type: ignore[import-untyped]  # SciPy brings no types

from monaiseg.errors import DataError, counted

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""case -> label -> score; NaN if the score is not defined."""
Floats: TypeAlias = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
POWER = 0.8
TIE = 1e-9
"""Scores that differ by at most this are equal, to allow for rounding in files."""
MOST_CHANGED = 5
SEED_NOISE = 0.005
"""Difference of mean Dice that another seed of the same recipe can make: 0.002 to 0.003 between runs of 8 and of 20 minutes
on 140 scans, tested on 40 (benchmarks/RESULTS.md), and more on fewer scans."""


@dataclass(frozen=True)
class Mean:
    """A mean over cases and its 95 % interval; NaN if there are too few cases to compute it."""

    value: float
    low: float
    high: float
    cases: int
    """Number of cases in the mean."""
    undefined: int
    """Number of cases left out because their score is not defined."""


@dataclass(frozen=True)
class Means:
    """Label means and overall mean of one metric."""

    labels: Mapping[str, Mean]
    overall: Mean


def means(scores: Scores, *, unions: Collection[str] = (), seed: int = 0) -> Means:
    """Means over cases with bootstrap intervals; `unions` are labels that are unions, `seed` determines the resamples.

    >>> means({"a": {"liver": 0.75}, "b": {"liver": 0.5}, "c": {"liver": float("nan")}}).labels["liver"]
    Mean(value=0.625, low=0.5, high=0.75, cases=2, undefined=1)
    """
    labels = _labels(scores.values())
    table, single = _matrix(scores, list(scores), labels), _singles(labels, unions)
    columns, overall = mean_intervals(table, seed)[:-1], mean_intervals(table[:, single], seed)[-1]
    return Means(dict(zip(labels, columns, strict=True)), overall)


def mean_intervals(table: Floats, seed: int) -> list[Mean]:
    """The mean over cases of each column of a table (cases, L) with NaN, followed by the mean of these L means.

    Whole cases are resampled, because the labels of a case are not independent. The interval is the expanded percentile
    interval of Hesterberg, "What teachers should know about the bootstrap" (The American Statistician, 2015). For few
    cases, plain percentile intervals are too narrow, as normal quantiles are narrower than Student's, and BCa does not
    correct this. With 10 normal scores, 89 % of plain percentile and BCa intervals contained the mean, and 95 % of
    these. Skewed scores need more cases: with 20 lognormal scores (sigma 0.8), 91 % of these contained it. A single
    case has no interval.
    """
    count = len(table)
    draws = np.random.default_rng(seed).integers(0, max(count, 1), (RESAMPLES, count))
    weights = np.array([np.bincount(draw, minlength=count) for draw in draws], dtype=float)
    means_of_draws = _weighted_means(weights, table)
    values = _weighted_means(np.ones((1, count)), table)[0]
    defined = ~np.isnan(table)
    cases = [*defined.sum(axis=0), defined.any(axis=1).sum()]
    return [
        Mean(float(value), *_interval(column, int(n)), int(n), count - int(n))
        for value, column, n in zip(values, means_of_draws.T, cases, strict=True)
    ]


def _weighted_means(weights: Floats, table: Floats) -> Floats:
    """Column means of a table (cases, L) and their mean, (R, L + 1), for each row of the weights (R, cases)."""
    defined = ~np.isnan(table)
    with np.errstate(invalid="ignore"):  # a column without scores has no mean
        columns = (weights @ np.where(defined, table, 0)) / (weights @ defined.astype(float))
        has_mean = ~np.isnan(columns)
        overall = np.where(has_mean, columns, 0).sum(axis=1) / has_mean.sum(axis=1)
    return np.column_stack([columns, overall])


def _interval(resampled: Floats, cases: int) -> tuple[float, float]:
    """Expanded percentile interval from the means (R,) of resamples of that many cases."""
    if cases < 2:
        return math.nan, math.nan
    reach = math.sqrt(cases / (cases - 1)) * stats.t.ppf((1 + CONFIDENCE) / 2, cases - 1)
    low, high = np.nanquantile(resampled, special.ndtr([-reach, reach]))
    return float(low), float(high)


# ---------------------------------------------------------------- two sets of scores


@dataclass(frozen=True)
class Difference:
    """Difference between two sets of scores of a label, or overall, over the cases in which both are defined."""

    first: float
    """Mean of the first scores over the same cases as the difference."""
    second: float
    mean: Mean
    """Mean of second minus first."""
    p: float
    """p value of the two-sided Wilcoxon signed-rank test; NaN without a pair."""
    p_holm: float
    """The p value after Holm's correction over labels; the overall p value is not corrected."""
    wins: int
    """Number of cases in which the second is better."""
    ties: int
    losses: int


@dataclass(frozen=True)
class CaseChange:
    """Means of one case in both sets of scores, over the labels that both sets have."""

    case: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Two sets of scores, paired by case."""

    labels: Mapping[str, Difference]
    overall: Difference
    """Difference of the overall means; wins, ties, losses and the test use the mean over labels of each case."""
    most_changed: tuple[CaseChange, ...]
    """The five cases with the largest changes, largest first."""
    unpaired_cases: tuple[str, ...]
    """Cases that only one set has; they are left out."""
    unpaired_labels: tuple[str, ...]
    """Labels that only one set has; they are left out."""
    exceeds_noise: bool
    """Whether the overall interval excludes 0, or differences up to `negligible`, and p of the test is below 5 %."""
    higher_is_better: bool
    negligible: float
    """Differences up to this size do not count."""
    cases_needed: int | None
    """Cases needed to show a difference of this size if it is real; None if it was shown or no number would do."""

    @property
    def verdict(self) -> str:
        """The result of the comparison in one or two sentences."""
        if self.overall.mean.cases < 2:
            return f"Too few cases to tell: {counted(self.overall.mean.cases, 'case')} scored in both sets."
        mean, better = self.overall.mean, (self.overall.mean.value > 0) == self.higher_is_better
        numbers = (
            f"{mean.value:+.4g} (95 % interval {mean.low:+.4g} to {mean.high:+.4g}, "
            f"{mean.cases} cases, p = {self.overall.p:.2g})"
        )
        if self.exceeds_noise:
            return f"The second set is {'better' if better else 'worse'}: {numbers}. The difference exceeds noise."
        verdict = f"No difference beyond noise: {numbers}."
        if self.negligible:
            verdict += f" Differences up to {self.negligible:g} do not count, because another seed may make them."
        if self.cases_needed is None:
            return verdict
        return f"{verdict} If it is real, about {self.cases_needed} cases would show it ({POWER:.0%} power)."


def compare(
    first: Scores,
    second: Scores,
    *,
    higher_is_better: bool = True,
    negligible: float = 0.0,
    unions: Collection[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two sets of scores of one metric, case by case.

    A pair in which either score is not defined is left out and counted. This includes a structure that the reference
    lacks and only one of the two predicts: the score of the other is not defined.

    Args:
        first: the first set of scores.
        second: the second set of scores.
        higher_is_better: True for scores such as Dice, False for distances.
        negligible: differences up to this size are not meaningful, such as those between two seeds.
        unions: labels that are unions of others, which are left out of overall means.
        seed: seed of the resamples.

    Raises:
        DataError: the two sets have no case or no label in common.
    """
    cases, odd_cases = _shared(first, second)
    labels, odd_labels = _shared(_labels(first.values()), _labels(second.values()))
    single = _singles(labels, unions)
    if not cases or not single:
        what, found = ("labels", odd_labels) if cases else ("cases", odd_cases)
        shown = ", ".join(map(repr, found[:6])) + ", ..." * (len(found) > 6)
        raise DataError(
            f"the two sets of scores have no {what} in common (one of them has {shown or 'none'}); "
            f"compare scores of the same {what}"
        )
    a, b = (_matrix(scores, cases, labels) for scores in (first, second))
    unpaired = np.isnan(a) | np.isnan(b)
    a, b = (np.where(unpaired, np.nan, table) for table in (a, b))
    sign = 1 if higher_is_better else -1
    columns = mean_intervals(b - a, seed)[:-1]
    overall_mean = mean_intervals((b - a)[:, single], seed)[-1]
    every = np.ones((1, len(cases)))
    a_means, b_means = (_weighted_means(every, table)[0] for table in (a, b))
    first_mean, second_mean = (
        float(_weighted_means(every, table[:, single])[0, -1]) for table in (a, b)
    )
    tests = [_wilcoxon(column) for column in (b - a).T]
    differences = {
        label: Difference(float(a_means[n]), float(b_means[n]), mean, tests[n], p_holm,
                          *_outcomes(sign * (b - a)[:, n]))
        for n, (label, mean, p_holm) in enumerate(zip(labels, columns, holm(tests), strict=True))
    }  # fmt: skip
    of_cases = [
        _weighted_means(np.ones((1, len(single))), table[:, single].T)[0, :-1] for table in (a, b)
    ]
    change = of_cases[1] - of_cases[0]  # (cases,)
    p = _wilcoxon(change)
    overall = Difference(first_mean, second_mean, overall_mean, p, p, *_outcomes(sign * change))
    exceeds = p < 1 - CONFIDENCE and not -negligible <= _nearest_to_zero(overall_mean) <= negligible
    changes = [
        CaseChange(case, float(x), float(y)) for case, x, y in zip(cases, *of_cases, strict=True)
    ]
    changed = [c for c in changes if abs(c.difference) > TIE]
    return Comparison(
        labels=differences,
        overall=overall,
        most_changed=tuple(
            sorted(changed, key=lambda c: (-round(abs(c.difference), 9), c.case))[:MOST_CHANGED]
        ),
        unpaired_cases=tuple(odd_cases),
        unpaired_labels=tuple(odd_labels),
        exceeds_noise=exceeds,
        higher_is_better=higher_is_better,
        negligible=negligible,
        cases_needed=None if exceeds else _cases_needed(overall_mean, change, negligible),
    )


def cases_for_power(difference: float, sd: float) -> int:
    """Number of pairs that a two-sided test at 5 % needs to show `difference` with a power of 80 %.

    `sd` is the standard deviation of the differences over cases. n = ((z_0.975 + z_0.8) sd / difference)^2 +
    z_0.975^2 / 2, Guenther, "Sample size formulas for normal theory t tests" (The American Statistician, 1981), divided
    by 3 / pi, the efficiency of the signed-rank test relative to the t-test (Lehmann, "Nonparametrics", 1975). The
    result is at least 6, because five pairs cannot reach 5 %.

    >>> cases_for_power(difference=0.01, sd=0.03)
    76
    """
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    pairs = ((z + special.ndtri(POWER)) * sd / difference) ** 2 + z**2 / 2
    return max(math.ceil(float(pairs) / (3 / math.pi)), 6)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p values of several tests; NaN values do not count as tests.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    done = sorted((p, n) for n, p in enumerate(ps) if not math.isnan(p))
    corrected, least = [math.nan] * len(ps), 0.0
    for rank, (p, n) in enumerate(done):
        least = corrected[n] = min(max(least, (len(done) - rank) * p), 1.0)
    return corrected


def _cases_needed(mean: Mean, change: Floats, negligible: float) -> int | None:
    """Cases needed to show the mean difference; None if it is negligible or its spread is unknown."""
    beyond = abs(mean.value) - negligible
    if mean.cases < 2 or not beyond > TIE:
        return None
    needed = cases_for_power(beyond, float(np.nanstd(change, ddof=1)))
    return max(needed, mean.cases + 1)


def _nearest_to_zero(mean: Mean) -> float:
    """The end of an interval that is nearer to 0; 0 if the interval contains 0 or is missing."""
    if mean.low > 0:
        return mean.low
    return mean.high if mean.high < 0 else 0.0


def _wilcoxon(differences: Floats) -> float:
    """Two-sided p of the Wilcoxon signed-rank test without pairs that are equal; 1 if all are equal."""
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return math.nan
    unequal = defined[np.abs(defined) > TIE]
    if not unequal.size:
        return 1.0
    return float(stats.wilcoxon(np.round(unequal, 12)).pvalue)


def _outcomes(gains: Floats) -> tuple[int, int, int]:
    """Number of wins, ties and losses from the gains of all cases; NaN is left out."""
    wins, losses = int((gains > TIE).sum()), int((gains < -TIE).sum())
    return wins, int((~np.isnan(gains)).sum()) - wins - losses, losses


def _labels(cases: Iterable[Mapping[str, float]]) -> list[str]:
    """The labels of all cases, in order of first occurrence."""
    return list(dict.fromkeys(label for case in cases for label in case))


def _singles(labels: Sequence[str], unions: Collection[str]) -> list[int]:
    """Places of the labels that are no unions."""
    return [place for place, label in enumerate(labels) if label not in unions]


def _shared(first: Iterable[str], second: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that both have, in the order of the first, and the names that only one has, sorted."""
    theirs = set(second)
    return [name for name in first if name in theirs], sorted(theirs.symmetric_difference(first))


def _matrix(scores: Scores, cases: Sequence[str], labels: Sequence[str]) -> Floats:
    """Scores as a table (cases, labels); NaN where a case lacks a label."""
    rows = [[scores[case].get(label, math.nan) for label in labels] for case in cases]
    return np.array(rows, dtype=float).reshape(len(cases), len(labels))
