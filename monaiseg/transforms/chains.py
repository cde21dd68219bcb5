"""Chains: the transforms that a settings file expands to.

The *network grid* is where image and label map lie after the load chain: RAS orientation, the spacing and size that
the settings ask for, padded. The *floor* of a channel is its least intensity there, air in most scans: padding, and
whatever a turned patch finds beyond the volume, has the floor for its intensity and is background.

The load chain is shared by training, validation, prediction and the bundle; what training adds is random and stands in
a chain of its own. All randomness comes from `self.R`, so that `Compose.set_random_state` repeats it.
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
    FindCentresd,
    RandCropByClassesWithMargind,
    RandSpatialCropWithMargind,
    SplitCentresd,
    no_margin,
)
from monaiseg.transforms.deformation import RandDeformd
from monaiseg.transforms.intensity import NormaliseChannelsd, RandCoilFieldd
from monaiseg.transforms.load import AsPlainTensors, ClassIndicesd, OnImageGridd
from monaiseg.transforms.mirror import RandMirrord
from monaiseg.transforms.padding import DivisibleFloorPadd
from monaiseg.transforms.reader import CheckedReader
from monaiseg.transforms.resampling import CheckSpacingd
from monaiseg.transforms.rigid import RandRigidd
from monaiseg.transforms.rotate_zoom import RandRotateZoomd

CHAIN_VERSION = 1
"""Raise it when `cached_chain` makes other values of the same files and settings: cached cases are then made anew."""


def load_chain(settings: Settings, table: LabelTable | None = None) -> list[Transform]:
    """From files to the network grid: image and, with a label table, label map as class indices.

    Both stay MetaTensors, which know their affine and the way back.
    """
    dataset = settings.dataset
    count = 1 if table is None else 2
    keys = ("image", "label")[:count]
    chain: list[Transform] = [
        LoadImaged("image", CheckedReader, num_channels=dataset.num_channels, expanduser=False)
    ]
    if table is not None:
        # Nothing is converted before class indices are found: float32 does not hold every integer.
        chain += [LoadImaged("label", CheckedReader, labels=True, dtype=None, expanduser=False)]
    chain += [EnsureChannelFirstd(keys)]
    if table is not None:
        every = -1 in dataset.seg.interested_label_list
        chain += [OnImageGridd(), ClassIndicesd(table, "refuse" if every else "background")]
    chain += [
        Orientationd(keys, axcodes="RAS", labels=None),
        # Before resampling, as nnU-Net does: interpolation moves the statistics of small regions.
        NormaliseChannelsd(dataset.intensity),
    ]
    if settings.spacing_mm is not None:
        modes = ("bilinear", "nearest")[:count]
        chain += [CheckSpacingd(settings.spacing_mm)]
        chain += [Spacingd(keys, pixdim=settings.spacing_mm, mode=modes)]
    if settings.image_shape is not None:
        shape = padded_shape(settings.image_shape, MULTIPLE)
        # torch's "nearest" takes the voxel half a voxel too low; "nearest-exact" takes the nearest.
        modes, smoothed = ("trilinear", "nearest-exact")[:count], (True, False)[:count]
        chain += [Resized(keys, spatial_size=shape, mode=modes, anti_aliasing=smoothed)]
    padding = settings.patch_shape, dataset.seg.partition.padding_mode
    chain += [DivisibleFloorPadd(key, *padding) for key in keys]
    if table is not None:
        chain += [CastToTyped("label", dtype_numpy_to_torch(index_dtype(table.num_classes)))]
    return chain


def cached_chain(settings: Settings, table: LabelTable, *, for_training: bool) -> CaseChain:
    """The load chain, and what of a case waits in the cache, as plain tensors.

    The item has `image` float32, `label` uint8 or int16, `affine` (4, 4) of the network grid and `floor` (C,); for
    training also the voxels that patches may be centred on, see `FindCentresd`.
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


def inference_chain(settings: Settings) -> CaseChain:
    """The load chain for images alone; `to_file_grid` leads back through it."""
    return CaseChain(load_chain(settings))


def chain_digest(settings: Settings, table: LabelTable, *, for_training: bool) -> str:
    """SHA-256 of everything besides the files that decides what `cached_chain` makes of them."""
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
    """The random part: a patch of a cached item, turned, zoomed, mirrored and changed in its intensities.

    Anatomy first, then what a scanner does to it: coil field, contrast, blur, noise. What it costs is measured by
    benchmarks/crop.py. The patch is a list of one, as MONAI's crops give it, unless it is cut anywhere.

    Raises:
        SettingsError: patches are mirrored left to right, and a label with a side has no partner.
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
    """From a cached item to its patch: MONAI's crops where nothing is turned or zoomed, else ours with a margin."""
    seg = settings.dataset.seg
    change, sampling, shape = seg.augmentation, seg.sampling, settings.patch_shape
    whole = seg.use_whole_img_as_input
    turn = RandRotateZoomd(None if whole else shape, change.rotation, change.scaling)
    turns = change.enabled and bool(change.rotation.probability or change.scaling.probability)
    turning: list[Transform] = [turn] if turns else []
    if whole:
        return turning
    if sampling.method == "uniform":
        anywhere = RandSpatialCropWithMargind(shape, turn.margin)
        return [anywhere, *turning] if turns else [RandSpatialCropd(KEYS, shape, random_size=False)]
    ratios = [sampling.neg, sampling.pos]
    if sampling.method == "balanced":
        ratios = [1.0] * table.num_classes
    if turns or sampling.least_class_share or any(sampling.least_patch_share):
        margin = turn.margin if turns else no_margin
        crop = RandCropByClassesWithMargind(shape, ratios, margin, sampling, table.ignored_index)
        return [SplitCentresd(by_class=True), crop, *turning]
    if sampling.method == "balanced":
        balanced = RandCropByLabelClassesd(
            KEYS, "label", shape, num_classes=len(ratios), indices_key=CLASSES, warn=False
        )
        return [SplitCentresd(by_class=True), balanced]
    by_ratio = RandCropByPosNegLabeld(
        KEYS,
        "label",
        shape,
        sampling.pos,
        sampling.neg,
        fg_indices_key=FOREGROUND,
        bg_indices_key=BACKGROUND,
    )
    return [SplitCentresd(by_class=False), by_ratio]


def extra_transforms(settings: Settings) -> list[RandRigidd | RandDeformd | RandBilaterald]:
    """Rigid motion, deformation and bilateral filter, those that are on, for items with a cut patch.

    Items have `image` (C, X, Y, Z) float32, `label` (1, X, Y, Z) integers and `affine` (4, 4), whose voxel size the
    patch has along its own axes. Other keys pass.
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
