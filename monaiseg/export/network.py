"""The network as an ONNX graph: from windows of any number and size to features."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from monaiseg.errors import CheckpointError
from monaiseg.networks import AtlasPrior, ResidualUNet
from monaiseg.portable import OPERATORS, POSITIONS

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Version of the standard's operators."""
IR_VERSION = 8
"""Version of the file format. The exporter writes a later one, of which nothing is used, and which older runtimes refuse.
Both versions are those of ONNX 1.13. Exported models were run with onnxruntime 1.15 (2023)."""


class _Body(nn.Module):
    """A network without its head, which the sliding window applies after blending."""

    def __init__(self, network: ResidualUNet) -> None:
        super().__init__()
        self.network = network
        if network.prior is not None:
            self.network = copy.deepcopy(network)
            self.network.prior = cast(AtlasPrior, _Coordinates(network.prior))

    def forward(self, image: Tensor) -> Tensor:
        return self.network.features(image)


class _Coordinates(nn.Module):
    """What the body needs of an atlas: the scale of its positions. The atlas itself is added after blending."""

    def __init__(self, prior: AtlasPrior) -> None:
        super().__init__()
        scale = prior.coordinates(torch.ones(1, 3, 1, 1, 1))
        self.register_buffer("scale", scale)

    def coordinates(self, positions: Tensor) -> Tensor:
        return positions * self.get_buffer("scale")


def onnx_network(network: ResidualUNet, num_channels: int) -> onnx.ModelProto:
    """The network's body with the input `image` (B, C, X, Y, Z) and the output `features` (B, F, X / x, Y / y, Z / z).

    A network with an atlas takes the positions of the voxels as three further channels. B is free, and X, Y, Z are any multiples of the network's total stride.

    Raises:
        CheckpointError: the network has an operator that portable models do not have.
    """
    body = _Body(network.cpu()).eval()
    stride = network.topology.total_stride
    inputs = num_channels + (0 if network.prior is None else POSITIONS)
    image = torch.zeros(2, inputs, *(2 * step for step in stride))
    x, y, z = (step * torch.export.Dim(name) for name, step in zip("xyz", stride, strict=True))
    free = {0: torch.export.Dim("batch"), 2: x, 3: y, 4: z}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that are not needed
    try:
        program = torch.onnx.export(
            body,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["features"],
            dynamic_shapes={"image": free},
            verbose=False,
        )
    finally:
        log.setLevel(level)
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    _without_traces(model)
    if strange := {node.op_type for node in model.graph.node} - OPERATORS:
        raise CheckpointError(
            f"the network has the operators {', '.join(sorted(strange))}, which portable models do not have yet; use the "
            "checkpoint itself"
        )
    return model


def _without_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging: lines of source code, with the paths of this computer."""
    parts = [
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    del model.graph.value_info[:]
