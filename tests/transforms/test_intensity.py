"""Intensities: one scale for all images, and the field of a coil."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cached_items import FLOOR, cached, settings_of, written
from monaiseg.data.cases import Case
from monaiseg.portable.intensity import normalised
from monaiseg.settings.dataset import IntensitySettings
from monaiseg.transforms import intensity
from monaiseg.transforms.chains import (
    inference_chain,
)
from monaiseg.transforms.items import case_item

VALUES = np.array([0, 0, 0, 10, 20, 30, 40, 50], np.float32).reshape(2, 2, 2)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"method": "none"}, [0, 0, 0, 10, 20, 30, 40, 50]),
        ({"method": "minmax"}, [-1, -1, -1, -0.6, -0.2, 0.2, 0.6, 1]),
        (
            {"method": "minmax", "clip_range": (10.0, 30.0)},
            [-1, -1, -1, -1, 0, 1, 1, 1],
        ),
        (
            {"method": "minmax", "region": "foreground"},
            [-1.5, -1.5, -1.5, -1, -0.5, 0, 0.5, 1],
        ),
        (
            {"method": "zscore", "region": "foreground"},
            (np.array([0, 0, 0, 10, 20, 30, 40, 50]) - 30) / np.sqrt(200),
        ),
    ],
)
def test_normalisation_by_hand(chosen, expected):
    scaled = normalised(VALUES, IntensitySettings(**chosen))
    assert scaled.dtype == np.float32
    assert np.allclose(scaled.ravel(), expected, atol=1e-6)


def test_percentile_takes_the_least_to_minus_1_and_the_percentile_to_0_9():
    ramp = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    scaled = normalised(ramp, IntensitySettings(method="percentile", percentile=95.0))

    assert scaled.ravel()[[0, 950]] == pytest.approx([-1, 0.9], abs=1e-6)
    assert scaled.max() == pytest.approx(1.0)  # unclipped


def test_percentile_of_an_image_that_is_nearly_all_background():
    image = np.zeros((10, 10, 10), np.float32)
    image[0, 0, 0] = 5
    scaled = normalised(image, IntensitySettings(method="percentile"))
    assert (scaled.min(), scaled.max()) == (-1, 1)


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile", "none"])
@pytest.mark.parametrize("region", ["image", "foreground"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 3e38])
def test_a_constant_image_stays_constant_and_finite(method, region, value):
    image = np.full((3, 4, 5), value, np.float32)
    scaled = normalised(image, IntensitySettings(method=method, region=region))

    assert np.isfinite(scaled).all()
    assert len(np.unique(scaled)) == 1


@given(
    low=st.floats(-(2.0**127), 2.0**127, width=32),
    high=st.floats(-(2.0**127), 2.0**127, width=32),
    method=st.sampled_from(["zscore", "minmax", "percentile"]),
)
def test_no_range_of_float32_overflows(low, high, method):
    image = np.array([low, high, low, high], np.float32).reshape(1, 2, 2)
    scaled = normalised(image, IntensitySettings(method=method))
    assert np.isfinite(scaled).all()
    assert np.abs(scaled).max() < 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_numbers_in_the_file_do_not_overflow(tmp_path, dtype):
    most = 1 << 20 if dtype == np.float64 else min(np.iinfo(dtype).max, 1 << 24)
    least = 0 if np.dtype(dtype).kind == "u" else -most
    image = np.full((16, 16, 16), least, dtype)
    image[4:] = most
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    nifti = nib.Nifti1Image(image, np.eye(4), header, dtype=dtype)
    nib.save(nifti, tmp_path / "image.nii")
    chosen = settings_of(intensity={"method": "minmax"})

    item = inference_chain(chosen)(case_item(Case("case", (tmp_path / "image.nii",))))

    assert item["image"].dtype == torch.float32
    assert (float(item["image"].min()), float(item["image"].max())) == (-1, 1)


def test_padding_does_not_move_the_statistics(tmp_path):
    image = np.random.default_rng(0).normal(50, 10, size=(5, 6, 7)).astype(np.float32)
    item = inference_chain(settings_of())(case_item(written(tmp_path, image)))
    inside = item["image"].numpy()[0, 5:10, 5:11, 4:11]

    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert item["image"].numpy()[0, 0, 0, 0] == inside.min()


def test_a_coil_field_leaves_air_alone():
    image = np.full((16, 16, 16), FLOOR)
    image[4:12] = 3.0
    field = intensity.RandCoilFieldd(1.0, 0.3)
    field.set_random_state(seed=1)

    changed = field(cached(image))["image"][0]

    assert (changed[:4] == FLOOR).all()
    ratio = (changed[4:12] - FLOOR) / (3.0 - FLOOR)
    assert ratio.min() > 0
    assert ratio.std() > 0.01
