"""Case pictures: three planes through a point, with label outlines, a legend and a scale bar.

They are drawn with matplotlib, as vector graphics or pixels, in the neurological convention: the patient's left is on
the left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]  # SciPy has no types

from monaiseg.data import LabelTable, Spacing, read_label_map, read_volume

Point = tuple[int, int, int]

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
"""With at most this many labels, later rows also show the outlines of the first row, in white."""
FILL = 0.35
"""Opacity of the area of a label."""
PANEL_INCHES = 3.2


def draw_case(
    image: NDArray[Any],
    label_maps: Sequence[tuple[str, NDArray[Any]]],
    table: LabelTable,
    spacing: Spacing,
    point: Point | None = None,
    title: str = "",
) -> Figure:
    """Draw three planes of a case with each of its label maps, one row per label map.

    Args:
        image: intensities (X, Y, Z) in RAS orientation.
        label_maps: name and label values (X, Y, Z) of each row, such as reference and prediction.
        table: names and colours of the label values.
        spacing: voxel size in mm along X, Y, Z.
        point: voxel that the planes pass through. None takes the place where the first and last label maps differ
            most, see `worst_point`.
        title: title above the picture.

    Returns:
        A matplotlib figure; save it with `figure.savefig("case.png")` or `figure.savefig("case.svg")`.
    """
    if point is None:
        point = worst_point(label_maps[0][1], label_maps[-1][1])
    shown = _shown_values(label_maps, point)
    widths = [image.shape[right] * spacing[right] for _, right, *_ in PLANES]
    heights = [image.shape[up] * spacing[up] for _, _, up, *_ in PLANES]
    scale = PANEL_INCHES / max(*widths, *heights)
    rows = len(label_maps)
    figure = Figure(
        figsize=(sum(widths) * scale + 3.2, (max(heights) * scale + 0.35) * rows + 0.6),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(PLANES), squeeze=False, width_ratios=widths)
    window = tuple(float(level) for level in np.percentile(image, [1, 99.5]))
    first = label_maps[0][1]
    for row, (name, label_map) in zip(axes, label_maps, strict=True):
        for place, plane in zip(row, PLANES, strict=True):
            _draw_plane(place, image, label_map, table, spacing, point, plane, window)
            if label_map is not first and len(shown) <= FEW_LABELS:
                _outline(
                    place, first, spacing, point, plane, dict.fromkeys(shown, "white"), "dotted"
                )
        row[0].set_ylabel(name, fontsize=11)
    for place, (title_of_plane, *_) in zip(axes[0], PLANES, strict=True):
        place.set_title(title_of_plane, fontsize=10)
    _add_scale_bar(axes[-1][0], image.shape[1] * spacing[1])
    _add_legend(figure, shown, table)
    figure.suptitle(title, fontsize=12)
    return figure


def write_case_picture(
    output: str | Path,
    image: str | Path,
    reference: str | Path,
    prediction: str | Path,
    table: LabelTable,
    title: str = "",
) -> Path:
    """Draw a case from its files, which have one grid, and write it as PNG or SVG depending on the name of `output`.

    Raises:
        DataError: a file cannot be read.
    """
    voxels, header = read_volume(image)
    volumes = [voxels if voxels.ndim == 3 else voxels[..., 0]]
    volumes += [read_label_map(path)[0] for path in (reference, prediction)]
    to_ras = nib.orientations.io_orientation(header.grid.array)
    scan, first, second = (nib.orientations.apply_orientation(v, to_ras) for v in volumes)
    first, second = (np.where(np.isin(v, table.values), v, 0) for v in (first, second))
    _, spacing = header.grid.along_ras
    rows = (("reference", first), ("prediction", second))
    draw_case(scan, rows, table, spacing, title=title).savefig(output, dpi=110)
    return Path(output)


def pixels_of(figure: Figure, dpi: int = 80) -> NDArray[np.uint8]:
    """A figure as an image (rows, columns, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib's
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]  # matplotlib's


def worst_point(reference: NDArray[Any], prediction: NDArray[Any]) -> Point:
    """Voxel (x, y, z) deepest inside the largest error, or the middle of the foreground if there is no error."""
    wrong = reference != prediction
    if wrong.any():
        depth = ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1, 1:-1]
        deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    else:
        places: NDArray[Any] = np.argwhere(reference > 0)
        middle = places.mean(axis=0) if places.size else (np.array(reference.shape) - 1) / 2
        places = places if places.size else middle[None]
        deepest = tuple(places[int(((places - middle) ** 2).sum(axis=1).argmin())])
    x, y, z = (int(place) for place in deepest)
    return x, y, z


def _shown_values(label_maps: Sequence[tuple[str, NDArray[Any]]], point: Point) -> list[int]:
    """Label values that occur in the planes, those with the most voxels first."""
    slices = [
        label_map.take(place, axis=axis)
        for _, label_map in label_maps
        for axis, place in enumerate(point)
    ]
    values, counts = np.unique(
        np.concatenate([part.ravel() for part in slices]), return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return [int(value) for value in values[order] if value != 0]


def _draw_plane(
    place: Axes,
    image: NDArray[Any],
    label_map: NDArray[Any],
    table: LabelTable,
    spacing: Spacing,
    point: Point,
    plane: tuple[str, int, int, str, str],
    window: tuple[float, ...],
) -> None:
    _, right, up, letters_right, letters_up = plane
    through = 3 - right - up
    gray, labels = (volume.take(point[through], axis=through).T for volume in (image, label_map))
    extent = (0.0, gray.shape[1] * spacing[right], 0.0, gray.shape[0] * spacing[up])
    low, high = window[0], max(window[1], window[0] + 1e-6)
    place.imshow(gray, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent)
    known = {label.value: tuple(level / 255 for level in label.color) for label in table.labels}
    colors = {int(value): known.get(int(value), OTHER) for value in np.unique(labels) if value}
    fill = np.zeros((*labels.shape, 4))
    for value, color in colors.items():
        fill[labels == value] = [*color, FILL]
    place.imshow(fill, origin="lower", extent=extent, interpolation="nearest")
    _outline(place, label_map, spacing, point, plane, colors, "solid")
    place.set_xticks([])
    place.set_yticks([])
    style: dict[str, Any] = {"color": "white", "fontsize": 8, "transform": place.transAxes}
    style["path_effects"] = [withStroke(linewidth=2, foreground="black")]
    place.text(0.02, 0.5, letters_right[0], va="center", ha="left", **style)
    place.text(0.98, 0.5, letters_right[1], va="center", ha="right", **style)
    place.text(0.5, 0.98, letters_up[1], va="top", ha="center", **style)
    place.text(0.5, 0.02, letters_up[0], va="bottom", ha="center", **style)


def _outline(
    place: Axes,
    label_map: NDArray[Any],
    spacing: Spacing,
    point: Point,
    plane: tuple[str, int, int, str, str],
    colors: Mapping[int, Any],
    style: str,
) -> None:
    _, right, up, *_ = plane
    through = 3 - right - up
    labels = label_map.take(point[through], axis=through).T
    if min(labels.shape) < 2:
        return
    across = (np.arange(labels.shape[1]) + 0.5) * spacing[right]
    upward = (np.arange(labels.shape[0]) + 0.5) * spacing[up]
    for value, color in colors.items():
        inside = labels == value
        if inside.any() and not inside.all():
            place.contour(
                across,
                upward,
                inside,
                levels=[0.5],
                colors=[color],
                linewidths=1.0,
                linestyles=style,
            )


def _add_scale_bar(place: Axes, width_mm: float) -> None:
    """Add a white bar with a round length of about a quarter of the panel."""
    wanted = width_mm / 4
    decade = 10 ** math.floor(math.log10(wanted))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= wanted)
    left, bottom = 0.06 * width_mm, 0.06 * width_mm
    place.plot([left, left + length], [bottom, bottom], color="white", linewidth=2)
    words = f"{length:g} mm"
    place.text(left, bottom * 1.3, words, color="white", fontsize=8, va="bottom", ha="left")


def _add_legend(figure: Figure, values: Sequence[int], table: LabelTable) -> None:
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
        figure.legend(handles=entries, loc="outside right upper", fontsize=8, frameon=False)
