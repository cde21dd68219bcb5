"""Post-processing by label, on maps small enough to draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from monaiseg.data.postprocessing import numbered
from monaiseg.portable.postprocessing import LabelRule, components_of, holes_of, postprocessed
from strategies import shapes

DRAWN = """
    1 1 1 1 1 0 0 0 2
    1 0 0 0 1 0 1 0 2
    1 0 2 0 1 0 0 0 0
    1 0 0 0 1 0 0 1 0
    1 1 1 1 1 0 0 1 0
"""


def drawn(text):
    return np.array([row.split() for row in text.split("\n") if row.strip()], np.uint8)[:, :, None]


def test_all_but_the_largest_component_become_background():
    found = postprocessed(drawn(DRAWN), [LabelRule(1, keep_largest=True)], 1.0)

    assert np.array_equal(found, drawn("""
        1 1 1 1 1 0 0 0 2
        1 0 0 0 1 0 0 0 2
        1 0 2 0 1 0 0 0 0
        1 0 0 0 1 0 0 0 0
        1 1 1 1 1 0 0 0 0
    """))  # fmt: skip


def test_components_below_a_volume_become_background():
    found = postprocessed(drawn(DRAWN), [LabelRule(1, least_mm3=4.0), LabelRule(2, least_mm3=2.5)], 2.0)  # fmt: skip

    assert np.array_equal(found, drawn("""
        1 1 1 1 1 0 0 0 2
        1 0 0 0 1 0 0 0 2
        1 0 0 0 1 0 0 0 0
        1 0 0 0 1 0 0 1 0
        1 1 1 1 1 0 0 1 0
    """))  # fmt: skip


def test_a_hole_is_filled_around_the_other_labels_in_it():
    solid = np.repeat(drawn(DRAWN), 3, axis=2)
    solid[:5, :5, [0, 2]] = 1

    found = postprocessed(solid, [LabelRule(1, fill_holes=True)], 1.0)

    assert (found[:5, :5, 1] == drawn("""
        1 1 1 1 1
        1 1 1 1 1
        1 1 2 1 1
        1 1 1 1 1
        1 1 1 1 1
    """)[:, :, 0]).all()  # fmt: skip
    assert np.array_equal(found[:, 5:], solid[:, 5:])


def test_the_label_map_itself_and_labels_without_a_rule_stay():
    given_map = drawn(DRAWN)
    before = given_map.copy()
    found = postprocessed(given_map, [LabelRule(2, keep_largest=True), LabelRule(9, fill_holes=True)], 1.0)  # fmt: skip

    assert np.array_equal(given_map, before)
    assert np.array_equal(found == 1, before == 1)


@pytest.mark.parametrize("number", [components_of, numbered])
@given(shape=shapes(1, 9), share=st.floats(0.0, 1.0), by_corners=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_components_are_those_of_scipy(number, shape, share, by_corners, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)) if by_corners else None)
    found = number(mask, by_corners)

    assert found.max(initial=0) == count
    assert np.array_equal(found > 0, mask)
    pairs = np.unique(np.stack([found[mask], expected[mask]]), axis=1)
    assert pairs.shape[1] == count


@given(shape=shapes(1, 8), share=st.floats(0.5, 1.0), seed=st.integers(0, 99))
def test_holes_are_those_of_scipy(shape, share, seed):
    mask = np.random.default_rng(seed).random(shape) < share

    assert np.array_equal(holes_of(mask, components_of), ndimage.binary_fill_holes(mask) & ~mask)
