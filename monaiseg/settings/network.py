"""Settings for the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from monaiseg.settings.section import MOST, ChannelCount, Section, all_or_classes


class NetworkSettings(Section):
    """The residual U-Net. Its depth, kernels and strides follow from the patch size and spacing unless given."""

    variant: Literal["standard", "folded"] = "standard"
    """`standard`: a DynUNet at full resolution. `folded`: the same network at half the resolution; each block of
    2 x 2 x 2 voxels is folded into eight times as many channels, and the head predicts the classes of the whole block
    at once. `folded` is many times faster on a CPU."""
    channels: ChannelCount = 32
    """Channels of the first stage; each deeper stage has twice as many."""
    max_channels: ChannelCount = 320
    """Maximum number of channels of any stage."""
    num_stages: Annotated[int, Field(ge=2, le=8)] | None = None
    """Number of resolution stages; refused if the patch is too small for it. null: as many as the patch allows, at most
    5."""
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    """Normalisation after each convolution."""
    residual: bool = True
    """Whether each block has a residual connection."""
    deep_supervision_heads: Annotated[int, Field(ge=0, le=4)] = 2
    """Number of coarser outputs that the loss includes, each at its own resolution; fewer if the network is too
    shallow."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of channels that are dropped during training."""
    atlas: bool = False
    """Whether the network starts from an atlas: the label frequencies of the training cases at each place of the body.
    Every scan is registered to the mean of the training images; positions there are further input channels, and the
    logarithms of the frequencies are added to the logits. Requires `dataset.spacing`."""


class SegNetSettings(Section):
    """The network's classes."""

    class_num: Annotated[int, Field(ge=-1, le=MOST), AfterValidator(all_or_classes)] = -1
    """Number of classes, including background. -1: the size of the label table."""
