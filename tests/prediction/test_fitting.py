"""Fitting: where the memory of a GPU runs out, prediction takes less of it, and gives the same label map."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from monaiseg.errors import MonaisegWarning
from monaiseg.prediction import Predictor, fitting


@pytest.fixture
def small_gpu(monkeypatch):
    """`small_gpu(n)`: a device that holds the work of fewer and fewer ways; the first n run out of memory."""
    real, tried = fitting.sliding_window_class_map, []

    def shrink(misfits: int) -> list[dict]:
        def compute(*args: object, **options: object) -> torch.Tensor:
            tried.append({name: options.get(name) for name in ("window_batch", "sums_on")})
            if len(tried) <= misfits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            return real(*args, **options)

        monkeypatch.setattr(fitting, "sliding_window_class_map", compute)
        return tried

    return shrink


@pytest.mark.parametrize("misfits", [0, 1, 2])
def test_it_falls_back_with_a_line_and_gives_the_same_label_map(
    trained, phantom, small_gpu, misfits
):
    scan = phantom((40, 24, 24), label_values=(1, 4)).image
    usual = Predictor(trained.run_folder, device="cpu").predict(scan)
    tried = small_gpu(misfits)
    predictor = Predictor(trained.run_folder, device="cpu")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MonaisegWarning)
        assert np.array_equal(predictor.predict(scan), usual)
        assert np.array_equal(predictor.predict(scan), usual)

    expected = [{"sums_on": None, **options} for _, options in fitting.WAYS]
    assert tried == [*expected[: misfits + 1], expected[misfits]]  # the second scan starts there
    assert [str(w.message) for w in caught if "memory" in str(w.message)] == [
        f"the memory of cpu ran out; predicting with {name}, which is slower"
        for name, _ in fitting.WAYS[1 : misfits + 1]
    ]


def test_a_scan_that_no_way_holds_is_named_and_the_next_is_predicted(
    trained, phantom, small_gpu, tmp_path
):
    from monaiseg.errors import DataError
    from monaiseg.prediction import predict_files

    scans = [phantom(label_values=(1, 4), case_id=name).image for name in ("a", "b")]
    small_gpu(len(fitting.WAYS))
    written = predict_files(
        Predictor(trained.run_folder, device="cpu"), [[scan] for scan in scans], tmp_path / "out"
    )

    with (
        pytest.warns(MonaisegWarning, match="added up in main memory"),
        pytest.raises(DataError, match=r"a_image.*|a.*memory ran out on cpu"),
    ):
        list(written)
    assert len(list((tmp_path / "out").glob("b*_pred.nii.gz"))) == 1


def test_sums_in_main_memory_take_no_part_in_what_is_computed(trained, phantom):
    scan = phantom((40, 24, 24), label_values=(1, 4)).image
    predictor = Predictor(trained.run_folder, device="cpu")
    read = predictor.read(scan)
    predictor._way.number = len(fitting.WAYS) - 1

    assert torch.equal(
        predictor.infer(read).classes,
        Predictor(trained.run_folder, device="cpu").infer(read).classes,
    )
