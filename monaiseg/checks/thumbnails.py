"""Thumbnails: three planes through a place in a case, small enough for a page with many of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from monaiseg.checks.findings import Voxel
from monaiseg.data import Case, Grid, LabelTable, read_label_map, read_volume
from monaiseg.errors import DataError

HEIGHT = 200
"""Pixels of the longest side in mm."""
OPACITY = 0.4
DARK = 13
"""Gray levels up to this are the surroundings, which are cropped."""
MARGIN = 2
OTHER = (255, 80, 80)
"""Colour of label values that the table does not have."""
_PLANES = ((1, 2, "", ""), (0, 2, "L", "R"), (0, 1, "L", "R"))
"""Horizontal and vertical axis of each plane in RAS, and the letters at its sides."""
GAP = 4


def thumbnail(case: Case, table: LabelTable, voxel: Voxel | None = None) -> bytes | None:
    """A PNG with the sagittal, coronal and axial plane through a voxel; None if the image cannot be read.

    The patient's left is on the left. The place is marked by a cross.

    Args:
        case: the case; its first channel is shown, and its label map if it fits the image.
        table: colours of the label values.
        voxel: the place, in the axes of the image file. None: the middle of the labels, or of the image.
    """
    try:
        image, header = read_volume(case.images[0])
    except DataError:
        return None
    image = image if image.ndim == 3 else image[..., 0]
    label = _label_map(case, header.grid)
    to_ras = nib.orientations.io_orientation(header.grid.array)
    place = _place(label, image.shape) if voxel is None else voxel
    marked = _turned_place(place, image.shape, to_ras)
    image, label = (nib.orientations.apply_orientation(volume, to_ras) for volume in (image, label))
    _, spacing = header.grid.along_ras
    low, high = np.percentile(image, [1, 99.5])
    gray = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * 255
    part = _content(gray, label, marked)
    gray, label = gray[part], label[part]
    x, y, z = (index - side.start for index, side in zip(marked, part, strict=True))
    colors = {known.value: known.color for known in table.foreground}
    scale = HEIGHT / max(size * step for size, step in zip(gray.shape, spacing, strict=True))
    panels = [
        _panel(gray, label, plane, (x, y, z), [scale * step for step in spacing], colors)
        for plane in _PLANES
    ]
    return _png(panels)


def _label_map(case: Case, grid: Grid) -> NDArray[Any]:
    """The label map of a case on the image's grid; zeros if it cannot be read or lies elsewhere."""
    if case.label is not None:
        try:
            label, header = read_label_map(case.label, like=grid)
        except DataError:
            return np.zeros(grid.shape, np.uint8)
        if header.grid.difference(grid) is None:
            return label
    return np.zeros(grid.shape, np.uint8)


def _place(label: NDArray[Any], shape: tuple[int, ...]) -> Voxel:
    """A labelled voxel in the slice with the most labels, near their middle; the middle of the image without labels."""
    areas = (label > 0).sum(axis=(0, 1))
    if not areas.any():
        x, y, z = (size // 2 for size in shape)
        return x, y, z
    best = int(areas.argmax())
    places = np.argwhere(label[..., best] > 0)
    x, y = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()].tolist()
    return x, y, best


def _turned_place(place: Voxel, shape: tuple[int, ...], to_ras: NDArray[Any]) -> Voxel:
    """A voxel in the axes of RAS."""
    turned = [0, 0, 0]
    for axis, (world, sign) in enumerate(to_ras):
        turned[int(world)] = place[axis] if sign > 0 else shape[axis] - 1 - place[axis]
    x, y, z = turned
    return x, y, z


def _content(gray: NDArray[Any], label: NDArray[Any], marked: Voxel) -> tuple[slice, slice, slice]:
    """The part of the volume that holds more than dark surroundings, with the marked voxel in it."""
    seen = (gray > DARK) | (label > 0)
    sides = []
    for axis, index in enumerate(marked):
        others = tuple({0, 1, 2} - {axis})
        filled = np.flatnonzero(seen.any(axis=others))
        first, last = min([index, *filled[:1]]), max([index, *filled[-1:]])
        sides.append(slice(max(int(first) - MARGIN, 0), int(last) + 1 + MARGIN))
    x, y, z = sides
    return x, y, z


def _panel(
    gray: NDArray[Any],
    label: NDArray[Any],
    plane: tuple[int, int, str, str],
    marked: Voxel,
    pixels: list[float],
    colors: Mapping[int, tuple[int, int, int]],
) -> Image.Image:
    """One plane as an image, with labels, letters and cross; `pixels` is the size of a voxel along X, Y, Z."""
    right, up, left_letter, right_letter = plane
    through = 3 - right - up
    slice_, labels = (
        volume.take(marked[through], axis=through).T[::-1] for volume in (gray, label)
    )
    rgb = np.repeat(slice_[..., None], 3, axis=-1)
    for value in np.unique(labels[labels > 0]).tolist():
        inside = labels == value
        rgb[inside] = (1 - OPACITY) * rgb[inside] + OPACITY * np.array(colors.get(value, OTHER))
    size = [max(round(gray.shape[axis] * pixels[axis]), 1) for axis in (right, up)]
    panel = Image.fromarray(rgb.astype(np.uint8)).resize(
        (size[0], size[1]), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(panel)
    x = (marked[right] + 0.5) * pixels[right]
    y = size[1] - (marked[up] + 0.5) * pixels[up]
    for dx, dy in (
        (1, 0),
        (-1, 0),
        (0, 1),
        (0, -1),
    ):  # open in the middle, so that nothing is covered
        draw.line((x + 4 * dx, y + 4 * dy, x + 10 * dx, y + 10 * dy), fill=(255, 255, 255))
    draw.text((2, 0), left_letter, fill=(255, 255, 255))
    draw.text((size[0] - 8, 0), right_letter, fill=(255, 255, 255))
    return panel


def _png(panels: list[Image.Image]) -> bytes:
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    picture = Image.new("RGB", (width, max(panel.height for panel in panels)))
    left = 0
    for panel in panels:
        picture.paste(panel, (left, picture.height - panel.height))
        left += panel.width + GAP
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
