"""The streaming sliding window against MONAI's, which holds the scores of the whole volume."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from monaiseg.inference import sliding_window_class_map

K = 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv3d(8, K, 3, padding=1)
    ).eval()


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
