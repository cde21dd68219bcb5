"""Coverage of the 95 % intervals, and how often `compare` speaks of a difference where there is none, by simulation.

Scores of 4 labels are drawn for 8 to 40 cases, with a part that all labels of a case share: normal ones, and skewed ones
as Dice is (beta 9, 1). Coverage is the share of repetitions whose interval holds the mean of the distribution.

Usage: python benchmarks/intervals.py [--repetitions 1000]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from common import machine, table
from numpy.typing import NDArray

from monaiseg.evaluation.comparison import compare, mean_intervals

Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]
DRAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(0.8, 0.05, shape), 0.8),
    "beta 9, 1": (lambda rng, shape: rng.beta(9, 1, shape), 0.9),
}
LABELS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    count = parser.parse_args().repetitions
    rows = [row(name, cases, count) for name in DRAWS for cases in (8, 15, 40)]
    print(
        f"{machine()}; {count} repetitions, standard error {math.sqrt(0.05 * 0.95 / count):.1%}\n"
    )
    columns = (
        "scores",
        "cases",
        "coverage of a label",
        "of the overall mean",
        "called a difference",
    )
    print(table(columns, rows))


def row(name: str, cases: int, count: int) -> Sequence[object]:
    """Coverage for one distribution and number of cases, and false alarms between two sets without a difference."""
    draw, mean = DRAWS[name]
    label, overall, alarms = 0, 0, 0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        first, second = scores(draw, mean, rng, cases), scores(draw, mean, rng, cases)
        intervals = mean_intervals(first, seed)
        label += intervals[0].low <= mean <= intervals[0].high
        overall += intervals[-1].low <= mean <= intervals[-1].high
        alarms += compare(as_scores(first), as_scores(second), seed=seed).exceeds_noise
    shares = (f"{hits / count:.1%}" for hits in (label, overall, alarms))
    return (name, cases, *shares)


def scores(draw: Draw, mean: float, rng: np.random.Generator, cases: int) -> NDArray[Any]:
    """Scores (cases, LABELS) with this mean, half of whose deviation from it is that of the case."""
    own, shared = draw(rng, (cases, LABELS)), draw(rng, (cases, 1))
    return mean + (own - mean + shared - mean) / 2


def as_scores(values: NDArray[Any]) -> dict[str, dict[str, float]]:
    return {
        f"case {n}": {f"label {k}": float(score) for k, score in enumerate(case)}
        for n, case in enumerate(values)
    }


if __name__ == "__main__":
    main()
