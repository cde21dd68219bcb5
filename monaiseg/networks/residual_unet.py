"""The network: a residual U-Net like MONAI's DynUNet, planned from patch size and voxel size.

A *stage* is one resolution of the network. The *total stride* of an axis is the product of the strides of all stages.
To *fold* an image is to turn each block of 2 x 2 x 2 voxels into one voxel with eight times the channels (Shi et al.,
CVPR 2016). The blocks are MONAI's (`monai.networks.blocks.dynunet_block`), after Isensee et al., nnU-Net, Nature
Methods 2021, https://doi.org/10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks.dynunet_block import (
    UnetBasicBlock,
    UnetOutBlock,
    UnetResBlock,
    UnetUpBlock,
)
from torch import Tensor, nn
from torch.nn import functional as F

from monaiseg.data import LabelTable, Shape, Spacing
from monaiseg.networks.atlas_prior import AtlasPrior
from monaiseg.networks.topology import Topology, plan_topology
from monaiseg.settings import NetworkSettings, Settings


class ResidualUNet(nn.Module):
    """Residual encoder, skip connections and a light decoder, with one output per resolution during training.

    MONAI's `DynUNet` has the same blocks and weights. It is not used because it cannot fold, and because during
    training it interpolates the coarser outputs to the size of the patch and stacks them: for 57 classes and two
    coarser outputs this takes 2.6 times the memory of outputs and 1.3 times the time of a step (patch of
    64 x 64 x 64, 8 channels).

    The variant `folded` takes the folded image, and its head gives the classes of a whole block. All its convolutions
    are at half the resolution; those at full resolution would take most of the time.

    With an atlas, the last three channels of the image are positions in template mm, see `AtlasPrior`. The head starts
    at zero, so an untrained network gives the label frequencies of the atlas.

    Args:
        settings: norm, residual connections, dropout, number of coarser outputs, and whether there is an atlas.
        topology: stages, finest first.
        in_channels: number of channels of the image, without positions.
        num_classes: number of classes, background included.
        spacing: voxel size in mm along X, Y, Z; used by the atlas.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        topology: Topology,
        in_channels: int,
        num_classes: int,
        spacing: Spacing = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.settings, self.topology, self.in_channels = settings, topology, in_channels
        kernels, channels = topology.kernels, topology.channels
        self.block, *strides = topology.strides
        voxels = math.prod(self.block)
        common: dict[str, Any] = {
            "norm_name": _norm(settings.norm, channels),
            "dropout": settings.dropout or None,
        }
        block = UnetResBlock if settings.residual else UnetBasicBlock
        self.encoder = nn.ModuleList(
            block(3, inputs, outputs, kernel, stride, **common)
            for inputs, outputs, kernel, stride in zip(
                (in_channels * voxels + 3 * settings.atlas, *channels),
                channels,
                kernels,
                ((1, 1, 1), *strides),
                strict=False,
            )
        )
        self.decoder = nn.ModuleList(  # coarsest first
            UnetUpBlock(3, deep, shallow, kernel, stride, upsample_kernel_size=stride, **common)
            for deep, shallow, kernel, stride in reversed(
                list(zip(channels[1:], channels, kernels, strides, strict=False))
            )
        )
        self.head = UnetOutBlock(3, channels[0], num_classes * voxels)
        widths = channels[1:-1][: settings.deep_supervision_heads]
        self.coarse_heads = nn.ModuleList(UnetOutBlock(3, width, num_classes) for width in widths)
        self.apply(_initialise)
        self.apply(_drop_channels)
        self.prior = AtlasPrior(num_classes, spacing) if settings.atlas else None
        if self.prior is not None:
            for weights in self.head.parameters():
                nn.init.zeros_(weights)

    def forward(
        self, image: Tensor, *, places: Tensor | None = None, cases: Sequence[str] | None = None
    ) -> Tensor | list[Tensor]:
        """Logits (B, K, X, Y, Z) of an image (B, C, X, Y, Z).

        A list of them, finest first, when training with coarser outputs.

        Args:
            image: the image, followed by three channels with positions if there is an atlas.
            places: (B, N), positions on the grid of `features`, flattened. The result is then the logits of their
                blocks alone, (B, K, x * y * z * N, 1, 1), in the order of `at_places`.
            cases: for an atlas, the training cases that the images are patches of.
        """
        finest, *coarser = self._decode(self._encode(self._folded(image)))
        logits = (
            self._logits(finest, image, cases)
            if places is None
            else self.logits_at(finest, image, places, cases)
        )
        if not (self.training and len(self.coarse_heads)):
            return logits
        heads = zip(self.coarse_heads, coarser, strict=False)
        return [logits, *(head(features) for head, features in heads)]

    def _logits(self, features: Tensor, image: Tensor, cases: Sequence[str] | None) -> Tensor:
        logits: Tensor = unfolded(self.head(features), self.block)  # (B, K, X, Y, Z)
        if self.prior is None:
            return logits
        positions = image[:, self.in_channels :].flatten(2)
        return logits.float() + self.prior.logits(positions, cases).view(logits.shape)

    def logits_at(
        self, features: Tensor, image: Tensor, places: Tensor, cases: Sequence[str] | None = None
    ) -> Tensor:
        """Logits at some places of the features of an image; for the arguments see `forward`."""
        chosen = features.flatten(2).gather(2, places[:, None].expand(-1, features.shape[1], -1))
        scores = self.head(chosen[..., None, None])  # (B, K * x * y * z, N, 1, 1)
        voxels = math.prod(self.block) * places.shape[1]
        logits: Tensor = scores.reshape(len(scores), -1, voxels, 1, 1)
        if self.prior is None:
            return logits
        positions = at_places(image[:, self.in_channels :], places, self.block)
        return logits.float() + self.prior.logits(positions, cases).view(logits.shape)

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F, X / x, Y / y, Z / z), the input of the head; (x, y, z) is `block`."""
        return self._decode(self._encode(self._folded(image)))[0]

    def head_matrix(self) -> tuple[Tensor, Tensor]:
        """Weight (K, x, y, z, F) and bias (K, x, y, z) of the head."""
        (convolution,) = (m for m in self.head.modules() if isinstance(m, nn.Conv3d))
        assert convolution.bias is not None
        num_features = convolution.in_channels
        weight = convolution.weight.detach().reshape(-1, *self.block, num_features)
        return weight, convolution.bias.detach().reshape(-1, *self.block)

    def _folded(self, image: Tensor) -> Tensor:
        """Input of the encoder: the folded image and, with an atlas, the coordinates of the blocks."""
        if self.prior is None:
            return folded(image, self.block)
        intensities, positions = image.tensor_split([self.in_channels], dim=1)
        coordinates = self.prior.coordinates(F.avg_pool3d(positions, self.block))
        return torch.cat([folded(intensities, self.block), coordinates.to(intensities)], dim=1)

    def _encode(self, image: Tensor) -> list[Tensor]:
        skips: list[Tensor] = []
        for block in self.encoder:
            image = block(image)
            skips.append(image)
        return skips  # (B, C_s, X / stride_s, ...), finest first

    def _decode(self, skips: list[Tensor]) -> list[Tensor]:
        features = [skips[-1]]
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            features.append(block(features[-1], skip))
        return features[:0:-1] or features  # without the coarsest, finest first


def folded(image: Tensor, block: Shape) -> Tensor:
    """Image (B, C, X, Y, Z) as (B, C * x * y * z, X / x, Y / y, Z / z): the voxels of a block become channels.

    >>> import torch
    >>> folded(torch.arange(4.0).view(1, 1, 4, 1, 1), (2, 1, 1)).flatten(2)[0]
    tensor([[0., 2.],
            [1., 3.]])
    """
    x, y, z = block
    batch, channels, size_x, size_y, size_z = image.shape
    blocks = image.reshape(batch, channels, size_x // x, x, size_y // y, y, size_z // z, z)
    of_block = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6)  # (B, C, x, y, z, X / x, Y / y, Z / z)
    return of_block.reshape(batch, channels * x * y * z, size_x // x, size_y // y, size_z // z)


def unfolded(image: Tensor, block: Shape) -> Tensor:
    """The inverse of `folded`: (B, C * x * y * z, X, Y, Z) as (B, C, X * x, Y * y, Z * z)."""
    x, y, z = block
    batch, channels, size_x, size_y, size_z = image.shape
    channels //= x * y * z
    blocks = image.reshape(batch, channels, x, y, z, size_x, size_y, size_z)
    in_place = blocks.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, C, X, x, Y, y, Z, z)
    return in_place.reshape(batch, channels, size_x * x, size_y * y, size_z * z)


def at_places(image: Tensor, places: Tensor, block: Shape) -> Tensor:
    """Voxels (B, C, x * y * z * N) of an image (B, C, X, Y, Z) in some of its blocks of (x, y, z) voxels.

    Args:
        image: the image, or a label map.
        places: (B, N), indices into the flattened grid of blocks, (X / x, Y / y, Z / z).
        block: shape of a block in voxels.
    """
    batch, channels = image.shape[:2]
    blocks = folded(image, block).reshape(batch, channels, math.prod(block), -1)
    chosen = places[:, None, None].expand(-1, channels, math.prod(block), -1)
    return blocks.gather(3, chosen).flatten(2)


def network_of(settings: Settings, table: LabelTable, spacing: Spacing) -> ResidualUNet:
    """The network that settings, label table and voxel size (mm along X, Y, Z) describe."""
    network = settings.tsk_set.network
    topology = plan_topology(network, settings.patch_shape, spacing)
    return ResidualUNet(
        network, topology, settings.dataset.num_channels, table.num_classes, spacing
    )


def _norm(name: str, channels: tuple[int, ...]) -> tuple[str, dict[str, object]] | str:
    if name == "none":
        return ""
    if name == "group":
        groups = math.gcd(8, *channels)
        return ("group", {"num_groups": groups, "affine": True})
    return (name, {"affine": True})


def _initialise(module: nn.Module) -> None:
    # Random numbers on the meta device, where a checkpoint's description is checked, make torch import its compiler: 0.5 s.
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _drop_channels(module: nn.Module) -> None:
    """Drop whole channels rather than single voxels as MONAI's blocks do, because neighbouring voxels are correlated.

    Tompson et al., https://arxiv.org/abs/1411.4280.
    """
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, nn.Dropout3d(child.p))
