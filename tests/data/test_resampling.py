"""Resampling: a voxel size far from the network's is looked at, and a wrong unit is named."""

from __future__ import annotations

import numpy as np
import pytest

from drawings import SHAPE
from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.resampling import resampling_doubt
from monaiseg.data.volumes import write_image
from monaiseg.errors import DataError, MonaisegWarning
from monaiseg.settings import changed

NETWORK = (1.0, 1.0, 1.5)


@pytest.mark.parametrize("found", [(1, 1, 1.5), (0.4, 0.4, 4), (2.9, 1, 1.5), (1, 1, 0.55)])
def test_scans_of_usual_voxels_are_not_doubtful(found):
    assert resampling_doubt("a.nii", found, NETWORK) is None


@pytest.mark.parametrize(
    ("found", "factor"),
    [((1, 1, 5), "3.33"), ((0.3, 0.3, 1.5), "3.33"), ((4, 4, 4), "4"), ((1, 1, 14.9), "9.93")],
)
def test_beyond_a_factor_of_three_a_warning_names_both_voxel_sizes(found, factor):
    words = resampling_doubt("a.nii", found, NETWORK)

    shown = " x ".join(f"{size:g}" for size in found)
    assert (
        f"a.nii: has voxels of {shown} mm, but the network was trained on voxels of 1 x 1 x 1.5 mm, a factor of {factor}"
        in words
    )


@pytest.mark.parametrize(
    ("found", "unit"),
    [
        ((0.001, 0.001, 0.0015), "in metres, read as millimetres"),
        ((0.1, 0.1, 0.15), "in centimetres"),
        ((10, 10, 15), "multiplied by 10"),
        ((9, 10, 14), "multiplied by 10"),
        ((900, 1000, 1500), "in micrometres"),
        ((1, 1, 16), "use a network for such scans"),
        ((50, 50, 50), "use a network for such scans"),
    ],
)
def test_beyond_ten_it_is_refused_with_the_likely_unit(found, unit):
    with pytest.raises(DataError, match="a.nii: has voxels of .*a factor of") as caught:
        resampling_doubt("a.nii", found, NETWORK)
    assert unit in str(caught.value)


def scan(tmp_path, size: float) -> Case:
    path = tmp_path / f"{size}.nii.gz"
    write_image(
        path,
        np.random.default_rng(0).normal(size=SHAPE),
        Grid.of(SHAPE, np.diag([size, size, size, 1])),
    )
    return Case("a", (path,))


def test_every_image_is_looked_at_before_it_is_resampled(tmp_path, settings):
    from monaiseg.transforms import case_item, inference_chain

    chain = inference_chain(changed(settings, {"dataset.spacing": (1.0, 1.0, 1.0)}))
    with pytest.raises(DataError, match=r"50.0.nii.gz: has voxels of 50 x 50 x 50 mm"):
        chain(case_item(scan(tmp_path, 50.0)))
    with pytest.warns(MonaisegWarning, match="a factor of 4; check the label map by eye"):
        chain(case_item(scan(tmp_path, 4.0)))


def test_a_network_that_resamples_nothing_asks_for_nothing(tmp_path, settings):
    from monaiseg.transforms import case_item, inference_chain

    chain = inference_chain(changed(settings, {"dataset.spacing": None}))

    assert chain(case_item(scan(tmp_path, 50.0)))["image"].shape[0] == 1
