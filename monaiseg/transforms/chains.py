"""Chains: the transforms that follow from a settings file.

The *network grid* is the grid of image and label map after the load chain: RAS orientation, resampled and resized as
the settings ask, and padded. The *floor* of a channel is its lowest intensity on that grid, which is air in most scans.
Padding, and the parts of a rotated patch beyond the volume, have the floor as their intensity and are background.

Training, validation, prediction and the bundle share the load chain. Training adds random transforms in a separate
chain. All random numbers come from `self.R`, so `Compose.set_random_state` makes them repeatable.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

from monai.transforms.croppad.dictionary import (
    RandCropByLabelClassesd,
    RandCropByPosNegLabeld,
    RandSpatialCropd,
)
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd, Resized, Spacingd
from monai.transforms.transform import Transform
from monai.transforms.utility.dictionary import CastToTyped, EnsureChannelFirstd
from monai.utils.type_conversion import dtype_numpy_to_torch

from monaiseg.data import MULTIPLE, LabelTable, index_dtype, padded_shape
from monaiseg.settings import Settings
from monaiseg.transforms.bilateral import RandBilaterald
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.crop import (
    BACKGROUND,
    CLASSES,
    FOREGROUND,
    KEYS,
    POSITIONS,
    FindCentresd,
    RandCropByClassesWithMargind,
    RandSpatialCropWithMargind,
    SplitCentresd,
    no_margin,
)
from monaiseg.transforms.deformation import RandDeformd
from monaiseg.transforms.intensity import NormaliseChannelsd, RandCoilFieldd
from monaiseg.transforms.load import (
    AsPlainTensors,
    ClassIndicesd,
    OnImageGridd,
    ProfileChannels,
)
from monaiseg.transforms.mirror import RandMirrord
from monaiseg.transforms.padding import DivisibleFloorPadd
from monaiseg.transforms.reader import CheckedReader
from monaiseg.transforms.resampling import CheckSpacingd
from monaiseg.transforms.rigid import RandRigidd
from monaiseg.transforms.rotate_zoom import RandRotateZoomd

CHAIN_VERSION = 1
"""Increase this when `cached_chain` gives other values for the same files and settings: caches are then rebuilt."""


def load_chain(
    settings: Settings, table: LabelTable | None = None, *, orientation: str | None = None
) -> list[Transform]:
    """Transforms from files to the network grid: the image and, with a label table, the label map as class indices.

    Both are MetaTensors, which record their affine and the operations to invert. `orientation` as in `CheckedReader`.
    """
    dataset = settings.dataset
    count = 1 if table is None else 2
    keys = ("image", "label")[:count]
    chain: list[Transform] = [
        LoadImaged(
            "image",
            CheckedReader,
            num_channels=dataset.num_channels,
            orientation=orientation,
            expanduser=False,
        )
    ]
    if table is not None:
        # Keep the file's data type until values become class indices: float32 cannot represent every integer.
        chain += [LoadImaged("label", CheckedReader, labels=True, dtype=None, expanduser=False)]
    chain += [EnsureChannelFirstd(keys)]
    if table is not None:
        every = -1 in dataset.seg.interested_label_list
        chain += [OnImageGridd(), ClassIndicesd(table, "refuse" if every else "background")]
    chain += [
        Orientationd(keys, axcodes="RAS", labels=None),
        # Before resampling, as in nnU-Net: interpolation changes the statistics of small regions.
        NormaliseChannelsd(dataset.intensity),
    ]
    if settings.spacing_mm is not None:
        modes = ("bilinear", "nearest")[:count]
        chain += [CheckSpacingd(settings.spacing_mm)]
        chain += [Spacingd(keys, pixdim=settings.spacing_mm, mode=modes)]
    if settings.image_shape is not None:
        shape = padded_shape(settings.image_shape, MULTIPLE)
        # torch's "nearest" is half a voxel too low; "nearest-exact" takes the nearest voxel.
        modes, smoothed = ("trilinear", "nearest-exact")[:count], (True, False)[:count]
        chain += [Resized(keys, spatial_size=shape, mode=modes, anti_aliasing=smoothed)]
    padding = settings.patch_shape, dataset.seg.partition.padding_mode
    chain += [DivisibleFloorPadd(key, *padding) for key in keys]
    if table is not None:
        chain += [CastToTyped("label", dtype_numpy_to_torch(index_dtype(table.num_classes)))]
    return chain


def cached_chain(settings: Settings, table: LabelTable, *, for_training: bool) -> CaseChain:
    """The load chain followed by conversion to the plain tensors that are cached for each case.

    An item has `image` float32, `label` uint8 or int16, `affine` (4, 4) of the network grid and `floor` (C,). For
    training it also has the voxels that patches may be centred on, see `FindCentresd`.
    """
    chain: list[Transform] = [*load_chain(settings, table), AsPlainTensors()]
    method = settings.dataset.seg.sampling.method
    if for_training and method != "uniform":
        num_groups = table.num_classes if method == "balanced" else 2
        most = settings.dataset.seg.sampling.centres_per_class
        chain += [FindCentresd(num_groups, most, table.ignored_index)]
    cached = CaseChain(chain)
    cached.digest = chain_digest(settings, table, for_training=for_training)
    return cached


def inference_chain(
    settings: Settings, *, profiled: bool = False, orientation: str | None = None
) -> CaseChain:
    """The load chain for images without label maps; `to_file_grid` inverts it.

    `profiled` adds `profiles` to the item: a `ChannelProfile` of each channel as it is in the file. `orientation` as in
    `CheckedReader`.
    """
    load, channel_first, *rest = load_chain(settings, orientation=orientation)
    return CaseChain([load, channel_first, *([ProfileChannels()] if profiled else []), *rest])


def chain_digest(settings: Settings, table: LabelTable, *, for_training: bool) -> str:
    """SHA-256 of everything other than the files that determines the output of `cached_chain`."""
    meaning = [
        settings.dataset.model_dump(include={"num_channels", "intensity"}),
        settings.image_shape,
        settings.spacing_mm,
        settings.patch_shape,
        settings.dataset.seg.partition.padding_mode,
        settings.dataset.seg.interested_label_list,
        settings.dataset.seg.sampling.model_dump(include={"method", "centres_per_class"})
        if for_training
        else None,
        table.digest(),
        [version(package) for package in ("monai", "torch", "numpy")],
        CHAIN_VERSION,
    ]
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()


def training_chain(settings: Settings, table: LabelTable) -> list[Transform]:
    """Random transforms for training: crop a patch from a cached item, rotate, zoom and mirror it, change intensities.

    Spatial transforms come first, then the effects of a scanner: coil field, contrast, blur, noise. The script
    benchmarks/crop.py measures the time they take. The chain returns a list of one patch, as MONAI's crops do, or the
    patch alone if the sampling method is "uniform" or the patch is the whole image.

    Raises:
        SettingsError: patches are mirrored left to right, and a lateral label has no partner.
    """
    change = settings.dataset.seg.augmentation
    chain = crop_transforms(settings, table)
    if not change.enabled:
        return chain
    chain += extra_transforms(settings)
    mirrors = (change.flip.left_right, change.flip.front_back, change.flip.up_down)
    if any(mirrors):
        chain += [RandMirrord(mirrors, table.partner_classes if mirrors[0] else None)]
    if change.bias_field.probability:
        chain += [RandCoilFieldd(change.bias_field.probability, change.bias_field.strength)]
    if change.contrast.probability:
        low, high = change.contrast.factor
        factors = (low - 1, high - 1)
        chain += [
            RandScaleIntensityFixedMeand("image", prob=change.contrast.probability, factors=factors)
        ]
    if change.gamma.probability:
        chain += [
            RandAdjustContrastd("image", prob=change.gamma.probability, gamma=change.gamma.gamma)
        ]
    if change.smoothing.probability:
        sigma = change.smoothing.sigma
        chain += [
            RandGaussianSmoothd("image", sigma, sigma, sigma, prob=change.smoothing.probability)
        ]
    if change.noise.probability:
        chain += [RandGaussianNoised("image", prob=change.noise.probability, std=change.noise.std)]
    return chain


def crop_transforms(settings: Settings, table: LabelTable) -> list[Transform]:
    """From a cached item to its patch: MONAI's crops if nothing is rotated or zoomed, otherwise ours with a margin."""
    seg = settings.dataset.seg
    change, sampling, shape = seg.augmentation, seg.sampling, settings.patch_shape
    whole = seg.use_whole_img_as_input
    turn = RandRotateZoomd(None if whole else shape, change.rotation, change.scaling)
    turns = change.enabled and bool(change.rotation.probability or change.scaling.probability)
    turning: list[Transform] = [turn] if turns else []
    keys = (*KEYS, POSITIONS) if settings.tsk_set.network.atlas else KEYS
    if whole:
        return turning
    if sampling.method == "uniform":
        anywhere = RandSpatialCropWithMargind(shape, turn.margin)
        return [anywhere, *turning] if turns else [RandSpatialCropd(keys, shape, random_size=False)]
    ratios = [sampling.neg, sampling.pos]
    if sampling.method == "balanced":
        ratios = [1.0] * table.num_classes
    if turns or sampling.least_class_share or any(sampling.least_patch_share):
        margin = turn.margin if turns else no_margin
        crop = RandCropByClassesWithMargind(shape, ratios, margin, sampling, table.ignored_index)
        return [SplitCentresd(by_class=True), crop, *turning]
    if sampling.method == "balanced":
        balanced = RandCropByLabelClassesd(
            keys, "label", shape, num_classes=len(ratios), indices_key=CLASSES, warn=False
        )
        return [SplitCentresd(by_class=True), balanced]
    by_ratio = RandCropByPosNegLabeld(
        keys,
        "label",
        shape,
        sampling.pos,
        sampling.neg,
        fg_indices_key=FOREGROUND,
        bg_indices_key=BACKGROUND,
    )
    return [SplitCentresd(by_class=False), by_ratio]


def extra_transforms(settings: Settings) -> list[RandRigidd | RandDeformd | RandBilaterald]:
    """Rigid motion, deformation and bilateral filter, as far as the settings enable them, for cropped patches.

    Items have `image` (C, X, Y, Z) float32, `label` (1, X, Y, Z) integers and `affine` (4, 4), which gives the voxel
    size of the patch along its own axes. Other keys are unchanged.
    """
    change = settings.dataset.seg.augmentation
    if not change.enabled:
        return []
    chain: list[RandRigidd | RandDeformd | RandBilaterald] = []
    if change.rigid.probability:
        chain += [RandRigidd(change.rigid, change.rigid.rotation, change.rigid.translation)]
    if change.deformation.probability:
        chain += [RandDeformd(change.deformation, change.deformation.mesh_size)]
    if change.bilateral.probability:
        chain += [RandBilaterald(change.bilateral)]
    return chain
