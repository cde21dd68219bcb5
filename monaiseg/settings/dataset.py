"""Settings of the section `dataset`: what is read, and how it is brought to the network."""

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
    least_patch_share: Annotated[tuple[Probability, ...], BeforeValidator(as_tuple)] = ()
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


class SegDataSettings(Section):
    """Labels, patches and augmentation."""

    patch_size: Triple = (64, 64, 64)
    """Size of training patches and prediction windows, in voxels. Each must divide by the network's total stride."""
    interested_label_list: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=MOST)], ...],
        BeforeValidator(as_tuple),
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
        for axis, margin, size in zip("xyz", margins, self.patch_size, strict=True):
            if 2 * margin >= size:
                raise ValueError(
                    f"partition.overlap_size: {margin} on both sides leaves nothing of patch_size "
                    f"{size} along {axis}; use 0 to {(size - 1) // 2}"
                )
        return self


class DatasetSettings(Section):
    """What is read, and how it is brought to the network."""

    task_type: Literal["seg"] = "seg"
    """The one kind of task: segmentation."""
    axis_order: Annotated[
        Literal["xyz"], WithJsonSchema({"enum": ["zyx", "xyz"], "type": "string"})
    ] = Field("xyz", json_schema_extra={"default": "zyx"})
    """Order of every spatial list in this file; `zyx`, EasyReg's, where the file does not say it. Axes are those of RAS
    orientation: x to the right, y to the front, z up. Once read, all lists are in x, y, z order, and files that are
    written say `xyz`."""
    num_channels: Count = 1
    """Images per case, one a channel."""
    max_num_for_loading: Annotated[
        tuple[AllOrCount, AllOrCount, AllOrCount, AllOrCount], BeforeValidator(as_tuple)
    ] = (-1, -1, -1, -1)
    """At most so many cases of train, val, test and debug; a seeded choice. -1: all."""
    img_after_resize: SizeTriple = (-1, -1, -1)
    """Resample every image to this size, rounded up to multiples of 16. [-1, -1, -1]: keep the size and pad to multiples of 16."""
    spacing: SpacingTriple | None = None
    """Resample to this voxel size in mm first. null: as in the file."""
    intensity: IntensitySettings = IntensitySettings()
    cache: CacheSettings = CacheSettings()
    seg: SegDataSettings = SegDataSettings()
