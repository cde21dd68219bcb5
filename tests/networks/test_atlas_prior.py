"""Atlas prior: it is looked up on the device of the positions."""

from __future__ import annotations

import pytest
import torch

from monaiseg.atlas import random_atlas
from monaiseg.networks import atlas_prior
from monaiseg.networks.atlas_prior import AtlasPrior

SHAPE, SPACING, K = (12, 10, 8), (1.0, 2.0, 1.5), 5


@pytest.fixture
def prior() -> AtlasPrior:
    made = AtlasPrior(K, SPACING)
    template, atlas = random_atlas(K, SHAPE, SPACING)
    _, other = random_atlas(K, (8, 8, 8), SPACING)
    made.learn(template, atlas, {"S01": other})
    return made


def test_a_look_up_makes_no_tensor_on_another_device_than_that_of_the_positions(prior):
    """Within the block, a tensor whose device nobody names has no data, and mixing it with others fails."""
    positions, scores = torch.randn(2, 3, 50) * 4, torch.randn(K, 50)
    logits = prior.logits(positions, ["S01", "S02"])
    added = prior.add_to(scores.clone(), positions[0])

    with torch.device("meta"):
        assert torch.equal(prior.logits(positions, ["S01", "S02"]), logits)
        assert torch.equal(prior.add_to(scores.clone(), positions[0]), added)
    wanted = scores + prior.logits(positions[:1])[0] - prior.atlas.rest
    assert torch.allclose(added, wanted, atol=1e-5)


def test_copies_on_the_device_are_kept_until_there_are_too_many_or_another_atlas(
    prior, monkeypatch
):
    moved = []
    monkeypatch.setattr(atlas_prior, "MOST_COPIES", 1)
    monkeypatch.setattr(atlas_prior.Atlas, "to", lambda self, _: moved.append(self) or self)
    positions = torch.zeros(1, 3, 4)

    for case in ("S01", "S01", "S02", "S01"):
        prior.logits(positions, [case])
    assert len(moved) == 3

    prior.learn(*random_atlas(K, SHAPE, SPACING))
    prior.logits(positions, ["S01"])
    assert moved[-1] is prior.atlas
