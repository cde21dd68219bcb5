"""A scan takes the same way to the network and back in NumPy as through MONAI's transforms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from cached_items import blob_on, settings_of, written
from monaiseg.data.grid import Grid
from monaiseg.data.phantoms import phantom_grid
from monaiseg.portable.intensity import normalised
from monaiseg.portable.route import RouteError, route_of
from monaiseg.transforms.chains import inference_chain
from monaiseg.transforms.inverse import to_file_grid
from monaiseg.transforms.items import case_item
from strategies import ORIENTATIONS, grids


def by_monai(folder, image, grid, chosen):
    """The item that MONAI's chain makes of an image (X, Y, Z, C), and the chain."""
    chain = inference_chain(chosen)
    return chain(case_item(written(folder, image, grid=grid))), chain


def by_numpy(image, grid, chosen):
    """The same image on the network grid, and the route that it took."""
    channels = np.moveaxis(image.reshape(*grid.shape, -1), -1, 0)
    route = route_of(
        grid.shape,
        grid.array,
        spacing=chosen.spacing_mm,
        image_shape=chosen.image_shape,
        patch=chosen.patch_shape,
    )
    scaled = [normalised(channel, chosen.dataset.intensity) for channel in route.turned(channels)]
    return route.sampled(np.stack(scaled), chosen.dataset.seg.partition.padding_mode), route


def noise_on(grid, num_channels=1):
    rng = np.random.default_rng(0)
    channels = [blob_on(grid)[0] + rng.normal(0, 10, grid.shape) for _ in range(num_channels)]
    return np.stack(channels, axis=-1).astype(np.float32)


INTENSITIES = [
    {"method": "zscore"},
    {"method": "minmax", "clip_range": [10.0, 80.0]},
    {"method": "percentile", "region": "foreground"},
    {"method": "none"},
]
PADDINGS = ["constant", "reflect", "replicate", "circular"]


@rules(max_examples=60)
@given(
    grid=grids(least=3, most=24),
    spacing=st.one_of(st.none(), st.tuples(*[st.sampled_from([0.7, 1.0, 1.9])] * 3)),
    resize=st.one_of(st.none(), st.tuples(*[st.sampled_from([16, 32])] * 3)),
    intensity=st.sampled_from(INTENSITIES),
    padding=st.sampled_from(PADDINGS),
    num_channels=st.integers(1, 3),
)
def test_numpy_prepares_a_scan_as_monai_does(
    tmp_path_factory, grid, spacing, resize, intensity, padding, num_channels
):
    chosen = settings_of(
        num_channels=num_channels,
        spacing=None if spacing is None else list(spacing),
        img_after_resize=[-1] * 3 if resize is None else list(resize),
        intensity=intensity,
        seg={"partition": {"padding_mode": padding}},
    )
    image = noise_on(grid, num_channels)
    image = image if num_channels > 1 else image[..., 0]
    item, chain = by_monai(tmp_path_factory.mktemp("scan"), image, grid, chosen)
    ours, route = by_numpy(image, Grid.of(grid.shape, item["image"].meta["original_affine"]), chosen)  # fmt: skip

    theirs = item["image"].as_tensor().numpy()
    assert ours.shape == theirs.shape
    assert np.allclose(ours, theirs, atol=2e-5 * max(np.abs(theirs).max(), 1))

    class_map = np.random.default_rng(1).integers(0, 5, size=theirs.shape[1:]).astype(np.uint8)
    home = to_file_grid(torch.from_numpy(class_map), item, chain)
    assert (route.back(class_map) == home).mean() > 0.999


def test_half_a_voxel_goes_to_the_side_where_monai_puts_it(tmp_path):
    """At 0.7 mm the second axis in RAS has 62.5 voxels; the rounding of this oblique affine makes them 63."""
    affine = np.array(
        [
            [0.03490481287456702, 0.9996954135095479, 0.05008077776808889, -1.5498253111430498],
            [0.27830380844537833, -0.019711096406558014, 2.8415148363521903, -22.68317921846176],
            [1.9802344922364599, -0.014851023076727064, -0.400231621050276, -6.884584280228502],
            [0, 0, 0, 1],
        ]
    )
    grid = Grid.of((11, 3, 16), affine)
    chosen = settings_of(spacing=[0.7, 0.7, 0.7])
    image = noise_on(grid)[..., 0]
    item, _ = by_monai(tmp_path, image, grid, chosen)
    read = Grid.of(grid.shape, item["image"].meta["original_affine"])
    ours, route = by_numpy(image, read, chosen)

    assert route.sampled_shape == (4, 63, 30)
    assert np.allclose(ours, item["image"].as_tensor().numpy(), atol=1e-4)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_goes_there_and_back_voxel_for_voxel(tmp_path, orientation):
    grid = phantom_grid((5, 7, 6), (1.0, 1.2, 2.0), orientation)
    image = noise_on(grid)[..., 0]
    item, _ = by_monai(tmp_path, image, grid, settings_of())
    ours, route = by_numpy(image, grid, settings_of())

    assert np.allclose(ours, item["image"].numpy(), atol=1e-5)
    inside = np.zeros(ours.shape[1:], np.uint8)
    inside[tuple(slice(b, b + n) for b, n in zip(route.before, route.sampled_shape, strict=True))] = 1  # fmt: skip
    assert route.back(inside).all()
    marked = np.zeros(grid.shape, np.uint8)
    marked[1, 2, 3] = 7
    there = route.sampled(route.turned(marked[None]).astype(np.float32), "constant")[0]
    assert np.array_equal(route.back(there.astype(np.uint8)), marked)


@pytest.mark.parametrize(
    ("have", "want"),
    list(itertools.product([(1, 1, 1), (1.0004, 1, 1), (5.004, 1, 1)], [(1, 1, 1), (5, 1, 1)])),
)
def test_voxel_sizes_that_monai_takes_for_equal_are_left_alone(tmp_path, have, want):
    grid = phantom_grid((12, 13, 14), have)
    chosen = settings_of(spacing=list(want))
    image = noise_on(grid)[..., 0]
    item, _ = by_monai(tmp_path, image, grid, chosen)

    assert np.allclose(by_numpy(image, grid, chosen)[0], item["image"].numpy(), atol=1e-4)


def test_a_sheared_scan_is_refused_where_it_would_be_resampled():
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    options = {"image_shape": None, "patch": (16, 16, 16)}

    assert route_of((9, 9, 9), sheared, spacing=None, **options).sampled_shape == (9, 9, 9)
    with pytest.raises(RouteError, match="right angles"):
        route_of((9, 9, 9), sheared, spacing=(2, 2, 2), **options)
