"""Blended features give the label map of blended scores."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch.utils._python_dispatch import TorchDispatchMode

from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.networks.sliding_window import (
    HasFeatures,
    sliding_window_class_map,
    window_weights,
)
from monaiseg.networks.topology import plan_topology
from monaiseg.settings.network import NetworkSettings

PATCH = (16, 16, 16)
CPU = torch.device("cpu")


def small_network(variant: str, num_classes: int) -> ResidualUNet:
    torch.manual_seed(num_classes)
    settings = NetworkSettings(variant=variant, channels=4, num_stages=2)
    topology = plan_topology(settings, PATCH, (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, 1, num_classes).eval()
    torch.nn.init.normal_(network.head.conv.conv.bias)
    return network


def blended_scores(network, image, overlap, flips, partners):
    """Scores (K, X, Y, Z) of the whole volume, added up window by window, mirror image by mirror image."""
    weights = window_weights(PATCH, network.block, "gaussian", CPU)
    for axis, step in enumerate(network.block):
        weights = weights.repeat_interleave(step, dim=axis)
    interval = [max(int(16 * (1 - overlap)) // step, 1) * step for step in network.block]
    starts = [
        sorted({*range(0, size - 16, step), size - 16}) if size > 16 else [0]
        for size, step in zip(image.shape[2:], interval, strict=True)
    ]
    total, weight = 0.0, torch.zeros(image.shape[2:])
    for subset in itertools.chain.from_iterable(
        itertools.combinations(flips, n) for n in range(len(flips) + 1)
    ):
        scores = torch.zeros(len(partners), *image.shape[2:])
        dims = [axis + 2 for axis in subset]
        for x, y, z in itertools.product(*starts):
            window = (slice(x, x + 16), slice(y, y + 16), slice(z, z + 16))
            logits = network(image[(slice(None), slice(None), *window)].flip(dims)).flip(dims)[0]
            logits = logits[list(partners)] if 0 in subset else logits
            scores[(slice(None), *window)] += logits * weights
            weight[window] += weights if not subset else 0
        total = total + scores
    return total / weight


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    variant=st.sampled_from(["standard", "folded"]),
    num_classes=st.integers(2, 9),
    blocks=st.tuples(*[st.integers(8, 14)] * 3),
    overlap=st.floats(0, 0.8),
    flips=st.lists(st.integers(0, 2), unique=True, max_size=2),
    batch=st.integers(1, 3),
    exchange=st.booleans(),
)
def test_blended_features_give_the_label_map_of_blended_scores(
    variant, num_classes, blocks, overlap, flips, batch, exchange
):
    network = small_network(variant, num_classes)
    assert isinstance(network, HasFeatures)
    image = torch.randn(1, 1, *(2 * n for n in blocks))
    partners = list(range(num_classes))
    if exchange:
        partners[0], partners[1] = 1, 0

    ours = sliding_window_class_map(
        network,
        image,
        PATCH,
        overlap=(overlap,) * 3,
        num_classes=num_classes,
        flips=flips,
        partner_classes=partners,
        window_batch=batch,
    )

    with torch.no_grad():
        scores = blended_scores(network, image, overlap, flips, partners)
    best, second = scores.topk(2, dim=0).values
    clear = best - second > 1e-4
    assert torch.equal(ours[clear].long(), scores.argmax(dim=0)[clear])
    assert clear.float().mean() > 0.99


def test_with_the_same_window_weights_the_label_map_is_monais():
    network = small_network("folded", 5)
    image = torch.randn(1, 1, 32, 48, 32)
    weights = window_weights(PATCH, network.block, "gaussian", CPU)
    for axis in range(3):
        weights = weights.repeat_interleave(2, dim=axis)
    with torch.no_grad():
        theirs = sliding_window_inference(image, PATCH, 2, network, 0.5, roi_weight_map=weights)
    best, second = theirs[0].topk(2, dim=0).values

    ours = sliding_window_class_map(network, image, PATCH, overlap=(0.5,) * 3, num_classes=5)

    clear = best - second > 1e-4
    assert torch.equal(ours[clear].long(), theirs.argmax(dim=1)[0][clear])


@pytest.mark.parametrize("size", [17, 19, 31])
def test_sizes_that_do_not_divide_by_the_block_are_labelled_whole(size):
    network = small_network("folded", 3)

    classes = sliding_window_class_map(
        network, torch.randn(1, 1, size, 20, 18), PATCH, overlap=(0.5,) * 3, num_classes=3
    )

    assert classes.shape == (size, 20, 18)
    assert classes.max() < 3


def test_no_tensor_grows_with_the_classes_times_the_slab():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            output = function(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor):
                largest = max(largest, output.numel())
            return output

    image, network = torch.randn(1, 1, 16, 64, 32), small_network("folded", 200)
    tile = 200 * 16 * 2 * 32  # scores of one plane of blocks

    from monaiseg.networks import sliding_window

    before, sliding_window.TILE_SCORES = sliding_window.TILE_SCORES, tile
    try:
        with Watch():
            sliding_window_class_map(network, image, PATCH, overlap=(0.5,) * 3, num_classes=200)
    finally:
        sliding_window.TILE_SCORES = before

    assert largest <= tile  # the slab would hold 200 x 16 x 16 x 32 scores, eight times as many
