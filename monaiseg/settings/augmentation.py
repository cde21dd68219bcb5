"""Settings for augmentation: random changes to each training patch."""

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
    """Maximum angle about each axis, in degrees."""


class ScalingSettings(Section):
    """Random zoom with the same factor along all axes."""

    probability: Probability = 0.3
    """Share of patches that are scaled."""
    factor: PositiveRange = (0.85, 1.2)
    """Range of the factor; above 1, structures become larger."""


class NoiseSettings(Section):
    """Random Gaussian noise, in units of the normalised intensity."""

    probability: Probability = 0.15
    """Share of patches to which noise is added."""
    std: NonNegative = 0.1
    """Maximum standard deviation."""


class SmoothingSettings(Section):
    """Random Gaussian smoothing."""

    probability: Probability = 0.1
    """Share of patches that are smoothed."""
    sigma: PositiveRange = (0.5, 1.0)
    """Range of the kernel's standard deviation, in voxels."""


class BiasFieldSettings(Section):
    """Random smooth multiplicative bias field, like that of a receive coil."""

    probability: Probability = 0.1
    """Share of patches that are multiplied by a bias field."""
    strength: NonNegative = 0.3
    """Maximum magnitude of the field's polynomial coefficients."""


class ContrastSettings(Section):
    """Random contrast: differences from the patch's mean are multiplied by a factor."""

    probability: Probability = 0.15
    """Share of patches whose contrast is changed."""
    factor: PositiveRange = (0.75, 1.25)
    """Range of the factor."""


class GammaSettings(Section):
    """Random gamma correction of intensities: scaled to 0..1, raised to the power of gamma, scaled back."""

    probability: Probability = 0.15
    """Share of patches that are gamma-corrected."""
    gamma: PositiveRange = (0.7, 1.5)
    """Range of the exponent."""


class FlipSettings(Section):
    """Random mirroring. A left-right flip also swaps the labels of left and right partners."""

    left_right: Probability = 0.0
    """Share of patches mirrored left to right. If above 0, each label with a side must have a partner in the label
    table; a label without a name is assumed to have no side."""
    front_back: Probability = 0.0
    """Share of patches mirrored front to back."""
    up_down: Probability = 0.0
    """Share of patches mirrored bottom to top."""


class RigidSettings(Section):
    """Random rigid motion with normally distributed parameters; EasyReg's `random_rigid_transform`."""

    probability: Probability = 0.0
    """Share of patches that are moved."""
    rotation: AngleTriple = (0.0, 0.0, 0.0)
    """Two standard deviations of the rotation about each axis, in degrees: 95 % of the angles are smaller."""
    translation: ShiftTriple = (0.5, 0.5, 0.5)
    """Two standard deviations of the shift along each axis, in voxels: 95 % of the shifts are smaller."""
    target: Literal["both", "image", "label"] = "both"
    """What is moved: the image and the label map together, or only one of them."""


class DeformationSettings(Section):
    """Random smooth deformation by a B-spline on a coarse mesh; EasyReg's `bspline_transform`."""

    probability: Probability = 0.0
    """Share of patches that are deformed."""
    mesh_size: Triple = (2, 2, 2)
    """Number of mesh cells across the patch, along each axis."""
    displacement: NonNegative = 1.0
    """Two standard deviations of the displacement of a mesh point along each axis, in voxels: 95 % are smaller."""
    order: Annotated[int, Field(ge=1, le=3)] = 3
    """Degree of the B-spline."""
    interpolation: Literal["linear", "bspline"] = "linear"
    """Interpolation of the image. `bspline` is cubic: sharper, and about ten times slower."""


class BilateralSettings(Section):
    """Random edge-preserving smoothing by a bilateral filter."""

    probability: Probability = 0.0
    """Share of patches that are filtered."""
    domain_sigma: Annotated[float, Field(gt=0, le=2)] = 0.2
    """Standard deviation in space, in voxels."""
    range_sigma: Positive = 0.06
    """Standard deviation in normalised intensity. Larger differences count as edges."""


class AugmentationSettings(Section):
    """Random changes to each training patch, drawn again each time."""

    enabled: bool = True
    """false: no augmentation at all."""
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
