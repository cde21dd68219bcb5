"""Networks: the residual U-Net, its losses and the sliding window."""

from monaiseg.networks.losses import SegmentationLoss, build_loss
from monaiseg.networks.residual_unet import ResidualUNet, network_of
from monaiseg.networks.sliding_window import (
    InBFloat16,
    SlidingWindow,
    count_windows,
    sliding_window_class_map,
    window_options,
    window_shape,
)
from monaiseg.networks.topology import Topology, plan_topology

__all__ = [
    "InBFloat16",
    "ResidualUNet",
    "SegmentationLoss",
    "SlidingWindow",
    "Topology",
    "build_loss",
    "count_windows",
    "network_of",
    "plan_topology",
    "sliding_window_class_map",
    "window_options",
    "window_shape",
]
