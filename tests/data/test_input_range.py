"""Scans far outside the range of the training scans are named, and those that resemble them are not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monaiseg.data.facts import CaseFacts, ChannelFacts
from monaiseg.data.grid import Grid
from monaiseg.data.input_range import InputRange
from monaiseg.data.profiles import ChannelProfile

SHAPE = (24, 28, 26)


def scan(seed: int) -> np.ndarray:
    """A bright head with a dark cavity in front and a stem below, at a slightly different place in each scan."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    dx, dy, dz = rng.normal(0, 0.03, 3)
    inside = ((x - dx) / 0.8) ** 2 + ((y - dy) / 0.9) ** 2 + ((z - dz) / 0.7) ** 2 < 1
    stem = (abs(x) < 0.25) & (abs(y) < 0.3) & (z < -0.4)
    cavity = (x - dx) ** 2 + (y - 0.5 - dy) ** 2 + (z - 0.2) ** 2 < 0.15
    bright = 60 * (inside | stem) - 40.0 * (cavity & inside) + 30 * (inside & (x**2 + y**2 < 0.2))
    return rng.uniform(0.5, 5) * (bright + rng.normal(10, 2, SHAPE))


def grid(spacing=(1.0, 1.0, 1.0), shape=SHAPE) -> Grid:
    return Grid.of(shape, np.diag([*spacing, 1]))


def facts(values: np.ndarray, of_grid: Grid) -> CaseFacts:
    profile = ChannelProfile.of(values, of_grid.orientation)
    channel = ChannelFacts(0, 1, 0, 1, 0, 0, 0, None, None, profile)
    return CaseFacts(of_grid.shape, of_grid.spacing, of_grid.orientation, "", "", {}, (channel,))


@pytest.fixture(scope="module")
def known() -> InputRange:
    return InputRange.of([facts(scan(seed), grid()) for seed in range(20)])


def found(known: InputRange, values: np.ndarray, of_grid: Grid | None = None) -> str:
    of_grid = of_grid or grid()
    profile = ChannelProfile.of(values, of_grid.orientation)
    return "; ".join(known.far_outside(of_grid, [profile]))


def test_scans_like_those_of_the_training_are_not_remarked_on(known):
    assert not [seed for seed in range(100, 140) if found(known, scan(seed))]


@pytest.mark.parametrize(
    ("axis", "said"), [(1, "flipped along Y"), (2, "flipped along Z"), (0, "")]
)
def test_a_turned_scan_is_named_by_its_axis_unless_it_is_symmetric(known, axis, said):
    for seed in range(100, 110):
        words = found(known, np.flip(scan(seed), axis))
        assert said in words
        assert bool(said) == bool(words)


def test_a_wrong_affine_turns_a_scan(known):
    upside_down = Grid.of(SHAPE, np.diag([1, 1, -1, 1]))

    assert "looks turned" in found(known, scan(100), upside_down)
    assert not found(known, np.flip(scan(100), 2), upside_down)  # a right one of that orientation


def test_inverted_contrast_is_remarked_on(known):
    assert "looks inverted" in found(known, 500 - scan(100))


def test_a_scan_of_noise_is_empty(known):
    noise = np.random.default_rng(0).rayleigh(size=SHAPE)

    assert "looks empty" in found(known, noise)
    assert "contains a single value" in found(known, np.full(SHAPE, 7.0))


def test_sizes_far_from_the_training_are_named_with_its_own(known):
    coarse, large = grid((6.0, 6.0, 6.0), (5, 5, 5)), grid(shape=(96, 96, 96))

    assert "voxels of 6 x 6 x 6 mm, those of the training 1 x 1 x 1" in found(
        known, scan(0), coarse
    )
    assert "96 x 96 x 96 mm large, the training scans 24 x 28 x 26" in found(known, scan(0), large)
    assert not found(known, scan(0), grid((1.2, 1.0, 0.9)))


def test_resampling_makes_up_for_voxels_of_another_size_up_to_twice():
    known = InputRange.of_spacing((1.0, 1.0, 1.0))

    for size, is_far in ((1.3, (True, False)), (1.9, (True, False)), (2.1, (True, True))):
        there = grid((1.0, 1.0, size))
        assert is_far == tuple(
            bool(known.far_outside(there, [], resampled=resampled)) for resampled in (False, True)
        )


def test_a_spread_of_sizes_in_the_training_is_allowed_for():
    sizes = [0.5, 0.7, 1.0, 1.4, 2.0]
    known = InputRange.of([facts(scan(0), grid((1.0, 1.0, size))) for size in sizes])

    assert not known.spacing.is_far((1.0, 1.0, 3.9))  # 2 x 1.43 ** 2: twice the largest step
    assert known.spacing.is_far((1.0, 1.0, 4.2))


def test_few_scans_say_nothing_of_intensities():
    known = InputRange.of([facts(scan(seed), grid()) for seed in range(7)])

    assert not found(known, 500 - scan(100))


@given(factor=st.floats(1e-3, 1e4), offset=st.floats(-1e4, 1e4), seed=st.integers(0, 3))
def test_the_scale_of_intensities_does_not_matter(factor, offset, seed):
    values = scan(seed)
    one, other = (ChannelProfile.of(v, "RAS") for v in (values, factor * values + offset))

    assert one.quantiles == pytest.approx(other.quantiles, abs=2e-4)
    assert np.abs(one.blocks - other.blocks).max() < 0.01


@given(axes=st.permutations(["RL", "AP", "SI"]), ends=st.tuples(*[st.booleans()] * 3))
def test_the_order_of_the_files_axes_does_not_matter(axes, ends):
    letters = "".join(pair[end] for pair, end in zip(axes, ends, strict=True))
    ours, theirs = (nib.orientations.axcodes2ornt(codes) for codes in ("RAS", letters))
    turn = nib.orientations.ornt_transform(ours, theirs)
    there = nib.orientations.apply_orientation(scan(0), turn)

    blocks, expected = (
        ChannelProfile.of(values, codes).blocks
        for values, codes in ((there, letters), (scan(0), "RAS"))
    )
    assert np.allclose(blocks, expected, atol=0.01)


def test_a_range_survives_json(known):
    assert InputRange.from_record(json.loads(json.dumps(asdict(known)))) == known


@pytest.mark.parametrize(
    "damage",
    [
        {"channels": [{}]},
        {"spacing": {"low": [0, 1, 1], "high": [1, 1, 1], "slack": 2}},
        {"spacing": {"low": [1, 1, 1], "high": [1, 1, 1], "slack": 0.5}},
        {"extent": None},
        {"flip_limits": {"X": "far"}},
        {"num_cases": "many"},
    ],
)
def test_what_is_no_range_is_refused(known, damage):
    with pytest.raises(ValueError):  # noqa: PT011
        InputRange.from_record(asdict(known) | damage)


def test_slices_fewer_than_blocks_are_profiled():
    thin = replace(grid(), shape=(24, 28, 3))
    profile = ChannelProfile.of(scan(0)[:, :, :3], thin.orientation)

    assert profile.blocks.shape == (6, 6, 6)
