"""Strip plots: the score of one structure in each case, small enough for a cell of a table.

A cell is some thirty numbers, so it is written as SVG by hand: a figure of a plotting library for each of 144 rows would
take seconds and hundreds of kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 120, 20
MARGIN = 4
MOST_POINTS = 60
"""With more cases, only those outside the middle 90 % are points."""


def lowest_shown(values: Sequence[float]) -> float:
    """The left end of the scale of all strips: 0, 0.5 or 0.8, whichever shows every value.

    >>> lowest_shown([0.83, 0.97]), lowest_shown([0.0, 0.97])
    (0.8, 0.0)
    """
    least = min((value for value in values if not math.isnan(value)), default=0.0)
    return max(end for end in (0.0, 0.5, 0.8) if end <= least)


def strip(values: Sequence[float], low: float) -> Markup:
    """Points of a score between `low` and 1, over a box from the first to the third quartile with the median."""
    defined = sorted(value for value in values if not math.isnan(value))
    if not defined:
        return Markup("")
    quarters = np.percentile(defined, [25, 50, 75]).tolist()
    left, middle, right = (_x(value, low) for value in quarters)
    shown = defined
    if len(defined) > MOST_POINTS:
        fifth, last = np.percentile(defined, [5, 95])
        shown = [value for value in defined if not fifth <= value <= last]
    parts = [
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">',
        f'<path class="scale" d="M{MARGIN} {HEIGHT / 2:g}H{WIDTH - MARGIN}"/>',
        f'<rect class="box" x="{left:.1f}" y="4" width="{max(right - left, 1):.1f}" height="{HEIGHT - 8}" rx="2"/>',
        *(f'<circle cx="{_x(value, low):.1f}" cy="{HEIGHT // 2}" r="2"/>' for value in shown),
        f'<path class="median" d="M{middle:.1f} 2V{HEIGHT - 2}"/></svg>',
    ]
    return Markup("".join(parts))  # noqa: S704 - numbers only


def _x(value: float, low: float) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * (max(value, low) - low) / (1 - low)
