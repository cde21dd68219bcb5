"""The streaming sliding window against MONAI's, which holds the scores of the whole volume."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from monaiseg.data.labels import LabelTable
from monaiseg.errors import SettingsError
from monaiseg.networks.residual_unet import ResidualUNet
from monaiseg.networks.sliding_window import (
    InBFloat16,
    SlidingWindow,
    count_windows,
    sliding_window_class_map,
    window_weights,
)
from monaiseg.networks.topology import plan_topology
from monaiseg.settings import NetworkSettings
from monaiseg.settings.reading import settings_from_dict

K = 5
LABELS = LabelTable.from_values(
    range(1, 5), {1: "left hip", 2: "right hip", 3: "stem", 4: "vermis"}
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv3d(8, K, 3, padding=1)
    ).eval()


@hypothesis_settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(8, 40)] * 3),
    patch=st.tuples(*[st.integers(4, 24)] * 3),
    overlap=st.floats(0, 0.9),
)
def test_windows_are_counted_as_they_are_run(shape, patch, overlap):
    size = tuple(map(max, shape, patch))  # a smaller image is padded
    ran: list[int] = []

    sliding_window_class_map(
        lambda windows: windows,
        torch.zeros(1, 1, *shape),
        patch,
        overlap=(overlap,) * 3,
        num_classes=1,
        on_progress=lambda _, windows: ran.append(windows),
    )

    assert count_windows(size, patch, (overlap,) * 3) == ran[-1]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize(
    "shape", [(24, 16, 16), (17, 33, 20), (9, 16, 40), (5, 6, 7), (16, 16, 16)]
)
def test_the_class_map_is_the_argmax_of_monais_scores(network, shape, overlap, blending):
    image = torch.randn(1, 1, *shape)
    with torch.inference_mode():
        scores = sliding_window_inference(image, (16, 16, 16), 2, network, overlap, mode=blending)
    ours = sliding_window_class_map(
        network, image, (16, 16, 16), overlap=(overlap,) * 3, num_classes=K, blending=blending
    )

    theirs = scores.argmax(dim=1)[0]
    top = scores[0].topk(2, dim=0).values
    tie = top[0] - top[1] < 1e-5  # sums in another order may turn these
    assert ours.shape == shape
    assert torch.equal(ours[~tie].long(), theirs[~tie])
    assert tie.float().mean() < 0.001


def test_a_network_that_knows_the_answer_gives_it_back():
    image = torch.randint(0, K, (1, 1, 21, 18, 30)).float()

    def one_hot(x):
        return torch.stack([(x[:, 0] == k).float() for k in range(K)], dim=1)

    ours = sliding_window_class_map(one_hot, image, (8, 8, 8), overlap=(0.5,) * 3, num_classes=K)

    assert torch.equal(ours.float(), image[0, 0])


def test_mirrored_windows_exchange_partners_left_to_right():
    image = torch.zeros(1, 1, 8, 8, 8)

    def left_half_is_1_right_half_is_2(x):
        half = torch.arange(x.shape[2]) < x.shape[2] // 2
        scores = torch.zeros(x.shape[0], 3, *x.shape[2:])
        scores[:, 1, half], scores[:, 2, ~half] = 1.0, 1.0
        return scores

    options = {"overlap": (0.0,) * 3, "num_classes": 3}
    plain = sliding_window_class_map(left_half_is_1_right_half_is_2, image, (8, 8, 8), **options)
    mirrored = sliding_window_class_map(
        left_half_is_1_right_half_is_2,
        image,
        (8, 8, 8),
        flips=(0,),
        partner_classes=(0, 2, 1),
        **options,
    )

    assert torch.equal(plain, mirrored)


def test_mirror_images_make_any_network_symmetric(network):
    image = torch.randn(1, 1, 16, 16, 16)
    partners = (0, 2, 1, 4, 3)
    options = {
        "overlap": (0.0,) * 3,
        "num_classes": K,
        "flips": (0, 1),
        "partner_classes": partners,
    }

    plain = sliding_window_class_map(network, image, (16, 16, 16), **options)
    mirrored = sliding_window_class_map(network, image.flip(2), (16, 16, 16), **options)

    assert torch.equal(torch.tensor(partners)[mirrored.long().flip(0)], plain.long())


def test_no_tensor_is_as_large_as_the_scores_of_the_volume():
    image, largest = torch.zeros(1, 1, 8, 64, 8), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            output = function(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor):
                largest = max(largest, output.numel())
            return output

    def scores(windows):
        return torch.zeros(len(windows), 50, *windows.shape[2:])

    with Watch():
        sliding_window_class_map(scores, image, (8, 8, 8), overlap=(0.5,) * 3, num_classes=50)

    assert (
        largest <= 2 * 50 * 8**3
    )  # the scores of a batch of two windows; the volume has 50 x 8 x 64 x 8
    assert largest < 50 * image.numel() / 3


def test_progress_counts_every_window(network):
    seen = []
    image = torch.zeros(1, 1, 32, 16, 16)
    sliding_window_class_map(
        network,
        image,
        (16, 16, 16),
        overlap=(0.5,) * 3,
        num_classes=K,
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen[-1] == (3, 3)


def test_the_engines_inferer_gives_a_batch_of_one_class_map(network):
    settings = settings_from_dict({"dataset": {"seg": {"patch_size": [16, 16, 16]}}})
    image = torch.randn(1, 1, 20, 16, 16)

    class_map = SlidingWindow(settings, LABELS)(image, network)

    expected = sliding_window_class_map(
        network, image, (16, 16, 16), overlap=(0.5,) * 3, num_classes=K
    )
    assert class_map.shape == (1, 1, 20, 16, 16)
    assert torch.equal(class_map[0, 0], expected)


def test_the_engines_inferer_mirrors_where_the_settings_say_so_and_it_may(network):
    document = {"dataset": {"seg": {"patch_size": [16, 16, 16], "partition": {}}}}
    plain = settings_from_dict(document)
    document["dataset"]["seg"]["partition"]["flips"] = ["front_back", "left_right"]
    mirrored = settings_from_dict(document)
    image = torch.randn(1, 1, 20, 16, 16)

    def labelled(settings, **options):
        return SlidingWindow(settings, LABELS, **options)(image, network)[0, 0]

    expected = sliding_window_class_map(
        network,
        image,
        (16, 16, 16),
        overlap=(0.5,) * 3,
        num_classes=K,
        flips=(0, 1),
        partner_classes=(0, 2, 1, 3, 4),
    )
    assert torch.equal(labelled(mirrored), expected)
    assert not torch.equal(labelled(plain), expected)
    assert torch.equal(labelled(mirrored, mirrored=False), labelled(plain))


def test_a_label_with_a_side_and_no_partner_cannot_be_mirrored():
    lone = LabelTable.from_values([1, 2], {1: "left caudate", 2: "stem"})
    settings = settings_from_dict({"dataset": {"seg": {"partition": {"flips": ["left_right"]}}}})

    with pytest.raises(SettingsError, match="left caudate.*no partner"):
        SlidingWindow(settings, lone, mirrored=False)


def test_in_bfloat16_features_are_rounded_and_weights_and_gradients_are_not(network):
    image = torch.randn(1, 1, 8, 8, 8)

    scores = InBFloat16()(image, network)
    scores.float().square().mean().backward()

    assert scores.dtype == torch.bfloat16
    torch.testing.assert_close(scores.float(), network(image), rtol=0.05, atol=0.02)
    assert all(w.dtype == w.grad.dtype == torch.float32 for w in network.parameters())
    network.zero_grad()


@pytest.mark.parametrize("variant", ["standard", "folded"])
@pytest.mark.parametrize("shape", [(17, 33, 20), (5, 6, 7)])
def test_the_margin_is_that_of_the_best_two_probabilities(shape, variant):
    torch.manual_seed(0)
    settings = NetworkSettings(variant=variant, channels=8, num_stages=2)
    network = ResidualUNet(settings, plan_topology(settings, (16,) * 3, (1.0,) * 3), 1, K).eval()
    image = torch.randn(1, 1, *shape)
    weights = window_weights((16,) * 3, network.block, "gaussian", torch.device("cpu"))
    for axis, step in enumerate(network.block):
        weights = weights.repeat_interleave(step, dim=axis)
    with torch.inference_mode():
        scores = sliding_window_inference(
            image, (16,) * 3, 2, lambda x: 20 * network(x), 0.5, roi_weight_map=weights
        )
    best, second = scores[0].topk(2, dim=0).values.double()
    pair = torch.stack([best, second]).softmax(dim=0)  # if the other classes were impossible

    margins = torch.zeros(shape, dtype=torch.uint8)
    amplified = Amplified(network, 20)
    found = sliding_window_class_map(
        amplified, image, (16,) * 3, overlap=(0.5,) * 3, num_classes=K, margins=margins
    )
    plain = sliding_window_class_map(amplified, image, (16,) * 3, overlap=(0.5,) * 3, num_classes=K)

    assert torch.equal(found, plain)
    if variant == "standard" or all(n % 2 == 0 for n in shape):  # else windows lie elsewhere
        assert (margins / 255 - (pair[0] - pair[1])).abs().max() < 1 / 255
    assert margins.float().std() > 20


class Amplified(nn.Module):
    """A network with scores that differ, where an untrained one's hardly do."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor, self.block = network, factor, network.block

    def features(self, image):
        return self.network.features(image)

    def head_matrix(self):
        weight, bias = self.network.head_matrix()
        return self.factor * weight, self.factor * bias


def test_the_margin_of_scores_without_a_head_is_of_their_blend():
    image = torch.rand(1, 1, 8, 24, 8)

    def scores(windows):
        return torch.cat([torch.zeros_like(windows), windows], dim=1)

    margins = torch.zeros(8, 24, 8, dtype=torch.uint8)
    sliding_window_class_map(
        scores, image, (8, 8, 8), overlap=(0.5,) * 3, num_classes=2, margins=margins
    )

    assert (margins / 255 - (image[0, 0] / 2).tanh()).abs().max() < 1 / 255
