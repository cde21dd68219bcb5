"""Cached items, patches and settings for the tests of transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_obj import set_track_meta

from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.data.volumes import write_image, write_label_map
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    training_chain,
)
from monaiseg.transforms.crop import FindCentresd

TABLE = LabelTable.from_values([1, 2])


FLOOR = -1.0


def settings_of(patch=(16, 16, 16), seg: Any = None, **dataset: Any) -> Settings:
    """Settings with spatial lists along X, Y, Z and no augmentation."""
    seg = {"patch_size": list(patch), "augmentation": {"enabled": False}, **(seg or {})}
    return settings_from_dict({"dataset": {"axis_order": "xyz", "seg": seg, **dataset}})


def written(folder: Path, image, label=None, grid: Grid | None = None, name="case") -> Case:
    """A case of these arrays on disk."""
    grid = grid or phantom_grid(image.shape[:3])
    folder.mkdir(exist_ok=True)
    write_image(folder / f"{name}.nii", image, grid)
    if label is None:
        return Case(name, (folder / f"{name}.nii",))
    write_label_map(folder / f"{name}_label.nii", label, grid)
    return Case(name, (folder / f"{name}.nii",), folder / f"{name}_label.nii")


def blob_on(grid: Grid, share: float = 0.3, shift_mm=(0.0, 0.0, 0.0)):
    """A ball around a point of the world beside the grid's middle, label 1: image and label map."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world = index @ grid.array[:3, :3].T + grid.array[:3, 3]
    middle = grid.array[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.array[:3, 3]
    reach = share * min(n * mm for n, mm in zip(grid.shape, grid.spacing, strict=True))
    distance = np.linalg.norm(world - middle - np.array(shift_mm), axis=-1)
    label = (distance <= reach).astype(np.uint8)
    return (100 * np.exp(-((distance / reach) ** 2))).astype(np.float32), label


def centroid_mm(label, affine):
    return np.argwhere(label).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]


def dice(a, b) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def cached(image, label=None, spacing=(1.0, 1.0, 1.0), num_groups=None) -> dict[str, Any]:
    """A cached item of arrays (X, Y, Z)."""
    image = torch.as_tensor(np.asarray(image, np.float32))[None]
    label = torch.as_tensor(np.zeros(image.shape[1:]) if label is None else label)[None]
    item = {
        "image": image,
        "label": label.to(torch.uint8),
        "affine": torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)),
        "floor": torch.tensor([FLOOR]),
        "case_id": "case",
    }
    return item if num_groups is None else FindCentresd(num_groups)(item)


def patches(item, chosen: Settings, count: int, table: LabelTable = TABLE):
    chain = CaseChain(training_chain(chosen, table))
    for seed in range(count):
        chain.set_random_state(seed=seed)
        yield patch_of(chain, item)


def patch_of(chain, item) -> dict[str, Any]:
    """What a chain of plain tensors makes of an item, out of the list that MONAI's crops put it in."""
    set_track_meta(False)
    try:
        made = chain(item)
    finally:
        set_track_meta(True)
    return made[0] if isinstance(made, list) else made


def position_image(shape=(40, 44, 48)):
    """An image whose voxels hold x + 100 y + 10000 z, so that a patch shows where it was cut."""
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return x + 100.0 * y + 10_000.0 * z


QUIET = ("noise", "smoothing", "bias_field", "contrast", "gamma")


PAIRS = LabelTable.from_values([1, 2, 3], {1: "left eye", 2: "right eye", 3: "nose"})


EVERYTHING = {
    "augmentation": {
        **{name: {"probability": 1.0} for name in (*QUIET, "rotation", "scaling")},
        "flip": {"left_right": 0.5, "front_back": 0.5, "up_down": 0.5},
    }
}


def digest(patch) -> tuple[bytes, bytes]:
    return patch["image"].numpy().tobytes(), patch["label"].numpy().tobytes()
