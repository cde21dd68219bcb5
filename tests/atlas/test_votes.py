"""Votes: what goes in comes out again, to the last one."""

from __future__ import annotations

import numpy as np
import pytest

from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.votes import (
    KERNEL,
    UNIT,
    Votes,
    added,
    count_votes,
    mirrored,
    smoothed,
    taken_back,
)

LATTICE = Lattice((5, 4, 3), (1.0, 1.0, 1.0))
K = 4


def random_votes(seed):
    rng = np.random.default_rng(seed)
    cells = rng.integers(LATTICE.num_cells, size=200)
    return count_votes(rng.integers(K, size=200), cells, LATTICE, K)


def same(one: Votes, other: Votes) -> bool:
    return np.array_equal(one.keys, other.keys) and np.array_equal(one.counts, other.counts)


def test_the_voxels_of_a_cell_share_its_votes():
    """Cell 7 has two voxels of class 3, one of class 1 and one of the background."""
    votes = count_votes(np.array([3, 1, 3, 0]), np.array([7, 7, 7, 7]), LATTICE, K)

    assert votes.dense()[7].tolist() == [UNIT // 4, UNIT // 4, 0, UNIT // 2]
    assert votes.dense().sum() == UNIT


def test_voxels_that_no_one_has_labelled_have_no_vote():
    votes = count_votes(np.array([2, K, K, 1]), np.array([7, 7, 8, 9]), LATTICE, K)

    assert votes.dense()[7].tolist() == [0, 0, UNIT, 0]
    assert votes.dense()[8].sum() == 0


def test_keys_ascend_and_name_cell_and_class():
    votes = random_votes(0)
    assert np.all(np.diff(votes.keys) > 0)
    assert np.array_equal(votes.cells * K + votes.classes, votes.keys)


def test_added_votes_are_the_sum():
    several = [random_votes(seed) for seed in range(3)]
    assert np.array_equal(added(several).dense(), sum(votes.dense() for votes in several))


def test_smoothing_is_a_convolution_with_the_kernel():
    votes = random_votes(1)
    dense = votes.dense().reshape(*LATTICE.shape, K)
    for axis in range(3):
        padded = np.pad(dense, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        n = LATTICE.shape[axis]
        dense = sum(
            weight * padded.take(range(step, step + n), axis) for step, weight in enumerate(KERNEL)
        )
    assert np.array_equal(smoothed(votes).dense(), dense.reshape(-1, K))


@pytest.mark.parametrize("seed", range(5))
def test_votes_that_are_taken_back_leave_exactly_the_others(seed):
    several = [random_votes(10 * seed + i) for i in range(4)]
    total = smoothed(added(several))

    left = taken_back(total, smoothed(several[0]))
    assert same(left, smoothed(added(several[1:])))


def test_a_label_map_that_no_one_shares_leaves_no_trace():
    """Class 3 was seen by the first scan alone."""
    first = count_votes(np.full(60, 3), np.arange(60), LATTICE, K)
    others = count_votes(np.arange(60) % 3, np.arange(60), LATTICE, K)

    left = taken_back(smoothed(added([first, others])), smoothed(first))
    assert 3 not in left.classes
    assert same(left, smoothed(others))


def test_all_votes_taken_back_leave_none():
    votes = smoothed(random_votes(3))
    assert len(taken_back(votes, votes).keys) == 0


def test_the_mirror_image_exchanges_sides_and_partners():
    """Class 1 in the leftmost cell becomes its partner, 2, in the rightmost."""
    votes = count_votes(np.array([1, 3]), np.array([0, 1]), LATTICE, K)
    twin = mirrored(votes, (0, 2, 1, 3)).dense().reshape(*LATTICE.shape, K)

    assert twin[4, 0, 0].tolist() == [0, 0, UNIT, 0]
    assert twin[4, 0, 1].tolist() == [0, 0, 0, UNIT]


def test_mirrored_twice_is_as_before():
    votes = random_votes(4)
    assert same(mirrored(mirrored(votes, (0, 2, 1, 3)), (0, 2, 1, 3)), votes)
