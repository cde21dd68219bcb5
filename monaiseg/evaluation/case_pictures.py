"""Case pictures: three planes through a point, with label outlines, a legend and a scale bar.

They are drawn with matplotlib, as vector graphics or pixels, in the neurological convention: the patient's left is on
the left. `evaluate --pictures`, the report, the demo and TensorBoard use the same function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy has no types

from monaiseg.data import LabelTable, Spacing
from monaiseg.evaluation.case_volumes import Point, read_case, worst_point

PLANES = (
    ("sagittal", 1, 2, "PA", "IS"),
    ("coronal", 0, 2, "LR", "IS"),
    ("axial", 0, 1, "LR", "PA"),
)
"""Name, horizontal axis, vertical axis, and the letters at the two ends of each; axes are those of RAS."""
MOST_IN_LEGEND = 24
OTHER = (0.5, 0.5, 0.5)
"""Colour of label values that are not in the table."""
FEW_LABELS = 6
"""With at most this many labels, later label maps also show the outlines of the first one, in white."""


@dataclass(frozen=True)
class Look:
    """How a case is drawn."""

    fill: float = 0.35
    """Opacity of the area of a label; 0 draws outlines only."""
    outlines: bool = True
    """Whether labels have outlines."""
    label_maps: Literal["in rows", "in columns"] = "in rows"
    """Columns suit narrow screens: the planes are then below one another."""
    legend: bool = True
    dark: bool = False
    """White letters on black, as in viewers for radiologists."""
    panel_inches: float = 3.2
    """Length of the longest side of a plane."""

    @property
    def ink(self) -> str:
        """Colour of titles and names."""
        return "white" if self.dark else "black"


def draw_case(
    image: NDArray[Any],
    label_maps: Sequence[tuple[str, NDArray[Any]]],
    table: LabelTable,
    spacing: Spacing,
    point: Point | None = None,
    title: str = "",
    look: Look | None = None,
) -> Figure:
    """Draw three planes of a case with each of its label maps.

    Args:
        image: intensities (X, Y, Z) in RAS orientation.
        label_maps: name and label values (X, Y, Z) of each, such as reference and prediction.
        table: names and colours of the label values.
        spacing: voxel size in mm along X, Y, Z.
        point: voxel that the planes pass through. None takes the place where the first and last label maps differ
            most, see `worst_point`.
        title: title above the picture.
        look: how it is drawn. None: a row for each label map, filled and outlined, on white.

    Returns:
        A matplotlib figure; save it with `figure.savefig("case.png")` or `figure.savefig("case.svg")`.
    """
    look = look or Look()
    if point is None:
        point = worst_point(label_maps[0][1], label_maps[-1][1])
    shown = shown_values([label_map for _, label_map in label_maps], point)
    figure, panels = _panels(image.shape, spacing, len(label_maps), look, titled=bool(title))
    window = tuple(float(level) for level in np.percentile(image, [1, 99.5]))
    first = label_maps[0][1]
    for (name, label_map), row in zip(label_maps, panels, strict=True):
        for place, plane in zip(row, PLANES, strict=True):
            view = _View(place, plane, point, spacing)
            _draw_plane(view, image, label_map, table, window, look)
            if label_map is not first and len(shown) <= FEW_LABELS:
                _outline(view, first, dict.fromkeys(shown, "white"), "dotted")
        _name_label_map(row[0], name, look)
    for place, (title_of_plane, *_) in zip(panels[0], PLANES, strict=True):
        _name_plane(place, title_of_plane, look)
    _add_scale_bar(panels[-1][0], image.shape[1] * spacing[1])
    if look.legend:
        _add_legend(figure, shown, table, look)
    if title:
        figure.suptitle(title, fontsize=12, color=look.ink)
    return figure


def write_case_picture(
    output: str | Path,
    image: str | Path | None,
    reference: str | Path,
    prediction: str | Path,
    table: LabelTable,
    title: str = "",
) -> Path:
    """Draw a case from its files, which have the same voxels, and write it as PNG or SVG depending on `output`.

    Raises:
        DataError: a file cannot be read.
    """
    case = read_case(image, reference, prediction, table)
    rows = (("reference", case.reference), ("prediction", case.prediction))
    draw_case(case.image, rows, table, case.spacing, title=title).savefig(output, dpi=110)
    return Path(output)


def pixels_of(figure: Figure, dpi: int = 80) -> NDArray[np.uint8]:
    """A figure as an image (rows, columns, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # matplotlib's


def shown_values(label_maps: Sequence[NDArray[Any]], point: Point) -> list[int]:
    """Label values that occur in the three planes through a point.

    A few are in order of value, as people know them; more are in order of their voxels, the most first.
    """
    slices = [
        label_map.take(place, axis=axis).ravel()
        for label_map in label_maps
        for axis, place in enumerate(point)
    ]
    values, counts = np.unique(np.concatenate(slices), return_counts=True)
    if len(values) > FEW_LABELS + 1:
        values = values[np.argsort(-counts, kind="stable")]
    return [int(value) for value in values if value != 0]


@dataclass(frozen=True)
class _View:
    """One plane of a case and the axes that it is drawn in."""

    axes: Axes
    plane: tuple[str, int, int, str, str]
    point: Point
    spacing: Spacing

    def cut(self, volume: NDArray[Any]) -> NDArray[Any]:
        """The slice (rows, columns) of a volume, rows from bottom to top."""
        through = 3 - self.plane[1] - self.plane[2]
        cut: NDArray[Any] = volume.take(self.point[through], axis=through)
        return cut.T

    @property
    def voxel_mm(self) -> tuple[float, float]:
        """Voxel size to the right and upward."""
        return self.spacing[self.plane[1]], self.spacing[self.plane[2]]


def _panels(
    shape: tuple[int, ...], spacing: Spacing, count: int, look: Look, *, titled: bool
) -> tuple[Figure, list[list[Axes]]]:
    """A figure, and the axes of the three planes for each label map."""
    widths = [shape[right] * spacing[right] for _, right, *_ in PLANES]
    heights = [shape[up] * spacing[up] for _, _, up, *_ in PLANES]
    scale = look.panel_inches / max(*widths, *heights)
    above = 0.25 + 0.35 * titled
    in_rows = look.label_maps == "in rows"
    if in_rows:
        size = (sum(widths) * scale + 0.4, (max(heights) * scale + 0.1) * count + above)
    else:
        size = (max(widths) * scale * count + 0.4, sum(heights) * scale + 0.3 + above)
    figure = Figure(
        figsize=(size[0] + 2.8 * look.legend, size[1]),
        layout="constrained",
        facecolor="black" if look.dark else "white",
    )
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0.01, hspace=0.01)  # type: ignore[union-attr, call-arg]
    if in_rows:
        grid = figure.subplots(count, len(PLANES), squeeze=False, width_ratios=widths)
    else:
        grid = figure.subplots(len(PLANES), count, squeeze=False, height_ratios=heights).T
    return figure, [list(row) for row in grid]


def _name_label_map(place: Axes, name: str, look: Look) -> None:
    if look.label_maps == "in rows":
        place.set_ylabel(name, fontsize=11, color=look.ink)
    else:
        place.set_title(name, fontsize=11, color=look.ink)


def _name_plane(place: Axes, name: str, look: Look) -> None:
    if look.label_maps == "in rows":
        place.set_title(name, fontsize=10, color=look.ink)
    else:
        place.set_ylabel(name, fontsize=10, color=look.ink)


def _draw_plane(
    view: _View,
    image: NDArray[Any],
    label_map: NDArray[Any],
    table: LabelTable,
    window: tuple[float, ...],
    look: Look,
) -> None:
    gray, labels = view.cut(image), view.cut(label_map)
    right_mm, up_mm = view.voxel_mm
    extent = (0.0, gray.shape[1] * right_mm, 0.0, gray.shape[0] * up_mm)
    low, high = window[0], max(window[1], window[0] + 1e-6)
    view.axes.imshow(gray, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
    known = {label.value: tuple(level / 255 for level in label.color) for label in table.labels}
    colors = {int(value): known.get(int(value), OTHER) for value in np.unique(labels) if value}
    fill = np.zeros((*labels.shape, 4))
    for value, color in colors.items():
        fill[labels == value] = [*color, look.fill]
    view.axes.imshow(fill, origin="lower", extent=extent, interpolation="nearest")
    if look.outlines:
        _outline(view, label_map, colors, "solid")
    view.axes.set_anchor("N")
    view.axes.set_xticks([])
    view.axes.set_yticks([])
    for spine in view.axes.spines.values():
        spine.set_visible(False)
    _add_letters(view)


def _add_letters(view: _View) -> None:
    """Add the letters of the directions at the four edges."""
    _, _, _, across, upward = view.plane
    style: dict[str, Any] = {"color": "white", "fontsize": 8, "transform": view.axes.transAxes}
    style["path_effects"] = [withStroke(linewidth=2, foreground="black")]
    view.axes.text(0.02, 0.5, across[0], va="center", ha="left", **style)
    view.axes.text(0.98, 0.5, across[1], va="center", ha="right", **style)
    view.axes.text(0.5, 0.98, upward[1], va="top", ha="center", **style)
    view.axes.text(0.5, 0.02, upward[0], va="bottom", ha="center", **style)


def _outline(view: _View, label_map: NDArray[Any], colors: Mapping[int, Any], style: str) -> None:
    """Draw the outlines of labels, all in one collection: `Axes.contour` for each of 60 labels would take seconds."""
    lines, line_colors = [], []
    labels = view.cut(label_map)
    for value, color in colors.items():
        found = _lines_around(labels == value, view.voxel_mm)
        lines += found
        line_colors += [color] * len(found)
    view.axes.add_collection(
        LineCollection(lines, colors=line_colors, linewidths=1.0, linestyles=style), autolim=False
    )


def _lines_around(inside: NDArray[np.bool_], voxel_mm: tuple[float, float]) -> list[NDArray[Any]]:
    """Closed lines, (points, 2) in mm, half-way between the voxels of a mask (rows, columns) and those outside."""
    (box,) = ndimage.find_objects(inside.astype(np.int8)) or (None,)
    if box is None:
        return []
    rows, columns = box
    part = np.pad(inside[box], 1).astype(float)
    right_mm, up_mm = voxel_mm
    across = (np.arange(columns.start - 1, columns.stop + 1) + 0.5) * right_mm
    upward = (np.arange(rows.start - 1, rows.stop + 1) + 0.5) * up_mm
    lines: Any = contour_generator(across, upward, part).lines(0.5)
    return list(lines)


def _add_scale_bar(place: Axes, width_mm: float) -> None:
    """Add a white bar with a round length of about a quarter of the panel."""
    wanted = width_mm / 4
    decade = 10 ** math.floor(math.log10(wanted))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= wanted)
    left, bottom = 0.06 * width_mm, 0.06 * width_mm
    edge = [withStroke(linewidth=2, foreground="black")]
    place.plot([left, left + length], [bottom, bottom], color="white", linewidth=2)
    words = f"{length:g} mm"
    place.text(left, bottom * 1.3, words, color="white", fontsize=8, va="bottom", path_effects=edge)


def _add_legend(figure: Figure, values: Sequence[int], table: LabelTable, look: Look) -> None:
    labels = {label.value: label for label in table.labels}
    entries = []
    for value in values[:MOST_IN_LEGEND]:
        label = labels.get(value)
        red, green, blue = OTHER if label is None else (level / 255 for level in label.color)
        name = f"label {value}" if label is None else label.name
        entries.append(Patch(color=(red, green, blue), label=name))
    if rest := len(values) - MOST_IN_LEGEND:
        entries += [Patch(alpha=0, label=f"and {rest} more")] if rest > 0 else []
    if entries:
        figure.legend(
            handles=entries,
            loc="outside right upper",
            fontsize=8,
            frameon=False,
            labelcolor=look.ink,
        )
