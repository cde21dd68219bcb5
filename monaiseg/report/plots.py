"""Plots: learning curves and volume agreement as SVG.

They are drawn with matplotlib, which the pictures of cases need anyway. Its SVG is text: small, sharp at any size, and
without a script. plotly and Vega-Lite would add 1 to 4 MB of JavaScript to each page for a few curves that nobody has to
zoom. Colours are written as CSS variables of the page, so the plots follow its light or dark theme; letters stay text,
so they can be searched and read aloud.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monaiseg.data import LabelTable
from monaiseg.report.agreement import Agreement

INK, FAINT, ACCENT, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand-ins for colours of the page, unlikely to be those of a label."""
_VARIABLES = {INK: "--ink", FAINT: "--line", ACCENT: "--accent", SECOND: "--second"}
SIZE = (4.6, 3.0)
"""Inches; a phone shows one plot a row at its full size."""
FEW_STRUCTURES = 6
"""With at most this many structures, each has its own plot of volumes."""
MOST_LINES = 12
"""With more labels, the curves of the labels are a band."""


def learning_curves(history: Sequence[Mapping[str, float]], table: LabelTable) -> list[Markup]:
    """Loss and validation Dice against the epoch, from the rows of `history.csv`; empty without rows."""
    if not history:
        return []
    epochs = [row["epoch"] for row in history]
    figure, axes = _figure("epoch", "training loss")
    axes.plot(epochs, [row.get("loss", math.nan) for row in history], color=ACCENT, linewidth=1.6)
    plots = [_svg(figure, "Training loss against the epoch", "loss")]
    validated = [row for row in history if "dice/mean" in row]
    if validated:
        plots.append(_dice_curves(validated, table))
    return plots


def _dice_curves(rows: Sequence[Mapping[str, float]], table: LabelTable) -> Markup:
    figure, axes = _figure("epoch", "validation Dice")
    epochs = [row["epoch"] for row in rows]
    labels = [
        label for label in table.foreground if any(f"dice/{label.name}" in row for row in rows)
    ]
    curves = np.array(
        [[row.get(f"dice/{label.name}", math.nan) for label in labels] for row in rows], dtype=float
    )
    if 0 < len(labels) <= MOST_LINES:
        for label, curve in zip(labels, curves.T, strict=True):
            axes.plot(epochs, curve, color=_hex(label.color), linewidth=1.2, label=label.name)
    elif labels:
        low, high = (np.nanpercentile(curves, level, axis=1) for level in (10, 90))
        axes.fill_between(epochs, low, high, color=FAINT, label="10 to 90 % of the labels")
        axes.plot(
            epochs, np.nanmin(curves, axis=1), color=SECOND, linewidth=1, label="lowest label"
        )
    means = [row["dice/mean"] for row in rows]
    axes.plot(epochs, means, color=INK, linewidth=2, label="mean", marker="o", markersize=3)
    best = int(np.nanargmax(means)) if not all(map(math.isnan, means)) else 0
    axes.annotate(
        f"{means[best]:.3f}", (epochs[best], means[best]), color=INK, fontsize=8,
        xytext=(0, 6), textcoords="offset points", ha="center",
    )  # fmt: skip
    _add_legend(axes)
    return _svg(figure, f"Validation Dice against the epoch; best mean {means[best]:.3f}", "dice")


def volume_plots(found: Mapping[str, Agreement], table: LabelTable) -> list[Markup]:
    """Bland-Altman plots: one per structure for few structures, otherwise one for all, in percent."""
    colors = {label.name: _hex(label.color) for label in table.labels}
    if len(found) <= FEW_STRUCTURES:
        return [
            _one_structure(number, agreement, colors.get(name, ACCENT))
            for number, (name, agreement) in enumerate(found.items())
        ]
    return list(_all_structures(found, colors))


def _one_structure(number: int, agreement: Agreement, color: str) -> Markup:
    figure, axes = _figure("mean of both volumes (ml)", "prediction minus reference (ml)")
    axes.scatter(
        agreement.mean_ml, agreement.difference_ml, s=22, color=color, alpha=0.8, linewidths=0.4, edgecolors=INK
    )  # fmt: skip
    axes.axhline(0, color=FAINT, linewidth=1)
    low, high = agreement.limits_ml
    for place, style in ((agreement.bias_ml, "solid"), (low, "dashed"), (high, "dashed")):
        if math.isfinite(place):
            axes.axhline(place, color=INK, linewidth=1, linestyle=style)
            axes.annotate(
                f"{place:+.3g}", (1, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
                textcoords="offset points", fontsize=8, color=INK, va="center",
            )  # fmt: skip
    axes.set_title(agreement.name, fontsize=10, color=INK)
    words = f"Volume agreement of {agreement.name}: bias {agreement.bias_ml:+.3g} ml"
    return _svg(figure, words, f"volume {number}")


def _all_structures(found: Mapping[str, Agreement], colors: Mapping[str, str]) -> Iterator[Markup]:
    """The bias of each structure against its volume, in percent of it, with the structures furthest from 0 named."""
    figure, axes = _figure("mean volume of the structure (ml)", "bias, % of the volume")
    volumes = {name: float(one.mean_ml.mean()) for name, one in found.items()}
    shares = {name: 100 * one.bias_ml / volumes[name] for name, one in found.items()}
    axes.scatter(
        list(volumes.values()), list(shares.values()), s=24, alpha=0.85, linewidths=0.4, edgecolors=INK,
        color=[colors.get(name, ACCENT) for name in found],
    )  # fmt: skip
    axes.set_xscale("log")
    axes.axhline(0, color=INK, linewidth=1)
    for name in sorted(shares, key=lambda name: -abs(shares[name]))[:4]:
        right = volumes[name] > float(np.median(list(volumes.values())))
        axes.annotate(
            name, (volumes[name], shares[name]), fontsize=7.5, color=INK, textcoords="offset points",
            xytext=(-5 if right else 5, 3), ha="right" if right else "left",
        )  # fmt: skip
    yield _svg(figure, "Bias of the volume of each structure against its volume", "volumes")
    figure, axes = _figure("mean of both volumes (ml)", "prediction minus reference, %")
    means = np.concatenate([one.mean_ml for one in found.values()])
    differences = np.concatenate([one.difference_ml for one in found.values()])
    points = [colors.get(one.name, ACCENT) for one in found.values() for _ in one.cases]
    axes.scatter(
        means,
        100 * differences / means,
        s=7,
        color=points,
        alpha=0.5,
        linewidths=0,
        rasterized=True,
    )
    axes.set_xscale("log")
    axes.axhline(0, color=INK, linewidth=1)
    yield _svg(figure, "Relative volume difference of each structure in each case", "pairs")


def _figure(across: str, upward: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(upward, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    axes.grid(visible=True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(FAINT)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _add_legend(axes: Axes) -> None:
    axes.legend(fontsize=7.5, frameon=False, labelcolor=INK, loc="lower right")


def _svg(figure: Figure, words: str, salt: str) -> Markup:
    """A figure as an `<svg>` element that the page can hold beside others, with `words` for those who cannot see it.

    `salt` makes the names of its markers different from those of other figures.
    """
    text = io.StringIO()
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: [^;\"]*?([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for color, name in _VARIABLES.items():
        svg = svg.replace(color, f"var({name})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1))  # noqa: S704 - matplotlib escapes its text


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
