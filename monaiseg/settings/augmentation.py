"""Settings of augmentation: random changes to each training patch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monaiseg.settings.section import (
    AngleTriple,
    NonNegative,
    Positive,
    PositiveRange,
    Probability,
    Section,
    ShiftTriple,
    Triple,
)


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
