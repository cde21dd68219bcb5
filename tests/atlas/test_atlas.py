"""Atlases: probabilities of classes at places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monaiseg.atlas.atlas import MOST_CLASSES, SURPRISE, Atlas, atlas_of
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.votes import UNIT, added, count_votes

LATTICE = Lattice((4, 4, 4), (1.0, 1.0, 1.0))
K = 20


@pytest.fixture(scope="module")
def votes():
    """Cell 0: 16 classes, more than are kept. Cells 1 to 39: some. The others: none."""
    rng = np.random.default_rng(0)
    crowd = count_votes(np.repeat(np.arange(16), np.arange(1, 17)), np.zeros(136, int), LATTICE, K)
    some = count_votes(rng.integers(5, size=400), rng.integers(1, 40, size=400), LATTICE, K)
    return added([crowd, some])


@pytest.fixture(scope="module")
def atlas(votes):
    return atlas_of(votes)


def position(cell):
    place = torch.tensor(np.unravel_index(cell, LATTICE.shape))
    return (place.float() - 1.5)[None]


@pytest.mark.parametrize("cell", range(64))
def test_probabilities_add_up_to_one(atlas, cell):
    assert float(atlas.log_prior(position(cell)).exp().sum()) == pytest.approx(1, abs=2e-3)


def test_probabilities_are_the_shares_of_the_votes(atlas, votes):
    shares = votes.dense()[5] / votes.dense()[5].sum()
    expected = (1 - SURPRISE) * shares + SURPRISE / K
    assert np.allclose(atlas.log_prior(position(5)).exp()[0], expected, rtol=3e-3)


def test_the_most_frequent_classes_are_kept(atlas):
    classes, logs = atlas.kept(position(0))
    assert classes.shape == logs.shape == (1, MOST_CLASSES)
    assert classes[0].tolist() == list(range(15, 3, -1))
    assert atlas.log_prior(position(0))[0, 0] == pytest.approx(atlas.rest)


def test_where_no_scan_was_the_frequencies_speak(atlas):
    shares = atlas.log_prior(position(50))[0].exp()
    kept = atlas.frequencies.topk(MOST_CLASSES).indices
    assert shares.argmax() == atlas.frequencies.argmax()
    assert torch.allclose(shares[kept], atlas.frequencies.exp()[kept], rtol=0.02)


def test_sparse_and_dense_say_the_same(atlas):
    places = torch.cat([position(cell) for cell in range(64)])
    classes, logs = atlas.kept(places)
    dense = atlas.log_prior(places)

    assert torch.equal(dense.gather(1, classes), logs)
    others = torch.ones_like(dense, dtype=torch.bool).scatter_(1, classes, value=False)
    assert torch.all(dense[others] == torch.tensor(atlas.rest))
    for k in range(K):
        each = torch.full((64,), k)
        assert torch.equal(atlas.log_likelihood(places, each), dense[:, k])


def test_a_map_has_the_shape_of_its_positions(atlas):
    places = torch.cat([position(cell) for cell in range(24)]).T.reshape(3, 4, 3, 2)
    prior = atlas.log_prior_map(places)

    assert prior.shape == (K, 4, 3, 2)
    assert torch.equal(prior.argmax(0), atlas.likeliest(places))
    assert torch.equal(prior[:, 1, 2, 0], atlas.log_prior(position(1 * 6 + 2 * 2))[0])


def test_it_comes_back_from_its_tensors(atlas):
    again = Atlas.from_tensors(atlas.tensors())
    places = torch.cat([position(cell) for cell in range(64)])
    assert again.lattice == atlas.lattice
    assert torch.equal(again.log_prior(places), atlas.log_prior(places))


def test_it_is_small(atlas):
    """A byte a cell, and three an entry."""
    assert atlas.num_bytes < LATTICE.num_cells + 1 + 3 * len(atlas.classes) + 4 * K + 100


def test_of_equal_votes_the_lower_class_comes_first():
    votes = count_votes(np.array([9, 4]), np.array([0, 0]), LATTICE, K)
    assert votes.counts.tolist() == [UNIT // 2, UNIT // 2]
    assert int(atlas_of(votes).likeliest(position(0).view(3, 1, 1, 1))) == 4
