"""The settings: every option of a run, with its type, range and documentation.

A *section* is a JSON object, a *key* is a name in it, and a *path* is the dotted path of a key (`tsk_set.optim.lr`).
The two top sections, `dataset` and `tsk_set`, are EasyReg's. All defaults of the project are in this package.

Spatial lists in `Settings` are in x, y, z order, also when they are created in Python. Files have them in z, y, x
order, as EasyReg writes them, unless `dataset.axis_order` is "xyz". The lists are reversed once, when a file is read.
"""

from __future__ import annotations

import hashlib

from pydantic import model_validator
from typing_extensions import Self

from monaiseg.settings.dataset import DatasetSettings
from monaiseg.settings.section import Section
from monaiseg.settings.task import TaskSettings
from monaiseg.settings.writing import dump_settings


class Settings(Section):
    """Everything that a run needs besides the data."""

    dataset: DatasetSettings = DatasetSettings()
    tsk_set: TaskSettings = TaskSettings()

    @model_validator(mode="after")
    def _labels_and_classes_agree(self) -> Self:
        values = self.dataset.seg.interested_label_list
        classes = self.tsk_set.seg.class_num
        if -1 not in values and classes not in (-1, len(set(values) | {0})):
            raise ValueError(
                f"tsk_set.seg.class_num is {classes}, but dataset.seg.interested_label_list makes "
                f"{len(set(values) | {0})} classes, with background; use {len(set(values) | {0})} or -1"
            )
        return self

    @model_validator(mode="after")
    def _one_weight_a_class(self) -> Self:
        weights, classes = self.tsk_set.loss.ce.class_weight, self.tsk_set.seg.class_num
        if weights is not None and classes not in (-1, len(weights)):
            raise ValueError(
                f"tsk_set.loss.ce.class_weight has {len(weights)} weights, but tsk_set.seg.class_num is "
                f"{classes}; give one weight per class, background first"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit_the_network(self) -> Self:
        network, tsk = self.tsk_set.network, self.tsk_set
        if network.atlas and self.dataset.spacing is None:
            raise ValueError(
                "tsk_set.network.atlas needs dataset.spacing, which is null: the atlas is in mm; give the voxel size in mm"
            )
        if tsk.loss.voxels is not None and network.deep_supervision_heads:
            raise ValueError(
                f"tsk_set.loss.voxels is {tsk.loss.voxels}, but tsk_set.network.deep_supervision_heads is "
                f"{network.deep_supervision_heads}: coarser outputs need whole patches; set one of them to null or 0"
            )
        return self

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Patch size in voxels along X, Y, Z."""
        return self.dataset.seg.patch_size

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Size in voxels along X, Y, Z that images are resampled to, as given. None: images keep their size."""
        shape = self.dataset.img_after_resize
        return None if -1 in shape else shape

    @property
    def network_channels(self) -> int:
        """Channels that the network takes: those of the image and, with an atlas, the position along X, Y, Z."""
        return self.dataset.num_channels + 3 * self.tsk_set.network.atlas

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size in mm along X, Y, Z that images are resampled to. None: images keep their voxel size."""
        return self.dataset.spacing

    @property
    def window_overlap(self) -> tuple[float, float, float]:
        """Share of the patch along X, Y, Z that neighbouring windows have in common."""
        partition = self.dataset.seg.partition
        if partition.overlap_size is None:
            return (partition.overlap,) * 3
        x, y, z = (
            2 * margin / size
            for margin, size in zip(partition.overlap_size, self.patch_shape, strict=True)
        )
        return x, y, z

    @property
    def window_flips(self) -> tuple[int, ...]:
        """Axes (0 X, 1 Y, 2 Z) for test-time mirroring of windows."""
        directions = ("left_right", "front_back", "up_down")
        return tuple(sorted({directions.index(name) for name in self.dataset.seg.partition.flips}))

    @property
    def is_mirrored(self) -> bool:
        """Whether images are mirrored left to right: training patches, or windows at test time."""
        change = self.dataset.seg.augmentation
        return (change.enabled and change.flip.left_right > 0) or 0 in self.window_flips

    @property
    def batch_size(self) -> int:
        """Patches per training step."""
        size = self.tsk_set.batch_size
        return size if isinstance(size, int) else size[0]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, which is equal for files with the same meaning."""
        return hashlib.sha256(dump_settings(self).encode()).hexdigest()
