"""Label maps between grids: linear interpolation of every class, without a volume for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from monaiseg.portable.resampling import labels_at
from strategies import shapes


def by_one_volume_a_class(label_map, starts, steps, shape):
    """Scores (K, X, Y, Z) of every class by scipy's linear interpolation."""
    points = np.meshgrid(*[s + d * np.arange(n) for s, d, n in zip(starts, steps, shape, strict=True)], indexing="ij")  # fmt: skip
    return np.stack([
        ndimage.map_coordinates((label_map == value).astype(float), points, order=1, mode="nearest")
        for value in range(label_map.max() + 1)
    ])  # fmt: skip


@given(
    size=shapes(1, 7),
    shape=shapes(1, 9),
    steps=st.tuples(*[st.floats(0.3, 2.5)] * 3),
    starts=st.tuples(*[st.floats(-1.0, 1.0)] * 3),
    num_classes=st.integers(1, 9),
    seed=st.integers(0, 100),
)
def test_it_is_the_argmax_of_every_class_interpolated(
    size, shape, steps, starts, num_classes, seed
):
    label_map = np.random.default_rng(seed).integers(0, num_classes, size=size)
    scores = by_one_volume_a_class(label_map, starts, steps, shape)
    chosen = labels_at(label_map, starts, steps, shape)

    of_chosen = np.take_along_axis(scores, chosen[None], axis=0)[0]
    assert np.allclose(of_chosen, scores.max(axis=0), atol=1e-7)


def test_a_point_halfway_takes_neither_side_always():
    # Twice as many points, half of them halfway between two voxels: ..00|11.. and ..11|00.. grow alike.
    label_map = np.zeros((8, 1, 1), np.uint8)
    label_map[3:5] = 1

    fine = labels_at(label_map, (-0.25, 0, 0), (0.5, 1, 1), (16, 1, 1))

    assert fine[:, 0, 0].tolist() == [0] * 6 + [1] * 4 + [0] * 6


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_borders_are_smoother_than_by_nearest_neighbour(factor):
    """A ball on a coarse grid, brought to a finer one: its surface lies closer to the true one."""
    radius, fine = 12.0, 64

    def ball(size, step):
        axes = [(np.arange(size) - (size - 1) / 2) * step for _ in range(3)]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        return np.sqrt(x**2 + y**2 + z**2)

    coarse = round(fine / factor)
    step = 1 / (fine / coarse)
    known = (ball(coarse, 1 / step) <= radius).astype(np.uint8)
    starts, steps = ((0.5 * step - 0.5,) * 3, (step,) * 3)
    linear = labels_at(known, starts, steps, (fine,) * 3)
    places = [np.clip(np.rint(starts[0] + step * np.arange(fine)), 0, coarse - 1).astype(int)] * 3
    nearest = known[np.ix_(*places)]

    def error(mask):
        border = mask.astype(bool) & ~ndimage.binary_erosion(mask)
        return np.abs(ball(fine, 1.0)[border] + 0.5 - radius).mean()

    assert error(linear) < error(nearest)
    volume = 4 / 3 * np.pi * radius**3
    assert abs(linear.sum() - volume) < 0.03 * volume
