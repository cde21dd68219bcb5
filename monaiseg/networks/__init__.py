"""Networks: the residual U-Net, its losses and the sliding window."""

from monaiseg.networks.atlas_prior import AtlasPrior
from monaiseg.networks.losses import SegmentationLoss, build_loss
from monaiseg.networks.residual_unet import ResidualUNet, at_places, network_of
from monaiseg.networks.sliding_window import (
    TILE_SCORES,
    InBFloat16,
    SlidingWindow,
    count_windows,
    sliding_window_class_map,
    window_options,
    window_shape,
)
from monaiseg.networks.topology import Topology, plan_topology

__all__ = [
    "TILE_SCORES",
    "AtlasPrior",
    "InBFloat16",
    "ResidualUNet",
    "SegmentationLoss",
    "SlidingWindow",
    "Topology",
    "at_places",
    "build_loss",
    "count_windows",
    "network_of",
    "plan_topology",
    "sliding_window_class_map",
    "window_options",
    "window_shape",
]
