"""Outliers: which of many numbers do not belong to the others.

Scanners, protocols and patients differ, so most datasets vary. A rule with a fixed number of standard deviations calls
a few of every hundred cases outliers. The rule here asks for a gap: an outlier is further from its nearest neighbour
than the other cases are from each other.
"""

from __future__ import annotations

from collections.abc import Mapping

FEWEST = 8
"""With fewer cases nobody can say what is usual."""
MOST_SHARE = 0.1
"""If more cases than this are different, they are a group of their own."""


def far_out(values: Mapping[str, float], least: float) -> list[str]:
    """Names of the values that are separated from all others by a gap.

    Args:
        values: a number for each case.
        least: smallest gap that matters, even if all the others are equal.

    Returns:
        Names, those furthest from the others first. At most a tenth of the values on each side.

    >>> far_out({**{str(n): n / 10 for n in range(10)}, "other": 7.0}, least=1.0)
    ['other']
    >>> far_out({str(n): float(n) for n in range(10)}, least=1.0)
    []
    """
    if len(values) < FEWEST:
        return []
    return [*_above(values, least), *_above({n: -v for n, v in values.items()}, least)]


def _above(values: Mapping[str, float], least: float) -> list[str]:
    """Names of the values above the gap, the largest first."""
    names = sorted(values, key=lambda name: values[name])
    few = max(1, int(MOST_SHARE * len(names)))
    for count in range(few, 0, -1):
        rest, top = names[:-count], names[-count:]
        spread = values[rest[-1]] - values[rest[few - 1]]  # outliers on the other side do not count
        if values[top[0]] - values[rest[-1]] > max(spread, least):
            return top[::-1]
    return []
