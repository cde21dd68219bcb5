"""The figure of Dice against minutes, from points: plain SVG, no library.

A *point* is a dictionary with `contender`, `minutes` and `dice`, which holds the Dice of each label by name.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

NAMES = {"monaiseg": "monaiseg", "monai": "MONAI, DynUNet", "nnunet": "nnU-Net 2.8.1"}
COLOURS = {"monaiseg": "#0072b2", "monai": "#b86e00", "nnunet": "#007a5a"}
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 490, 20, 340
"""Edges of the field that the points lie in; names stand to the right of it."""
TICK = 0.02
LOWEST = 0.8
"""Points below stand on the lower edge with their number: the rest would be a line otherwise."""


class Axes:
    """Minutes on a logarithmic axis to the right, mean Dice upwards, to places in the picture."""

    def __init__(self, points: Sequence[Any]) -> None:
        self.minutes = sorted({point["minutes"] for point in points})
        scores = [mean_dice(point) for point in points]
        self.low = max(math.floor(min(scores) / TICK) * TICK, LOWEST)
        self.high = math.ceil(max(scores) / TICK) * TICK

    def x(self, minutes: float) -> float:
        span = math.log(self.minutes[-1] / self.minutes[0]) or 1.0
        return LEFT + 20 + (RIGHT - LEFT - 40) * math.log(minutes / self.minutes[0]) / span

    def y(self, score: float) -> float:
        height = (self.high - max(score, self.low)) / ((self.high - self.low) or TICK)
        return TOP + (BOTTOM - TOP) * height

    def drawn(self) -> list[str]:
        """Lines and numbers of the axes, and what they mean."""
        ticks = [self.low + TICK * n for n in range(round((self.high - self.low) / TICK) + 1)]
        middle, centre = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
        return [
            *(f'<path d="M{LEFT} {self.y(t):.1f}H{RIGHT}" stroke="#ddd"/>' for t in ticks),
            *(text(LEFT - 8, self.y(t) + 4, f"{t:.2f}", "end") for t in ticks),
            *(text(self.x(m), BOTTOM + 24, f"{m:g}", "middle") for m in self.minutes),
            text(middle, HEIGHT - 12, "minutes of training", "middle"),
            f'<g transform="translate(20 {centre}) rotate(-90)">'
            + text(0, 0, "mean Dice of the test cases", "middle")
            + "</g>",
        ]


def mean_dice(point: Any) -> float:
    """Mean over the labels."""
    return statistics.mean(point["dice"].values())


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def figure(points: Sequence[Any]) -> str:
    """SVG of every point, and for each contender a line through the medians over its seeds."""
    axes = Axes(points)
    contenders = dict.fromkeys(point["contender"] for point in points)
    curves = [
        part
        for name in contenders
        for part in curve(axes, name, [point for point in points if point["contender"] == name])
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    )
    return "\n".join([head, *axes.drawn(), *curves, "</svg>"]) + "\n"


def curve(axes: Axes, contender: str, points: Sequence[Any]) -> list[str]:
    """One contender's line, points and name."""
    colour = COLOURS[contender]
    by_minutes = {
        minutes: [mean_dice(point) for point in points if point["minutes"] == minutes]
        for minutes in sorted({point["minutes"] for point in points})
    }
    line = [(axes.x(m), axes.y(statistics.median(scores))) for m, scores in by_minutes.items()]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    places = [(axes.x(point["minutes"]), axes.y(mean_dice(point))) for point in points]
    return [
        f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places),
        text(
            line[-1][0] + 10, line[-1][1] - 6, NAMES[contender] + below(axes, points), colour=colour
        ),
    ]


def below(axes: Axes, points: Sequence[Any]) -> str:
    """The least score of points that are below the field, in words."""
    least = min(mean_dice(point) for point in points)
    return f": {least:.2f}, below" if least < axes.low else ""
