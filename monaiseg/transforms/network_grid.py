"""The network grid: shape and voxel size of a scan after the load chain."""

from __future__ import annotations

from monaiseg.data import MULTIPLE, Grid, Shape, Spacing, padded_shape, padded_up, resampled_shape
from monaiseg.settings import Settings


def target_shape(grid: Grid, settings: Settings) -> Shape:
    """Shape on the network grid, along X, Y, Z, of an image whose file has `grid`."""
    return padded_up(sampled_shape(grid, settings), settings.patch_shape)


def sampled_spacing(grid: Grid, settings: Settings) -> Spacing:
    """Voxel size in mm on the network grid, along X, Y, Z, of an image whose file has `grid`."""
    shape, spacing = grid.along_ras
    if settings.image_shape is None:
        return settings.spacing_mm or spacing
    sampled = sampled_shape(grid, settings)
    x, y, z = (n * size / m for n, size, m in zip(shape, spacing, sampled, strict=True))
    return x, y, z


def sampled_shape(grid: Grid, settings: Settings) -> Shape:
    """Shape of an image after resampling and resizing, before padding."""
    if settings.image_shape is not None:
        return padded_shape(settings.image_shape, MULTIPLE)
    return resampled_shape(*grid.along_ras, settings.spacing_mm)


def resize_note(settings: Settings) -> str | None:
    """How an `img_after_resize` that is not a multiple of 16 is changed; None if it is not changed."""
    given = settings.dataset.img_after_resize
    if settings.image_shape is None or given == (rounded := padded_shape(given, MULTIPLE)):
        return None
    return (
        f"dataset.img_after_resize: {list(given)} is rounded up to {list(rounded)} (x, y, z), multiples of "
        f"{MULTIPLE[0]}; images are resampled to that"
    )
