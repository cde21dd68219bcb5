"""The settings file: every choice a training makes, typed, ranged and documented, in JSON and out.

A *section* is a JSON object, a *key* is a name in it, a *path* is the dotted way to a key (`tsk_set.optim.lr`).
The two top sections, `dataset` and `tsk_set`, are EasyReg's, and so are many keys; its other spellings are put into
ours by `monaiseg.easyreg` before validation. Every default of the project stands in this file.

Spatial lists are written z, y, x, as EasyReg writes them, unless `dataset.axis_order` says "xyz"; the code asks
for them along X, Y, Z through the properties of `Settings`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from monaiseg import easyreg
from monaiseg.errors import DataError, MonaisegWarning, SettingsError, listed, nearest
from monaiseg.files import read_bytes

T = TypeVar("T")
SETTINGS_NAMES = ("cur_task_setting.json", "curr_task_settings.json", "curr_task_setting.json")
"""Names that a settings file goes by in EasyReg's folders, its code's first."""
DATA_SETTINGS_NAMES = ("cur_data_setting.json", "data_setting.json")
"""Names of EasyReg's second file, about the data alone; it lies beside the first."""

MAX_BYTES = 1 << 20
"""A settings file is a few kilobytes; one of more than 1 MiB is something else."""
MAX_DEPTH = 8
"""Levels of nesting, lists included, that any settings file has."""


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _all_or_positive(value: int) -> int:
    if value == 0:
        raise ValueError("0 is not -1 or a whole number of at least 1")
    return value


def _all_or_classes(value: int) -> int:
    if value in {0, 1}:
        raise ValueError(f"{value} is not -1 or at least 2: background and a structure")
    return value


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower end {bounds[0]} is above the upper end {bounds[1]}")
    return bounds


MOST = 2**31 - 1
"""No count is greater: what counts voxels, steps and labels below holds 32 bits."""
Count = Annotated[int, Field(ge=1, le=MOST)]
ChannelCount = Annotated[int, Field(ge=1, le=1 << 16)]
AllOrCount = Annotated[int, Field(ge=-1, le=MOST), AfterValidator(_all_or_positive)]
BatchLimit = Annotated[int, Field(ge=-1, le=MOST)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple), AfterValidator(_ascending)]
PositiveRange = Annotated[
    tuple[Positive, Positive], BeforeValidator(_as_tuple), AfterValidator(_ascending)
]
Triple = Annotated[tuple[Count, Count, Count], BeforeValidator(_as_tuple)]
SizeTriple = Annotated[tuple[AllOrCount, AllOrCount, AllOrCount], BeforeValidator(_as_tuple)]
MarginTriple = Annotated[
    tuple[
        Annotated[int, Field(ge=0, le=MOST)],
        Annotated[int, Field(ge=0, le=MOST)],
        Annotated[int, Field(ge=0, le=MOST)],
    ],
    BeforeValidator(_as_tuple),
]
SpacingTriple = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(_as_tuple)]
Angle = Annotated[float, Field(ge=0, le=180)]
AngleTriple = Annotated[tuple[Angle, Angle, Angle], BeforeValidator(_as_tuple)]
ShiftTriple = Annotated[tuple[NonNegative, NonNegative, NonNegative], BeforeValidator(_as_tuple)]


class Section(BaseModel):
    """A part of the settings: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


# ---------------------------------------------------------------- dataset


class IntensitySettings(Section):
    """How intensities are brought to one scale, image by image and channel by channel."""

    method: Literal["zscore", "minmax", "percentile", "none"] = "zscore"
    """`zscore`: mean 0, standard deviation 1. `minmax`: least and greatest to -1 and 1. `percentile`: least and
    the given percentile to -1 and 0.9, above it unclipped. `none`: as in the file."""
    region: Literal["image", "foreground"] = "image"
    """Voxels the statistics are taken from: the whole image, or those above zero."""
    clip_range: Range | None = None
    """Intensities are clipped to this range first. null: no clipping."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 95.0
    """Upper percentile of the `percentile` method."""


class CacheSettings(Section):
    """Where the images wait after the deterministic part of the chain."""

    where: Literal["auto", "memory", "disk", "none"] = "auto"
    """`auto` takes memory where the prepared cases fit, else memory-mapped files in the data task's folder."""
    memory_gb: Positive | None = None
    """GiB of memory that the cache may take. null: half of what is free when training starts."""


class SamplingSettings(Section):
    """Where training patches are cut."""

    method: Literal["pos_neg", "balanced", "uniform"] = "pos_neg"
    """`pos_neg`: centres on foreground or background by the ratio pos : neg (RandCropByPosNegLabeld).
    `balanced`: centres on classes, each as often as the next (RandCropByLabelClassesd). `uniform`: anywhere."""
    pos: NonNegative = 2.0
    """Weight of foreground centres under `pos_neg`."""
    neg: NonNegative = 1.0
    """Weight of background centres under `pos_neg`."""
    centres_per_class: AllOrCount = -1
    """At most so many different centres for each class of an image, evenly spread. -1: no limit."""
    least_class_share: Probability = 0.0
    """A patch holds at least this share of the image's voxels of the class it is centred on; all of the foreground is
    one class under `pos_neg`. Where a patch holds less, it is drawn again, 20 times at most; then the fullest is taken."""
    least_patch_share: Annotated[tuple[Probability, ...], BeforeValidator(_as_tuple)] = ()
    """The same as shares of the patch, one a class, background first. Classes past the end go by `least_class_share`."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.pos + self.neg == 0:
            raise ValueError("pos and neg are both 0; give one of them a weight")
        return self


class PartitionSettings(Section):
    """How a volume is tiled for validation and prediction by a sliding window."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the patch that neighbouring windows have in common."""
    overlap_size: MarginTriple | None = None
    """Margin in voxels on each side of a window, as in EasyReg: neighbours share twice as much. Overrides `overlap`."""
    blending: Literal["gaussian", "constant"] = "gaussian"
    """Weight of a window's voxels where windows overlap."""
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    """What surrounds volumes that are smaller than the patch, or whose size does not divide by 16: their least intensity,
    or a continuation of image and label map."""
    flips: tuple[Literal["left_right", "front_back", "up_down"], ...] = ()
    """Directions in which the trained network looks at every window mirrored too: each doubles the time. The scores are
    averaged; under `left_right` those of left and right partners change places. Validation while training does not."""


class RotationSettings(Section):
    """Random rotation about the three axes."""

    probability: Probability = 0.3
    """Share of patches that are rotated."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Greatest angle about each axis."""


class ScalingSettings(Section):
    """Random zoom, one factor for all axes."""

    probability: Probability = 0.3
    """Share of patches that are scaled."""
    factor: PositiveRange = (0.85, 1.2)
    """Range of the factor: above 1 structures grow."""


class NoiseSettings(Section):
    """Gaussian noise, in units of the normalised intensity."""

    probability: Probability = 0.15
    """Share of patches that receive noise."""
    std: NonNegative = 0.1
    """Greatest standard deviation."""


class SmoothingSettings(Section):
    """Gaussian smoothing."""

    probability: Probability = 0.1
    """Share of patches that are smoothed."""
    sigma: PositiveRange = (0.5, 1.0)
    """Range of the kernel's standard deviation, in voxels."""


class BiasFieldSettings(Section):
    """A smooth multiplicative field, as a receive coil leaves one."""

    probability: Probability = 0.1
    """Share of patches that receive a field."""
    strength: NonNegative = 0.3
    """Greatest magnitude of the field's polynomial coefficients."""


class ContrastSettings(Section):
    """Contrast: deviations from the patch's mean times a factor."""

    probability: Probability = 0.15
    """Share of patches that are changed."""
    factor: PositiveRange = (0.75, 1.25)
    """Range of the factor."""


class GammaSettings(Section):
    """Intensities, scaled to 0..1, to the power of gamma, and back."""

    probability: Probability = 0.15
    """Share of patches that are changed."""
    gamma: PositiveRange = (0.7, 1.5)
    """Range of the exponent."""


class FlipSettings(Section):
    """Mirror images. A left-right flip exchanges the labels of left and right partners with it."""

    left_right: Probability = 0.0
    """Share of patches mirrored left to right. Labels with a side must then have a partner in the label table; one without
    a name is taken to have no side."""
    front_back: Probability = 0.0
    """Share of patches mirrored front to back."""
    up_down: Probability = 0.0
    """Share of patches mirrored bottom to top."""


class RigidSettings(Section):
    """Random rigid motion, normally distributed; EasyReg's `random_rigid_transform`."""

    probability: Probability = 0.0
    """Share of patches that are moved."""
    rotation: AngleTriple = (0.0, 0.0, 0.0)
    """Angle in degrees about each axis that 95 % of the rotations stay below: two standard deviations."""
    translation: ShiftTriple = (0.5, 0.5, 0.5)
    """Shift in voxels along each axis that 95 % of the shifts stay below: two standard deviations."""
    target: Literal["both", "image", "label"] = "both"
    """What moves: image and label map together, or one of them against the other."""


class DeformationSettings(Section):
    """Random smooth deformation by a B-spline through a coarse mesh; EasyReg's `bspline_transform`."""

    probability: Probability = 0.0
    """Share of patches that are deformed."""
    mesh_size: Triple = (2, 2, 2)
    """Cells of the mesh that spans the patch, along each axis."""
    displacement: NonNegative = 1.0
    """Displacement in voxels that 95 % of the mesh's points stay below, along each axis: two standard deviations."""
    order: Annotated[int, Field(ge=1, le=3)] = 3
    """Degree of the B-spline."""
    interpolation: Literal["linear", "bspline"] = "linear"
    """How the image is read between its voxels; `bspline` is cubic: sharper, and some ten times slower."""


class BilateralSettings(Section):
    """Smoothing that keeps edges, by a bilateral filter."""

    probability: Probability = 0.0
    """Share of patches that are filtered."""
    domain_sigma: Annotated[float, Field(gt=0, le=2)] = 0.2
    """Standard deviation in space, in voxels."""
    range_sigma: Positive = 0.06
    """Standard deviation in normalised intensity: greater differences are edges."""


class AugmentationSettings(Section):
    """Random changes to each training patch, drawn anew every time."""

    enabled: bool = True
    """false switches every one of them off."""
    rotation: RotationSettings = RotationSettings()
    scaling: ScalingSettings = ScalingSettings()
    flip: FlipSettings = FlipSettings()
    rigid: RigidSettings = RigidSettings()
    deformation: DeformationSettings = DeformationSettings()
    bilateral: BilateralSettings = BilateralSettings()
    noise: NoiseSettings = NoiseSettings()
    smoothing: SmoothingSettings = SmoothingSettings()
    bias_field: BiasFieldSettings = BiasFieldSettings()
    contrast: ContrastSettings = ContrastSettings()
    gamma: GammaSettings = GammaSettings()


class SegDataSettings(Section):
    """Labels, patches and augmentation."""

    patch_size: Triple = (64, 64, 64)
    """Size of training patches and prediction windows, in voxels. Each must divide by the network's total stride."""
    interested_label_list: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=MOST)], ...],
        BeforeValidator(_as_tuple),
        Field(min_length=1),
    ] = (-1,)
    """Label values to keep; all others become background. [-1]: every value that the data task has."""
    crops_per_image: Count = 1
    """Patches cut from an image each time it is drawn."""
    use_whole_img_as_input: bool = False
    """Whole (padded) images in place of patches and windows, in training, validation and prediction."""
    sampling: SamplingSettings = SamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    partition: PartitionSettings = PartitionSettings()

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        margins = self.partition.overlap_size or (0, 0, 0)
        for axis, (margin, size) in enumerate(zip(margins, self.patch_size, strict=True)):
            if 2 * margin >= size:
                raise ValueError(
                    f"partition.overlap_size: {margin} on both sides leaves nothing of patch_size "
                    f"{size} (entry {axis + 1}); use 0 to {(size - 1) // 2}"
                )
        return self


class DatasetSettings(Section):
    """What is read, and how it is brought to the network."""

    task_type: Literal["seg"] = "seg"
    """The one kind of task: segmentation."""
    axis_order: Literal["zyx", "xyz"] = "zyx"
    """Order of every spatial list in this file. Axes are those of RAS orientation: x to the right, y to the front, z up."""
    num_channels: Count = 1
    """Images per case, one a channel."""
    max_num_for_loading: Annotated[
        tuple[AllOrCount, AllOrCount, AllOrCount, AllOrCount], BeforeValidator(_as_tuple)
    ] = (-1, -1, -1, -1)
    """At most so many cases of train, val, test and debug; a seeded choice. -1: all."""
    img_after_resize: SizeTriple = (-1, -1, -1)
    """Resample every image to this size, rounded up to multiples of 16. [-1, -1, -1]: keep the size and pad to multiples of 16."""
    spacing: SpacingTriple | None = None
    """Resample to this voxel size in mm first. null: as in the file."""
    intensity: IntensitySettings = IntensitySettings()
    cache: CacheSettings = CacheSettings()
    seg: SegDataSettings = SegDataSettings()


# ---------------------------------------------------------------- tsk_set


class AdamSettings(Section):
    """Adam and AdamW."""

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""


class SgdSettings(Section):
    """Stochastic gradient descent."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Momentum, Nesterov's where it is above 0."""


class StepSettings(Section):
    """Schedule `step`: the rate falls by a factor at regular epochs."""

    step_size: Count = 50
    """Epochs between falls."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor at each fall."""


class PolynomialSettings(Section):
    """Schedule `poly`: (1 - progress) to a power."""

    power: Positive = 0.9
    """The power."""


class PlateauSettings(Section):
    """Schedule `plateau`: the rate falls when validation Dice has stopped rising."""

    patience: Annotated[int, Field(ge=0)] = 10
    """Validations without a rise before the rate falls."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor at each fall."""
    threshold: NonNegative = 1e-4
    """A rise of mean foreground Dice by less than this does not count."""
    min_lr: NonNegative = 0.0
    """The rate does not fall below this."""


class SchedulerSettings(Section):
    """How the learning rate changes after the warm-up."""

    type: Literal["constant", "step", "poly", "cosine", "plateau"] = "poly"
    """`constant`, `step` (EasyReg's "custom"), `poly` and `cosine` (both to zero at the last step), or `plateau`."""
    step: StepSettings = StepSettings()
    poly: PolynomialSettings = PolynomialSettings()
    plateau: PlateauSettings = PlateauSettings()


class OptimSettings(Section):
    """Optimiser and learning rate."""

    optim_type: Literal["adam", "adamw", "sgd"] = "adamw"
    """The optimiser."""
    lr: Positive = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegative = 1e-4
    """Decay of the weights, decoupled under `adamw`, as an L2 term otherwise."""
    adam: AdamSettings = AdamSettings()
    sgd: SgdSettings = SgdSettings()
    lr_scheduler: SchedulerSettings = SchedulerSettings()


class CrossEntropySettings(Section):
    """The cross-entropy part of a loss."""

    include_background: bool = True
    """false leaves voxels whose reference is background out of the cross-entropy."""
    class_weight: (
        Annotated[tuple[NonNegative, ...], BeforeValidator(_as_tuple), Field(min_length=2)] | None
    ) = None
    """One weight a class, background first. null: all alike."""


class LossSettings(Section):
    """What training minimises."""

    type: Literal["dice_ce", "ce", "focal", "dice", "gdice", "tversky"] = "dice_ce"
    """`dice_ce` is the sum of Dice and cross-entropy; `gdice` is generalised Dice."""
    ce: CrossEntropySettings = CrossEntropySettings()
    include_background: bool = False
    """Whether the overlap losses count background as a structure."""
    batch_dice: bool = True
    """true: overlap over the voxels of the whole batch; false: patch by patch, then the mean."""
    focal_gamma: NonNegative = 2.0
    """Exponent of the focal loss."""
    tversky_alpha: NonNegative = 0.5
    """Weight of false positives in the Tversky loss."""
    tversky_beta: NonNegative = 0.5
    """Weight of false negatives in the Tversky loss."""


class NetworkSettings(Section):
    """The residual U-Net. Its depth, kernels and strides follow from patch size and spacing unless given."""

    variant: Literal["standard", "folded"] = "standard"
    """`standard`: a DynUNet at full resolution. `folded`: the same at half the resolution, on the image folded to eight
    times the channels, its head giving the classes of 2 x 2 x 2 voxels at once; many times faster on a processor."""
    channels: ChannelCount = 32
    """Channels of the first stage; each deeper stage doubles them."""
    max_channels: ChannelCount = 320
    """Channels of a stage do not grow past this."""
    num_stages: Annotated[int, Field(ge=2, le=8)] | None = None
    """Resolutions of the network, refused where the patch does not allow so many. null: as many as it allows, at most 5."""
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    """Normalisation after each convolution."""
    residual: bool = True
    """Residual connections in each block."""
    deep_supervision_heads: Annotated[int, Field(ge=0, le=4)] = 2
    """Coarser outputs that the loss sees as well, each at its own resolution. Fewer where the network is too shallow."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of channels dropped while training."""


class SegNetSettings(Section):
    """The network's classes."""

    class_num: Annotated[int, Field(ge=-1, le=MOST), AfterValidator(_all_or_classes)] = -1
    """Classes with background. -1: the size of the label table."""


class TaskSettings(Section):
    """The network, its training, and what is written while it trains."""

    train: bool = True
    """true trains; false evaluates `model_path` on the test split, with at most `dataset.max_num_for_loading` cases."""
    output_root_path: str = ""
    """Folder of all data tasks; the command line fills it in."""
    data_task_name: str = ""
    """Name of the dataset's folder; the command line fills it in."""
    task_name: str = ""
    """Name of this training's folder; the command line fills it in."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from this number."""
    gpu_id: Annotated[int, Field(ge=-1)] | None = None
    """CUDA device; -1 is the CPU. null: the first GPU if there is one, else the CPU."""
    num_threads: Count | None = None
    """Threads of the CPU's compute. null: one a core."""
    num_workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Processes that cut and augment patches beside the computation."""
    amp: bool = True
    """Train in mixed precision: float16 on a GPU, bfloat16 on a processor that has instructions for it, else float32.
    Validation and prediction on a processor are in float32."""
    batch_size: Count | Annotated[tuple[Count, Count, Count, Count], BeforeValidator(_as_tuple)] = 2
    """Patches per training step. EasyReg's list [train, val, test, debug] is accepted; only its first entry matters."""
    epochs: Count = 100
    """Epochs to train."""
    budget_minutes: Positive | None = None
    """Wall-clock minutes of the whole training: start-up, reading, validations and the last checkpoint included. The
    learning rate is laid out to end with them, and `epochs` is not asked. null: no limit."""
    max_batch_num_per_epoch: Annotated[
        tuple[BatchLimit, BatchLimit, BatchLimit], BeforeValidator(_as_tuple)
    ] = (-1, -1, -1)
    """Steps of an epoch, and cases of a validation and of a debug pass. -1: as many as there are cases; 0 skips."""
    val_period: Count = 5
    """Validate every so many epochs, and after the last."""
    checkpoint_period: Count = 5
    """Commit a checkpoint every so many epochs, and after the last. The last two and the best are kept."""
    checkpoint_steps: Count | None = None
    """Also commit every so many steps inside an epoch. null: no."""
    keep_period: Annotated[int, Field(ge=0)] = 0
    """Keep for good the checkpoint of every so many epochs. 0: none."""
    save_fig_on: bool = True
    """Write an image / reference / prediction picture of one case to TensorBoard at validations."""
    save_val_fig_epoch: Count = 2
    """Write pictures and volumes at validations whose epoch divides by this."""
    save_running_resolution_3d_img: bool = False
    """Write the label maps of validation and debug cases, predicted and given, under records/3D, at the network's
    resolution."""
    print_step: Annotated[tuple[Count, Count, Count], BeforeValidator(_as_tuple)] = (10, 4, 4)
    """Steps between two entries in TensorBoard. EasyReg's order [train, val, debug]; only the first matters: a
    validation is one entry."""
    gradient_accumulation_steps: Count = 1
    """Batches whose gradients are averaged before the weights change."""
    gradient_clip: Positive | None = 12.0
    """Greatest norm of the gradient. null: no clipping."""
    warmup_epochs: NonNegative = 1.0
    """Epochs over which the learning rate rises from a tenth to its full value."""
    weight_averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights that is validated and saved as best. 0: none."""
    continue_train: bool = False
    """Start from the checkpoint at `model_path`."""
    continue_train_lr: float = -1.0
    """Learning rate that the schedule starts from after `continue_train`. 0 or less: `optim.lr`."""
    reset_train_epoch: bool = False
    """Forget the checkpoint's epoch and count from `load_model_but_train_from_epoch`."""
    load_model_but_train_from_epoch: Annotated[int, Field(ge=0)] = 0
    """Epoch to count from under `reset_train_epoch`."""
    model_path: str = ""
    """Checkpoint, or folder of a training, to start from or to evaluate."""
    optim: OptimSettings = OptimSettings()
    loss: LossSettings = LossSettings()
    network: NetworkSettings = NetworkSettings()
    seg: SegNetSettings = SegNetSettings()


class Settings(Section):
    """Everything a training needs to know besides the data."""

    dataset: DatasetSettings = DatasetSettings()
    tsk_set: TaskSettings = TaskSettings()

    @model_validator(mode="after")
    def _labels_and_classes_agree(self) -> Self:
        values = self.dataset.seg.interested_label_list
        classes = self.tsk_set.seg.class_num
        if -1 not in values and classes not in (-1, len(set(values) | {0})):
            raise ValueError(
                f"tsk_set.seg.class_num is {classes}, but dataset.seg.interested_label_list makes "
                f"{len(set(values) | {0})} classes with background; use {len(set(values) | {0})} or -1"
            )
        return self

    @model_validator(mode="after")
    def _one_weight_a_class(self) -> Self:
        weights, classes = self.tsk_set.loss.ce.class_weight, self.tsk_set.seg.class_num
        if weights is not None and classes not in (-1, len(weights)):
            raise ValueError(
                f"tsk_set.loss.ce.class_weight has {len(weights)} weights, but tsk_set.seg.class_num is "
                f"{classes}; give one weight a class, background first"
            )
        return self

    # Along X, Y, Z, whatever the file's order; what the code below asks for.

    def along_xyz(self, triple: tuple[T, T, T]) -> tuple[T, T, T]:
        """A spatial list of the file along X, Y, Z."""
        return triple if self.dataset.axis_order == "xyz" else (triple[2], triple[1], triple[0])

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """Patch size in voxels along X, Y, Z."""
        return self.along_xyz(self.dataset.seg.patch_size)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Size that images are resampled to along X, Y, Z, as given; None keeps their own."""
        shape = self.dataset.img_after_resize
        return None if -1 in shape else self.along_xyz(shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size in mm along X, Y, Z that images are resampled to; None keeps their own."""
        return None if self.dataset.spacing is None else self.along_xyz(self.dataset.spacing)

    @property
    def window_overlap(self) -> tuple[float, float, float]:
        """Share of the patch along X, Y, Z that neighbouring windows have in common."""
        partition = self.dataset.seg.partition
        if partition.overlap_size is None:
            return (partition.overlap,) * 3
        x, y, z = (
            2 * margin / size
            for margin, size in zip(
                self.along_xyz(partition.overlap_size), self.patch_shape, strict=True
            )
        )
        return x, y, z

    @property
    def window_flips(self) -> tuple[int, ...]:
        """Axes (0 X, 1 Y, 2 Z) along which windows are mirrored too when the trained network is used."""
        directions = ("left_right", "front_back", "up_down")
        return tuple(sorted({directions.index(name) for name in self.dataset.seg.partition.flips}))

    @property
    def is_mirrored(self) -> bool:
        """Whether images are mirrored left to right, patches of the training or windows of the trained network."""
        change = self.dataset.seg.augmentation
        return (change.enabled and change.flip.left_right > 0) or 0 in self.window_flips

    @property
    def batch_size(self) -> int:
        """Patches per training step."""
        size = self.tsk_set.batch_size
        return size if isinstance(size, int) else size[0]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal for files that mean the same."""
        return hashlib.sha256(dump_settings(self).encode()).hexdigest()


# ---------------------------------------------------------------- JSON in and out


def find_settings(path: str | Path) -> Path:
    """The settings file at `path`: itself, or the one in a folder under EasyReg's names.

    Raises:
        SettingsError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if path.exists():
            return path
        beside = [path.parent / name for name in SETTINGS_NAMES if (path.parent / name).is_file()]
        hint = f"; did you mean {beside[0]}?" if beside else "; `monaiseg settings init` writes one"
        raise SettingsError(f"{path}: there is no such settings file{hint}")
    found = [path / name for name in SETTINGS_NAMES if (path / name).is_file()]
    if not found:
        raise SettingsError(f"{path}: holds no settings file; put it there as {SETTINGS_NAMES[0]}")
    return found[0]


def load_settings(path: str | Path) -> Settings:
    """Settings from a JSON file; EasyReg's files load unchanged.

    What EasyReg's `data_setting.json` beside it says, where there is one, fills in what the file itself does not say.

    Raises:
        SettingsError: the file is not there, is not JSON, or has faults; all faults are named at once.
    """
    path = Path(path)
    try:
        raw = read_bytes(path, MAX_BYTES)
    except DataError as error:
        raise SettingsError(
            f"{error}; give the path of a settings JSON file, `monaiseg settings init` writes one"
        ) from error
    document = _parse_json(raw, str(path))
    beside = [path.with_name(name) for name in DATA_SETTINGS_NAMES if path.name != name]
    for data_path in [other for other in beside if other.is_file()][:1]:
        document = _with_data_settings(document, path, data_path)
    return settings_from_dict(document, str(path))


def _with_data_settings(document: dict[str, Any], path: Path, data_path: Path) -> dict[str, Any]:
    data_document = _parse_json(read_bytes(data_path), str(data_path))
    for name, parsed in ((path, document), (data_path, data_document)):
        if _is_deep(parsed):
            raise SettingsError(f"{name}: nested too deeply; settings are {MAX_DEPTH} levels deep")
    whole, different = easyreg.with_data_settings(document, data_document)
    if different:
        warnings.warn(
            f"{data_path}: {', '.join(different)} stand in {path.name} with other values, which count",
            MonaisegWarning,
            stacklevel=3,
        )
    return whole


def parse_settings(raw: bytes | str, source: str = "settings") -> Settings:
    """Settings from JSON text. `source` names it in messages."""
    document = _parse_json(raw.encode() if isinstance(raw, str) else raw, source)
    return settings_from_dict(document, source)


def settings_from_dict(document: Mapping[str, Any], source: str = "settings") -> Settings:
    """Settings from nested dictionaries as JSON makes them, in our spelling or EasyReg's."""
    if _is_deep(document):
        raise SettingsError(f"{source}: nested too deeply; settings are {MAX_DEPTH} levels deep")
    translation = easyreg.translate(document)
    problems = [*translation.problems, *(f"{p}: {_unknown_key(p)}" for p in translation.unknown)]
    try:
        settings = Settings.model_validate_json(json.dumps(translation.document))
    except ValidationError as error:
        problems += [_explain(fault, translation) for fault in error.errors()]
    except (TypeError, ValueError) as error:  # json.dumps: what JSON does not have
        problems.append(f"{error}; settings hold what JSON can write")
    if problems:
        lines = dict.fromkeys(f"{source}: {problem}" for problem in problems)
        raise SettingsError(listed(list(lines)))
    if translation.ignored:
        warnings.warn(
            f"{source}: keys that have no effect here:\n" + listed(translation.ignored),
            MonaisegWarning,
            stacklevel=2,
        )
    return settings


def changed(settings: Settings, changes: Mapping[str, Any], source: str = "changes") -> Settings:
    """The settings with other values at some paths.

    >>> changed(Settings(), {"tsk_set.optim.lr": 0.01}).tsk_set.optim.lr
    0.01

    Raises:
        SettingsError: a path or its value is none that settings have; all are named, as standing in `source`.
    """
    document = settings.model_dump(mode="json")
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = document
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise SettingsError(
                    f"{source}: {path}: {name} is not a section; see docs/settings.md"
                )
        section[key] = value
    return settings_from_dict(document, source)


def dump_settings(settings: Settings) -> str:
    """Canonical JSON: every key with its value, in the order of the sections; a list stands on one line."""
    text = settings.model_dump_json(indent=2)
    return re.sub(r"\[\n[^\[\]{}]*\]", _on_one_line, text) + "\n"


def _on_one_line(list_of_scalars: re.Match[str]) -> str:
    # A text in JSON holds no line break: what splits here is the indentation, never a value.
    return (
        "[" + " ".join(line.strip() for line in list_of_scalars[0][1:-1].splitlines()).strip() + "]"
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a settings file, for editors to complete and check with."""
    schema = Settings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["$schema"] = {
        "type": "string",
        "description": "Where an editor finds this schema.",
    }
    return schema


def _parse_json(raw: bytes, source: str) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise SettingsError(f"{source}: {len(raw)} bytes; a settings file has at most {MAX_BYTES}")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingsError(f"{source}: is UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{source}: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from error
    if not text.strip():
        raise SettingsError(f"{source}: is empty; `monaiseg settings init` writes a file to edit")
    repeated: list[str] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                lines = [
                    text.count("\n", 0, match.start()) + 1
                    for match in re.finditer(rf"{re.escape(json.dumps(name))}\s*:", text)
                ]
                repeated.append(
                    f"{source}: key {name!r} stands {names.count(name)} times in one section "
                    f"(lines {', '.join(map(str, lines))}); keep one"
                )
        return dict(pairs)

    def refuse(constant: str) -> Any:
        raise SettingsError(f"{source}: {constant} is not a number of JSON; write a finite number")

    def number(digits: str) -> float:
        value = float(digits)
        return value if abs(value) != float("inf") else refuse(digits)

    try:
        document = json.loads(
            text, object_pairs_hook=object_of, parse_constant=refuse, parse_float=number
        )
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{source}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}); "
            "JSON has no comments and no comma after the last entry"
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"{source}: nested too deeply; settings are {MAX_DEPTH} levels deep"
        ) from error
    except SettingsError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise SettingsError(f"{source}: {error}; write a smaller number") from error
    if repeated:
        raise SettingsError(listed(repeated))
    if not isinstance(document, dict):
        raise SettingsError(
            f"{source}: holds {_shown(document)}; a settings file is an object with the sections "
            "'dataset' and 'tsk_set'"
        )
    return document


def _is_deep(document: Mapping[str, Any]) -> bool:
    """Whether anything lies deeper than `MAX_DEPTH`."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for value in level
            if isinstance(value, Mapping | list | tuple)
            for entry in (value.values() if isinstance(value, Mapping) else value)
        ]
    return any(isinstance(value, Mapping | list | tuple) for value in level)


# ---------------------------------------------------------------- faults in words


def _explain(fault: Any, translation: easyreg.Translation) -> str:
    """One of pydantic's faults as `path.to.key: what; what to use`, the path as the user wrote it."""
    if fault["type"] == "extra_forbidden":
        path = ".".join(map(str, fault["loc"]))
        return f"{path}: {_unknown_key(path)}"
    path, value = _place(fault["loc"], translation.document)
    where = f"{translation.spelled.get(path, path)}: " if path else ""
    if fault["type"] == "value_error":
        return where + str(fault["ctx"]["error"])
    return f"{where}{_shown(value)} is not {_expectation(path)}"


def _place(location: tuple[Any, ...], document: Mapping[str, Any]) -> tuple[str, Any]:
    """Path and value of the key that a fault lies in: pydantic's location goes on into lists and unions."""
    names: list[str] = []
    value: Any = document
    for part in location:
        if not isinstance(value, Mapping) or part not in value:
            break
        names.append(part)
        value = value[part]
    return ".".join(names), value


@functools.cache
def _schema() -> dict[str, Any]:
    return Settings.model_json_schema()


def _node(path: str) -> dict[str, Any]:
    """The schema of the value at `path`."""
    node = schema = _schema()
    for name in filter(None, path.split(".")):
        node = _resolved(node, schema).get("properties", {}).get(name, {})
    return {**_resolved(node, schema), **{k: v for k, v in node.items() if k != "$ref"}}


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    return cast(dict[str, Any], schema["$defs"][node["$ref"].rsplit("/", 1)[1]])


def _unknown_key(path: str) -> str:
    section, _, name = path.rpartition(".")
    ours, theirs = list(_node(section).get("properties", {})), easyreg.names_at(section)
    guess = nearest(name, [*ours, *theirs])
    if guess:
        return f"unknown key; did you mean {guess!r}?"
    return f"unknown key; {section or 'a settings file'} has {', '.join(ours or theirs)}"


def _expectation(path: str) -> str:
    node = _node(path)
    default = f" (default {json.dumps(node['default'])})" if _is_plain(node.get("default")) else ""
    return _in_words(node) + default


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, dict)


def _in_words(node: dict[str, Any]) -> str:
    """A schema node as a phrase: 'a whole number of at least 1'."""
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_in_words(option) for option in node["anyOf"]))
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return json.dumps(node["const"])
    if node.get("type") == "array":
        items = node.get("prefixItems") or [node.get("items", {})]
        count = f"{len(items)} entries, each" if "prefixItems" in node else "entries, each"
        return f"a list of {count} {_in_words(items[0])}"
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "string": "a text",
        "null": "null",
        "object": "a section in braces",
    }
    limits = [
        f"{words} {node[key]:g}"
        for key, words in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in node and node[key] != MOST
    ]
    return " ".join([kinds.get(node.get("type", ""), "a value"), " and ".join(limits)]).strip()


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
