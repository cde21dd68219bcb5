"""Memory: a process does not take much more than estimated; the estimate grows with resampling and channels."""

from __future__ import annotations

import numpy as np
import pytest

from children import in_child
from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import write_image
from monaiseg.settings.reading import changed
from monaiseg.transforms import case_item, inference_chain, preparing_bytes

GRID = Grid.of((100, 100, 100), np.eye(4))


def test_resampling_and_large_files_take_more(settings):
    fine = changed(settings, {"dataset.spacing": [0.5, 0.5, 0.5]})
    coarse = changed(settings, {"dataset.spacing": [4.0, 4.0, 4.0]})

    plain, more, less = (preparing_bytes(GRID, each) for each in (settings, fine, coarse))

    assert plain == 30 * 112**3
    assert more == 75 * 199**3  # 99 / 0.5 + 1 = 199 voxels
    assert less == 28 * 100**3  # the file itself
    assert preparing_bytes(GRID, changed(settings, {"dataset.num_channels": 3})) == 3 * plain


@pytest.mark.parametrize("spacing", [None, [0.7, 0.7, 0.7], [2.0, 2.0, 2.0]])
def test_a_process_does_not_take_much_more_than_the_estimate(settings, tmp_path, spacing):
    chosen = changed(settings, {"dataset.spacing": spacing})
    grid = Grid.of((128, 128, 128), np.eye(4))
    write_image(tmp_path / "a.nii", np.random.default_rng(0).normal(size=grid.shape), grid)
    estimate = preparing_bytes(grid, chosen, labelled=False)

    def prepare():
        inference_chain(chosen)(case_item(Case("a", (tmp_path / "a.nii",))))
        return True

    taken = in_child(prepare).peak_bytes

    assert taken < 1.6 * estimate  # less where memory that earlier tests freed is used again
