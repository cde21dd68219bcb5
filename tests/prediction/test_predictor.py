"""Prediction comes back on the scan's own grid, whatever that is, with the files' label values."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.label_files import load_label_table
from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.data.volumes import read_header, read_label_map, read_label_table
from monaiseg.errors import DataError, MonaisegWarning, SettingsError, StorageError
from monaiseg.prediction import (
    Predictor,
    as_evaluated,
    predict_files,
    prediction_bytes,
    volumes_csv,
    with_settings,
)
from monaiseg.settings.reading import changed, parse_settings, settings_from_dict
from monaiseg.training.checkpoint import load_checkpoint

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*axes)
]


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained.run_folder, device="cpu")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_any_of_the_48_orientations_comes_back_on_its_own_grid(
    orientation, predictor, phantom, tmp_path
):
    files = phantom((20, 24, 28), (1.2, 1.0, 0.8), orientation, label_values=(1, 4))
    output = predictor.predict_file(files.image, tmp_path / "pred.nii.gz").output

    scan, prediction = nib.load(files.image), nib.load(output)
    assert prediction.shape == scan.shape
    assert np.array_equal(prediction.affine, scan.affine)
    assert "".join(nib.aff2axcodes(prediction.affine)) == orientation
    for code in ("qform_code", "sform_code"):
        assert prediction.header[code] == scan.header[code]
    assert prediction.get_data_dtype() == np.uint8


def test_the_prediction_lies_where_the_structure_does(predictor, tmp_path):
    made = make_phantom((24, 24, 24), (1.0, 1.0, 1.0), "PIR", (1, 4), seed=3)
    image, label = write_phantom(tmp_path, "turned", made)
    prediction, reference = predictor.predict(image), np.asarray(nib.load(label).dataobj)

    inside = reference > 0
    assert set(np.unique(prediction)) <= {0, 1, 4}
    assert 2 * (inside & (prediction > 0)).sum() / (inside.sum() + (prediction > 0).sum()) > 0.6


def test_a_scan_smaller_than_the_patch_is_labelled(predictor, phantom):
    files = phantom((7, 30, 9), label_values=(1, 4))

    with pytest.warns(MonaisegWarning, match="7 x 30 x 9 mm large"):
        assert predictor.predict(files.image).shape == (7, 30, 9)


def test_names_and_colours_travel_with_the_label_map(predictor, phantom, tmp_path):
    output = predictor.predict_file(
        phantom(label_values=(1, 4)).image, tmp_path / "pred.nii.gz"
    ).output

    assert read_label_table(output) == predictor.table


def test_the_label_table_is_written_for_other_programs(trained, predictor, phantom, tmp_path):
    image = phantom(label_values=(1, 4)).image
    words = ["predict", trained.run_folder, image, "-o", tmp_path / "out", "--device", "cpu"]

    formats = ["--label-table-format", "itksnap", "--label-table-format", "tsv"]
    done = CliRunner().invoke(app, [str(word) for word in [*words, *formats]])

    assert done.exit_code == 0, done.output
    for name in ("labels-itksnap.txt", "dseg.tsv"):
        assert load_label_table(tmp_path / "out" / name) == predictor.table
    refused = CliRunner().invoke(app, [str(word) for word in [*words, "--label-table-format", "x"]])
    assert refused.exit_code == 2
    assert "'x' is unknown; use json, csv, tsv, itksnap, freesurfer, slicer" in refused.output


def test_mirrored_windows_are_averaged_where_the_settings_of_the_training_say_so(trained, phantom):
    saved = load_checkpoint(trained.run_folder)
    settings = parse_settings(saved.settings, "checkpoint")
    both = changed(settings, {"dataset.seg.partition.flips": ("up_down", "left_right")})
    image = phantom(label_values=(1, 4)).image

    def labels(settings, **options):
        return Predictor(with_settings(saved, settings), device="cpu", **options).predict(image)

    by_hand = labels(settings, flips=(0, 2))
    assert np.array_equal(labels(both), by_hand)
    assert not np.array_equal(labels(settings), by_hand)
    assert np.array_equal(labels(both, flips=()), labels(settings))


def test_two_scans_of_one_name_are_not_written_over_each_other(predictor, phantom, tmp_path):
    one, two = (phantom(folder=tmp_path / name).image for name in "ab")

    with pytest.raises(SettingsError, match="would both be written"):
        list(predict_files(predictor, [[one], [two]], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_all_images_that_cannot_be_read_are_named_before_the_first_prediction(
    predictor, phantom, tmp_path
):
    image = phantom().image

    with pytest.raises(DataError, match=r"(?s)lost\.nii.*gone\.nii"):
        list(predict_files(predictor, [[image], ["lost.nii"], ["gone.nii"]], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(predictor, phantom, tmp_path):
    (tmp_path / "out").write_text("mine")

    with pytest.raises(StorageError, match="out: cannot be written"):
        list(predict_files(predictor, [[phantom().image]], tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_the_overlap_of_an_evaluation_wins_over_the_margins_of_the_training(trained):
    checkpoint = load_checkpoint(trained.run_folder)
    settings = parse_settings(checkpoint.settings)
    margins = changed(settings, {"dataset.seg.partition.overlap_size": (2, 2, 2)})
    wanted = settings_from_dict({"dataset": {"seg": {"partition": {"overlap": 0.25}}}})

    used, _ = as_evaluated(with_settings(checkpoint, margins), wanted)

    assert parse_settings(used.settings).window_overlap == (0.25, 0.25, 0.25)


def test_a_wrong_number_of_channels_is_refused(predictor, phantom, tmp_path):
    image: Path = phantom().image

    with pytest.raises(DataError, match="channel"):
        predictor.predict([image, image])


def test_a_scan_that_cannot_be_used_does_not_keep_the_others_from_being_labelled(
    predictor, phantom, tmp_path
):
    good = [phantom(label_values=(1, 4), case_id=f"good_{n}", seed=n).image for n in range(2)]
    bad = tmp_path / "bad.nii.gz"
    voxels = np.zeros((24, 24, 24), np.float32)
    voxels[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), bad)
    out = tmp_path / "out"

    with pytest.raises(DataError, match=r"^[^\n]*bad\.nii\.gz[^\n]*$"):
        list(predict_files(predictor, [[good[0]], [bad], [good[1]]], out))

    assert sorted(path.name for path in out.iterdir()) == [
        "good_0_pred.nii.gz",
        "good_1_pred.nii.gz",
    ]


def test_an_overlap_or_axis_that_there_is_not_is_refused(trained):
    with pytest.raises(SettingsError, match="overlap: 1.0"):
        Predictor(trained.run_folder, device="cpu", overlap=1.0)
    with pytest.raises(SettingsError, match="flips: -1 is not an axis"):
        Predictor(trained.run_folder, device="cpu", flips=(0, -1))


def test_voxels_of_another_size_than_the_network_was_laid_out_for_are_warned_of(
    predictor, trained, phantom
):
    coarse = phantom((24, 24, 12), spacing=(1.0, 1.0, 1.9), label_values=(1, 4)).image
    saved = load_checkpoint(trained.run_folder)
    settings = parse_settings(saved.settings, "checkpoint")
    resampled = changed(settings, {"dataset.spacing": (1.0, 1.0, 1.0)})

    with pytest.warns(MonaisegWarning, match="voxels of 1 x 1 x 1.9 mm, those of the training 0.9"):
        predictor.predict(coarse)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MonaisegWarning)
        predictor.predict(
            phantom(spacing=(1.0, 1.0, 1.2), label_values=(1, 4), case_id="fine").image
        )
        Predictor(with_settings(saved, resampled), device="cpu").predict(coarse)


def test_a_label_map_that_is_there_is_left_unless_it_is_to_be_overwritten(
    predictor, phantom, tmp_path
):
    """It may have been corrected by hand."""
    image, out = phantom().image, tmp_path / "out"
    (made,) = predict_files(predictor, [[image]], out)
    made.output.write_bytes(b"corrected")

    assert list(predict_files(predictor, [[image]], out)) == []
    assert made.output.read_bytes() == b"corrected"
    (again,) = predict_files(predictor, [[image]], out, overwrite=True)
    assert again.voxels == made.voxels
    assert again.output.read_bytes() != b"corrected"


def test_a_scan_that_memory_does_not_hold_is_named_and_the_others_are_predicted(
    predictor, phantom, tmp_path, monkeypatch
):
    small, large = (phantom((n, 24, 24), folder=tmp_path / f"size_{n}").image for n in (24, 96))
    small = small.rename(small.with_name("small.nii.gz"))
    limit = prediction_bytes(predictor.settings, read_header(large).grid) - 1
    monkeypatch.setattr("monaiseg.prediction.cohort.free_memory", lambda: limit)

    made = []
    with pytest.raises(DataError, match=r"case\S*: needs about .* of memory") as raised:
        made.extend(predict_files(predictor, [[large], [small]], tmp_path / "out"))

    assert "small" not in str(raised.value)
    assert (tmp_path / "out" / "small_pred.nii.gz").is_file()


def test_memory_that_runs_out_in_a_window_is_said_of_its_scan(
    predictor, phantom, tmp_path, monkeypatch
):
    def starved(*_, **__):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr("monaiseg.prediction.fitting.sliding_window_class_map", starved)

    with pytest.raises(DataError, match=r"case\S*: memory ran out on cpu"):
        list(predict_files(predictor, [[phantom().image]], tmp_path / "out"))


def test_volumes_are_those_of_the_counted_voxels(predictor, phantom, tmp_path):
    (made,) = predict_files(predictor, [[phantom().image]], tmp_path / "out")
    values, header = read_label_map(made.output)

    header_row, *rows = volumes_csv([made], predictor.table).splitlines()

    assert header_row == "image,value,name,voxels,volume_ml"
    assert len(rows) == predictor.table.num_classes - 1
    for row in rows:
        _, value, _, voxels, volume = row.split(",")
        assert int(voxels) == (values == int(value)).sum()
        assert float(volume) == pytest.approx(int(voxels) * header.grid.voxel_volume_mm3 / 1000)


def without_orientation(scan: Path, target: Path) -> Path:
    """A copy of a scan whose header says nothing of orientation, as some converters write it."""
    image = nib.load(scan)
    bare = nib.Nifti1Image(np.asanyarray(image.dataobj), None)
    bare.header.set_zooms(image.header.get_zooms())
    bare.header["sform_code"] = bare.header["qform_code"] = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bare.to_bytes())
    return target


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "PSR"])
def test_scans_that_say_nothing_of_orientation_are_labelled_as_if_they_did(
    trained, phantom, tmp_path, orientation
):
    said = phantom(orientation=orientation).image
    unsaid = without_orientation(said, tmp_path / "in" / "scan.nii")
    told = Predictor(trained.run_folder, device="cpu", assume_orientation=orientation.lower())

    said_of_it: list[str] = []
    (made,) = predict_files(told, [[unsaid]], tmp_path / "out", say=said_of_it.append)

    assert said_of_it == [f"{unsaid}: has no orientation; it is taken to be {orientation}"]
    header, expected = nib.load(made.output).header, nib.load(unsaid).header
    assert np.array_equal(np.asanyarray(nib.load(made.output).dataobj), told.predict(said))
    for field in ("sform_code", "qform_code", "srow_x", "qoffset_x", "xyzt_units"):
        assert np.array_equal(header[field], expected[field]), field
    assert np.array_equal(header["pixdim"][:4], expected["pixdim"][:4])


def test_scans_that_say_nothing_of_orientation_are_refused_with_the_option(
    predictor, trained, phantom, tmp_path
):
    unsaid = without_orientation(phantom().image, tmp_path / "scan.nii")

    with pytest.raises(DataError, match="`predict --assume-orientation`"):
        list(predict_files(predictor, [[unsaid]], tmp_path / "out"))
    with pytest.raises(SettingsError, match="'RAT' is not an orientation"):
        Predictor(trained.run_folder, device="cpu", assume_orientation="RAT")
