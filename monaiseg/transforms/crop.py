"""Cropping: where training patches are taken from.

A patch is centred on a voxel of a *group*. A group is a class or, when there are two groups, background or foreground.
The *margin* of a patch is the region around it that rotation needs. A crop with a margin is a view of the cached
volume, so nothing is copied; `patch_start` is the first voxel of the patch in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.croppad.dictionary import RandCropByLabelClassesd, RandSpatialCropd
from monai.transforms.transform import Transform
from numpy.typing import NDArray
from typing_extensions import override

from monaiseg.data import Shape, Spacing
from monaiseg.settings import SamplingSettings
from monaiseg.transforms.items import Item

KEYS = ("image", "label")
POSITIONS = "positions"
"""Key of the positions (3, X, Y, Z) of the voxels in template mm, which move with the voxels; see `monaiseg.atlas`."""
Margin = Callable[[NDArray[Any], Spacing], NDArray[Any]]
"""From patch shape in voxels and voxel size in mm to the voxels needed around the patch along X, Y, Z."""
MAX_CENTRES = 100_000
"""Largest number of voxels of each group that are kept as patch centres. Keeping all, as `FgBgToIndicesd` does, takes
twice the memory of the image."""
MAX_DRAWS = 20
"""Largest number of positions to try for a patch that must hold a share of its group. EasyReg has no limit."""
FOREGROUND, BACKGROUND, CLASSES = "label_fg_indices", "label_bg_indices", "label_cls_indices"
"""Keys of patch centres, named as in `FgBgToIndicesd` and `ClassesToIndicesd`."""


class FindCentresd(Transform):
    """Adds the voxels that patches may be centred on, ordered by group, in the form that is cached.

    `centres` are indices into the flattened volume, int32, evenly spaced, at most `most` per group. `centre_ends`
    (groups,) says where each group ends, and `group_voxels` (groups,) is the number of voxels of each group in the
    volume. Unlabelled voxels, which have the class index `ignored`, are in no group.

    This replaces `ClassesToIndicesd`, which takes 1.3 s and 66 MB for 57 classes at 192 x 224 x 192 voxels, against
    0.2 s and at most 23 MB here. It replaces `FgBgToIndicesd` because MONAI 1.6.1 inverts bits in uint8 tensors and so
    takes every voxel for background.
    """

    def __init__(self, num_groups: int, most: int = -1, ignored: int | None = None) -> None:
        self.num_groups, self.ignored = num_groups, ignored
        self.most = MAX_CENTRES if most == -1 else min(most, MAX_CENTRES)

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        label = data["label"].numpy().ravel()
        groups = np.minimum(label, self.num_groups - 1)
        if self.ignored is not None:
            groups[label == self.ignored] = self.num_groups
        by_group = np.argsort(groups, kind="stable").astype(np.int32)  # a radix sort
        counts = np.bincount(groups, minlength=self.num_groups)[: self.num_groups]
        by_group = by_group[: counts.sum()]
        chosen = [
            voxels[(2 * np.arange(self.most) + 1) * voxels.size // (2 * self.most)]
            if voxels.size > self.most
            else voxels
            for voxels in np.split(by_group, np.cumsum(counts)[:-1])
        ]
        ends = np.cumsum([voxels.size for voxels in chosen])
        return {
            **data,
            "centres": torch.from_numpy(np.concatenate(chosen)),
            "centre_ends": torch.from_numpy(ends),
            "group_voxels": torch.from_numpy(counts),
        }


class SplitCentresd(Transform):
    """Stores the centres of a cached item, as views, under the keys that MONAI's crops expect.

    Args:
        by_class: store one array per group in `label_cls_indices`, rather than `label_bg_indices` and
            `label_fg_indices`.
    """

    def __init__(self, *, by_class: bool) -> None:
        self.by_class = by_class

    @override
    def __call__(self, data: Mapping[str, Any]) -> Item:
        d = dict(data)
        centres, ends = d.pop("centres").numpy(), d.pop("centre_ends").tolist()
        groups = [centres[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return (
            {**d, CLASSES: groups}
            if self.by_class
            else {**d, BACKGROUND: groups[0], FOREGROUND: groups[1]}
        )


class RandCropByClassesWithMargind(RandCropByLabelClassesd):
    """MONAI's `RandCropByLabelClassesd` with a margin, which draws again if a patch holds too little of its group.

    MONAI's transform would keep patch and margin within the volume: it would never choose patches near the border, and
    always the same patch in a volume that is little larger than the patch. It also fails on a case without any group
    whose ratio is above 0; here the other groups are used. With two groups this transform replaces
    `RandCropByPosNegLabeld`, which warns about such a case at every patch.

    Args:
        shape: shape of the patch in voxels.
        ratios: relative frequency at which patches are centred on each group.
        margin: function that gives the margin around the patch.
        sampling: settings for the least share of its group that a patch must hold.
        ignored: class index of unlabelled voxels, which count for no group.
    """

    def __init__(
        self,
        shape: Shape,
        ratios: Sequence[float],
        margin: Margin,
        sampling: SamplingSettings,
        ignored: int | None = None,
    ) -> None:
        super().__init__(
            KEYS, "label", shape, [*ratios], len(ratios), indices_key=CLASSES, warn=False
        )
        self.shape, self.ratios = np.array(shape), [*ratios]
        self.margin, self.sampling, self.ignored = margin, sampling, ignored

    @override
    def randomize(self, label: Any, indices: Any = None, image: Any = None) -> None:
        wanted = any(ratio and len(i) for ratio, i in zip(self.ratios, indices, strict=True))
        self.cropper.ratios = self.ratios if wanted else [1.0] * len(indices)
        super().randomize(label, indices, image)

    @override
    def __call__(self, data: Mapping[Any, Any], lazy: bool | None = None) -> Any:
        d = dict(data)
        indices = d.pop(CLASSES)
        if any((*self.sampling.least_patch_share, self.sampling.least_class_share)):
            start = self._fullest(d, indices)
        else:
            start = self._start(d["label"], indices)
        return [with_margin(d, start, self.shape, self.margin)]

    def _start(self, label: torch.Tensor, indices: Sequence[NDArray[Any]]) -> NDArray[Any]:
        self.randomize(label, indices)
        assert self.cropper.centers is not None
        start: NDArray[Any] = np.array(self.cropper.centers[0]) - self.shape // 2
        return start

    def _fullest(self, d: Item, indices: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """First voxel of a patch that holds enough of its group, or else of the fullest of `MAX_DRAWS` patches."""
        shares = np.array(self.ratios) * [len(group) > 0 for group in indices]
        shares = shares if shares.any() else np.array([float(len(group) > 0) for group in indices])
        chosen = self.R.choice(len(indices), p=shares / shares.sum())
        alone = [group if n == chosen else group[:0] for n, group in enumerate(indices)]
        least = self._least(d, chosen)
        fullest, most = np.zeros(3, int), -1
        for _ in range(MAX_DRAWS):
            start = self._start(d["label"], alone)
            x, y, z = map(slice, start, start + self.shape)
            label = d["label"][:, x, y, z]
            inside = (
                label.clamp(max=len(indices) - 1) == chosen
            )  # with two groups, group 1 is the whole foreground
            held = int((inside if self.ignored is None else inside & (label != self.ignored)).sum())
            if held > most:
                fullest, most = start, held
            if held >= least:
                break
        return fullest

    def _least(self, d: Item, group: int) -> float:
        """Least number of voxels of its group that a patch must hold."""
        shares = self.sampling.least_patch_share
        if group < len(shares):
            return shares[group] * float(self.shape.prod())
        return self.sampling.least_class_share * float(d["group_voxels"][group])


class RandSpatialCropWithMargind(RandSpatialCropd):
    """MONAI's `RandSpatialCropd` with a margin; see `RandCropByClassesWithMargind`."""

    def __init__(self, shape: Shape, margin: Margin) -> None:
        super().__init__(KEYS, shape, random_size=False)
        self.shape, self.margin = np.array(shape), margin

    @override
    def __call__(self, data: Mapping[Any, Any], lazy: bool | None = None) -> Any:
        self.randomize(data["image"].shape[1:])
        cropper: Any = self.cropper  # MONAI declares the type of its parent class
        start = np.array([part.start for part in cropper._slices])
        return with_margin(dict(data), start, self.shape, self.margin)


def with_margin(data: Item, start: NDArray[Any], shape: NDArray[Any], margin: Margin) -> Item:
    """The item with views of the patch and its margin, clipped to the volume, and `patch_start` within these views."""
    x, y, z = np.linalg.norm(data["affine"].numpy()[:3, :3], axis=0)
    around = margin(shape, (x, y, z))
    first = np.maximum(start - around, 0)
    last = np.minimum(start + shape + around, data["image"].shape[1:])
    cut = (slice(None), *map(slice, first, last))
    parts = {key: data[key][cut] for key in (*KEYS, POSITIONS) if key in data}
    return {**data, **parts, "patch_start": start - first}


def no_margin(shape: NDArray[Any], spacing: Spacing) -> NDArray[Any]:  # noqa: ARG001  signature of Margin
    """No margin, for patches that are not rotated."""
    return np.zeros_like(shape)
