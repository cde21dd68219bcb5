"""Pictures: a slice of an image with its label maps, for viewing and for TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monaiseg.data import LabelTable

OPACITY = 0.5
"""Opacity of label colours over the image."""
GAP = 4
"""Pixels between panels."""
UNLABELLED = (128, 128, 128)
"""Colour of unlabelled voxels."""


def slice_picture(
    image: NDArray[Any], label_maps: list[NDArray[Any]], table: LabelTable
) -> NDArray[np.uint8]:
    """An axial slice alone, then overlaid with each label map in the colours of the table, side by side.

    Args:
        image: (X, Y, Z) in RAS orientation.
        label_maps: class indices, each (X, Y, Z).
        table: colours of the classes.

    Returns:
        (rows, columns, 3), with anterior at the top and the patient's left on the left. The slice is the one with the
        most foreground in the first label map.
    """
    foreground = (label_maps[0] > 0).sum(axis=(0, 1))
    z = int(foreground.argmax())
    low, high = np.percentile(image[..., z], [1, 99])
    gray = np.clip((image[..., z] - low) / max(high - low, 1e-6), 0, 1) * 255
    plain = np.repeat(gray[..., None], 3, axis=-1)
    colors = np.array([*(label.color for label in table.labels), UNLABELLED], dtype=float)
    panels = [plain]
    for label_map in label_maps:
        classes = label_map[..., z].astype(np.int64)
        tinted = (1 - OPACITY) * plain + OPACITY * colors[classes]
        panels.append(np.where(classes[..., None] > 0, tinted, plain))
    upright = [np.rot90(panel).astype(np.uint8) for panel in panels]
    gap = np.full((upright[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    spaced = [part for panel in upright for part in (panel, gap)]
    return np.concatenate(spaced[:-1], axis=1)
