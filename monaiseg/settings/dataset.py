"""Settings in the section `dataset`: what is read, and how it is prepared for the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from typing_extensions import Self

from monaiseg.settings.augmentation import AugmentationSettings
from monaiseg.settings.section import (
    MOST,
    AllOrCount,
    Count,
    MarginTriple,
    NonNegative,
    Positive,
    Probability,
    Range,
    Section,
    SizeTriple,
    SpacingTriple,
    Triple,
    as_tuple,
)


class IntensitySettings(Section):
    """How intensities are normalised, separately for each image and channel."""

    method: Literal["zscore", "minmax", "percentile", "none"] = "zscore"
    """`zscore`: mean 0 and standard deviation 1. `minmax`: the minimum becomes -1 and the maximum 1. `percentile`: the
    minimum becomes -1 and the given percentile 0.9; values above it are not clipped. `none`: unchanged."""
    region: Literal["image", "foreground"] = "image"
    """Voxels that the statistics are computed from: the whole image, or only voxels above zero."""
    clip_range: Range | None = None
    """Range that intensities are clipped to before normalisation. null: no clipping."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 95.0
    """Upper percentile for the `percentile` method."""


class CacheSettings(Section):
    """Where images are cached after the deterministic transforms."""

    where: Literal["auto", "memory", "disk", "none"] = "auto"
    """`auto`: in memory if the prepared cases fit, otherwise in memory-mapped files in the data task's folder."""
    memory_gb: Positive | None = None
    """Maximum memory for the cache, in GiB. null: half of the memory that is free when training starts."""


class SamplingSettings(Section):
    """Where training patches are cut."""

    method: Literal["pos_neg", "balanced", "uniform"] = "pos_neg"
    """`pos_neg`: patches are centred on foreground or background in the ratio pos : neg (RandCropByPosNegLabeld).
    `balanced`: patches are centred on each class equally often (RandCropByLabelClassesd). `uniform`: anywhere."""
    pos: NonNegative = 2.0
    """Weight of foreground centres with `pos_neg`."""
    neg: NonNegative = 1.0
    """Weight of background centres with `pos_neg`."""
    centres_per_class: AllOrCount = -1
    """Maximum number of different centres for each class of an image, evenly spread. -1: no limit."""
    least_class_share: Probability = 0.0
    """Minimum share of a class's voxels in the image that a patch centred on this class must contain. With `pos_neg`,
    the whole foreground counts as one class. A patch that contains less is drawn again, at most 20 times; after that
    the fullest patch is used."""
    least_patch_share: Annotated[tuple[Probability, ...], BeforeValidator(as_tuple)] = ()
    """Minimum share of the patch that the class it is centred on must fill: one value per class, background first.
    Classes beyond the end of the list use `least_class_share`."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.pos + self.neg == 0:
            raise ValueError("pos and neg are both 0; give one of them a weight")
        return self


class PartitionSettings(Section):
    """How sliding-window inference tiles a volume, in validation and prediction."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the patch that neighbouring windows have in common."""
    overlap_size: MarginTriple | None = None
    """Margin in voxels on each side of a window, as in EasyReg: neighbouring windows overlap by twice as much.
    Overrides `overlap`."""
    blending: Literal["gaussian", "constant"] = "gaussian"
    """How the voxels of a window are weighted where windows overlap."""
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    """How to pad volumes that are smaller than the patch, or whose size is not a multiple of 16. `constant` pads with
    the minimum intensity; the other modes continue the image and the label map."""
    flips: tuple[Literal["left_right", "front_back", "up_down"], ...] = ()
    """Directions for test-time mirroring: the trained network also predicts each window mirrored, and the scores are
    averaged. Each direction doubles the time. With `left_right`, the scores of left and right partners are swapped.
    Training validates without mirroring; after its last step it also validates with it, and predictions mirror windows
    only if that raised the mean Dice by at least 0.0005."""


class SegDataSettings(Section):
    """Labels, patches and augmentation."""

    patch_size: Triple = (64, 64, 64)
    """Size of training patches and prediction windows, in voxels. Each entry must be a multiple of the network's total
    stride along that axis."""
    interested_label_list: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=MOST)], ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
    ] = (-1,)
    """Label values to keep; all others become background. [-1]: all values in the data task."""
    crops_per_image: Count = 1
    """Patches cut from an image each time it is drawn."""
    use_whole_img_as_input: bool = False
    """Use whole (padded) images instead of patches and windows, in training, validation and prediction."""
    sampling: SamplingSettings = SamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    partition: PartitionSettings = PartitionSettings()

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        margins = self.partition.overlap_size or (0, 0, 0)
        for axis, margin, size in zip("xyz", margins, self.patch_size, strict=True):
            if 2 * margin >= size:
                raise ValueError(
                    f"partition.overlap_size: {margin} on both sides leaves nothing of a patch of "
                    f"{size} voxels along {axis}; use 0 to {(size - 1) // 2}"
                )
        return self


class DatasetSettings(Section):
    """What is read, and how it is prepared for the network."""

    task_type: Literal["seg"] = "seg"
    """Kind of task; segmentation is the only one."""
    axis_order: Annotated[
        Literal["xyz"], WithJsonSchema({"enum": ["zyx", "xyz"], "type": "string"})
    ] = Field("xyz", json_schema_extra={"default": "zyx"})
    """Order of the axes in every spatial list of this file. A file without this key is read as `zyx`, EasyReg's order.
    The axes are those of RAS orientation: x points right, y to the front, z up. After reading, all lists are in x, y, z
    order; files written by monaiseg say `xyz`."""
    num_channels: Count = 1
    """Images per case; each is one input channel."""
    max_num_for_loading: Annotated[
        tuple[AllOrCount, AllOrCount, AllOrCount, AllOrCount], BeforeValidator(as_tuple)
    ] = (-1, -1, -1, -1)
    """Maximum number of cases to use from train, val, test and debug, chosen with the seed. -1: all."""
    img_after_resize: SizeTriple = (-1, -1, -1)
    """Resample every image to this size, rounded up to multiples of 16. [-1, -1, -1]: keep the size and pad to
    multiples of 16."""
    spacing: SpacingTriple | None = None
    """Resample to this voxel size in mm first. null: as in the file."""
    intensity: IntensitySettings = IntensitySettings()
    cache: CacheSettings = CacheSettings()
    seg: SegDataSettings = SegDataSettings()
