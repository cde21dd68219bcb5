"""Settings of the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from monaiseg.settings.section import MOST, ChannelCount, Section, all_or_classes


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

    class_num: Annotated[int, Field(ge=-1, le=MOST), AfterValidator(all_or_classes)] = -1
    """Classes with background. -1: the size of the label table."""
