"""The sliding window in NumPy chooses the classes that torch's does."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from monaiseg.atlas.random_atlas import random_atlas
from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.networks.sliding_window import sliding_window_class_map
from monaiseg.networks.sliding_window import window_weights as torchs_weights
from monaiseg.networks.topology import plan_topology
from monaiseg.portable.prior import prior_of
from monaiseg.portable.windows import Head, class_map, every_mirror, mirrored, window_weights
from monaiseg.settings import NetworkSettings


def network(variant, num_classes, *, atlas=False):
    torch.manual_seed(0)
    settings = NetworkSettings(variant=variant, channels=4, num_stages=2, atlas=atlas)
    return ResidualUNet(settings, plan_topology(settings, (16, 16, 16), (1, 1, 1)), 2, num_classes).eval()  # fmt: skip


def with_prior(net, num_classes, positions):
    """The network with a random atlas, which places every scan at `positions`; the atlas in NumPy."""
    template, atlas = random_atlas(num_classes, (16, 16, 16), (1, 1, 1))
    net.prior.learn(template, atlas)
    net.prior.positions = lambda *_: positions
    torch.nn.init.normal_(net.head.conv.conv.weight)
    parts = (part.tensors() for part in (template, atlas))
    return prior_of(*({n: t.numpy() for n, t in part.items()} for part in parts), num_classes)


@rules(max_examples=12)
@given(
    variant=st.sampled_from(["standard", "folded"]),
    num_classes=st.sampled_from([2, 3, 30]),
    size=st.tuples(*[st.sampled_from([16, 24, 32])] * 3),
    overlap=st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7])] * 3),
    blending=st.sampled_from(["gaussian", "constant"]),
    flips=st.sets(st.integers(0, 2), max_size=2).map(sorted),
    atlas=st.booleans(),
)
def test_the_class_maps_are_those_of_torch(variant, num_classes, size, overlap, blending, flips, atlas):  # fmt: skip
    net = network(variant, num_classes, atlas=atlas)
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(1))
    positions = 8 * torch.randn(3, *size, generator=torch.Generator().manual_seed(2))
    prior = with_prior(net, num_classes, positions) if atlas else None
    partners = [0, *range(num_classes - 1, 0, -1)]
    expected = sliding_window_class_map(
        net,
        image,
        (16, 16, 16),
        overlap=overlap,
        num_classes=num_classes,
        blending=blending,
        flips=flips,
        partner_classes=partners,
    )

    @torch.inference_mode()
    def features(windows):
        return net.features(torch.from_numpy(windows)).numpy()

    weight, bias = (part.numpy() for part in net.head_matrix())
    mirrors = every_mirror(flips)
    inputs = torch.cat([image[0], positions]) if atlas else image[0]
    found = class_map(
        mirrored(features, mirrors, placed=atlas),
        inputs.numpy(),
        Head(weight, bias).with_mirrors(mirrors, partners),
        (16, 16, 16),
        overlap,
        blending=blending,
        prior=prior,
    )

    assert found.dtype == expected.numpy().dtype
    assert (found != expected.numpy()).mean() < 1e-3  # scores that are equal but for rounding


@given(
    patch=st.tuples(*[st.sampled_from([4, 10, 16])] * 3),
    block=st.sampled_from([(1, 1, 1), (2, 2, 2), (2, 2, 1)]),
    blending=st.sampled_from(["gaussian", "constant"]),
)
def test_windows_are_weighted_as_by_monai(patch, block, blending):
    expected = torchs_weights(patch, block, blending, torch.device("cpu")).numpy()

    assert np.allclose(window_weights(patch, block, blending), expected, rtol=1e-5)
