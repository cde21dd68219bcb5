"""The network: planned strides, shapes in and out, errors that name the next sizes."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monaiseg.errors import SettingsError
from monaiseg.networks.residual_unet import ResidualUNet, folded, unfolded
from monaiseg.networks.topology import plan_topology
from monaiseg.settings.network import NetworkSettings

SMALL = NetworkSettings(channels=8, norm="instance")


@pytest.mark.parametrize(
    ("patch_shape", "total_stride"),
    [
        ((96, 96, 96), (16, 16, 16)),
        (
            (72, 72, 72),
            (8, 8, 8),
        ),  # EasyReg's LPBA patch: the fourth halving would leave half a voxel
        ((40, 56, 40), (8, 8, 8)),
        ((64, 64, 16), (16, 16, 4)),
    ],
)
def test_an_axis_is_halved_while_four_voxels_remain(patch_shape, total_stride):
    assert plan_topology(SMALL, patch_shape, (1.0, 1.0, 1.0)).total_stride == total_stride


def test_a_patch_that_no_stride_divides_is_refused_with_the_next_sizes():
    with pytest.raises(SettingsError, match="100 along Y is not a multiple of 16 .* use 96 or 112"):
        plan_topology(SMALL, (96, 100, 96), (1.0, 1.0, 1.0))


def test_thick_slices_wait_until_the_other_axes_have_caught_up():
    topology = plan_topology(SMALL, (96, 96, 24), (1.0, 1.0, 4.0))

    assert topology.strides[:3] == ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    assert topology.kernels[0] == (3, 3, 1)
    assert topology.kernels[2] == (3, 3, 3)


@pytest.mark.parametrize(("variant", "most"), [("standard", 3), ("folded", 2)])
def test_more_stages_than_the_patch_allows_are_refused_with_the_number_that_fits(variant, most):
    five = NetworkSettings(variant=variant, num_stages=5)
    fitting = NetworkSettings(variant=variant, num_stages=most)
    with pytest.raises(SettingsError, match=rf"num_stages: 5 stages, .* use at most {most}, null"):
        plan_topology(five, (16, 16, 16), (1.0, 1.0, 1.0))

    assert len(plan_topology(fitting, (16, 16, 16), (1.0, 1.0, 1.0)).strides) == most


def test_channels_double_up_to_the_limit():
    settings = NetworkSettings(channels=16, max_channels=40)

    assert plan_topology(settings, (64, 64, 64), (1, 1, 1)).channels == (16, 32, 40, 40, 40)


@pytest.mark.parametrize("variant", ["standard", "folded"])
@given(multiples=st.tuples(*[st.integers(2, 3)] * 3))
@hypothesis_settings(max_examples=5)
def test_the_output_has_the_shape_of_every_divisible_input(variant, multiples):
    settings = NetworkSettings(variant=variant, channels=8, num_stages=3)
    topology = plan_topology(settings, (32, 32, 32), (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, in_channels=2, num_classes=3).eval()
    shape = tuple(n * s for n, s in zip(multiples, topology.total_stride, strict=True))

    with torch.inference_mode():
        assert network(torch.zeros(1, 2, *shape)).shape == (1, 3, *shape)


@pytest.mark.parametrize(("variant", "sizes"), [("standard", (32, 16, 8)), ("folded", (32, 8, 4))])
def test_each_head_keeps_its_own_resolution_while_training(variant, sizes):
    settings = NetworkSettings(variant=variant, channels=8, deep_supervision_heads=2)
    topology = plan_topology(settings, (64, 64, 64), (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, 1, 4)

    outputs = network(torch.zeros(2, 1, 32, 32, 32))

    assert [tuple(output.shape) for output in outputs] == [(2, 4, *(n,) * 3) for n in sizes]


def test_folding_makes_channels_of_the_voxels_of_a_block():
    image = torch.arange(16.0).view(1, 1, 4, 2, 2)  # voxel (x, y, z) holds 4 x + 2 y + z

    assert folded(image, (2, 2, 2)).flatten(2)[0].T.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14, 15],
    ]


@given(
    block=st.tuples(*[st.integers(1, 3)] * 3),
    blocks=st.tuples(*[st.integers(1, 3)] * 3),
    channels=st.integers(1, 3),
)
def test_unfolding_undoes_folding(block, blocks, channels):
    shape = tuple(size * count for size, count in zip(block, blocks, strict=True))
    image = torch.randn(2, channels, *shape)

    assert torch.equal(unfolded(folded(image, block), block), image)


def test_thick_slices_are_not_folded_together():
    settings = NetworkSettings(variant="folded", channels=8)

    topology = plan_topology(settings, (64, 64, 16), (1.0, 1.0, 3.0))

    assert topology.strides == ((2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert topology.kernels[0] == (3, 3, 3)  # folded voxels measure 2 x 2 x 3 mm


@pytest.mark.parametrize("variant", ["standard", "folded"])
def test_every_weight_learns(variant):
    settings = NetworkSettings(variant=variant, channels=4, deep_supervision_heads=1)
    topology = plan_topology(settings, (32, 32, 32), (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, 1, 3)

    outputs = network(torch.randn(1, 1, 32, 32, 32))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()

    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("variant", ["standard", "folded"])
def test_a_traced_network_gives_the_same_logits_at_other_sizes(variant):
    settings = NetworkSettings(variant=variant, channels=4)
    topology = plan_topology(settings, (32, 32, 32), (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, 1, 3).eval()
    image = torch.randn(2, 1, 48, 32, 16)

    with torch.inference_mode():
        traced = torch.jit.trace(network, torch.randn(1, 1, 32, 32, 32))
        torch.testing.assert_close(traced(image), network(image))


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_norm_trains_and_a_reloaded_network_gives_the_same_logits(norm):
    settings = NetworkSettings(norm=norm, channels=8, num_stages=2, deep_supervision_heads=0)
    topology = plan_topology(settings, (16, 16, 16), (1.0, 1.0, 1.0))
    network = ResidualUNet(settings, topology, 1, 2)
    network(torch.randn(2, 1, 16, 16, 16)).square().mean().backward()
    saved = io.BytesIO()
    torch.save(network.state_dict(), saved)
    saved.seek(0)
    other = ResidualUNet(settings, topology, 1, 2)
    other.load_state_dict(torch.load(saved, weights_only=True))
    image = torch.randn(1, 1, 16, 16, 16)

    with torch.inference_mode():
        assert torch.equal(network.eval()(image), other.eval()(image))


@pytest.mark.parametrize("residual", [True, False])
def test_dropout_drops_whole_channels_and_only_while_training(residual):
    settings = NetworkSettings(
        channels=32,
        num_stages=2,
        residual=residual,
        norm="none",
        dropout=0.5,
        deep_supervision_heads=0,
    )
    network = ResidualUNet(settings, plan_topology(settings, (16,) * 3, (1.0,) * 3), 1, 2)
    seen = []
    first = network.encoder[0].conv1
    first.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    image = torch.rand(1, 1, 16, 16, 16) + 1

    network(image)
    network.eval()(image)

    dropped, kept = ((features == 0).flatten(2).float().mean(dim=2) for features in seen)
    assert set(dropped.unique().tolist()) == {
        0.0,
        1.0,
    }  # of each channel: none of its voxels, or all
    assert 0.2 < dropped.mean() < 0.8
    assert kept.max() == 0


def test_the_same_seed_gives_the_same_weights():
    topology = plan_topology(SMALL, (16, 16, 16), (1.0, 1.0, 1.0))
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(ResidualUNet(SMALL, topology, 1, 2).state_dict())

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
