"""Images to predict: grouped into cases, each with a label map of its own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monaiseg.data.images import find_images, planned_outputs
from monaiseg.errors import DataError, SettingsError


def images_at(*given) -> list[list[Path]]:
    return [list(case.images) for case in find_images(*given)]


def test_names_that_differ_in_letter_case_are_one_file_on_some_disks(phantom, tmp_path):
    one = phantom(case_id="scan", folder=tmp_path / "a").image
    two = phantom(case_id="SCAN", folder=tmp_path / "b").image

    with pytest.raises(SettingsError, match="would both be written"):
        planned_outputs([[one], [two]], tmp_path / "out")


def test_channels_are_grouped_by_name_in_a_folder_and_by_order_elsewhere(tmp_path):
    def made(*names: str, num_channels: int = 1) -> list[Path]:
        paths = [tmp_path / f"{name}.nii.gz" for name in names]
        for path in paths:
            channels = np.zeros((4, 4, 4, num_channels)[: 3 + (num_channels > 1)], np.float32)
            nib.save(nib.Nifti1Image(channels, np.eye(4)), path)
        return paths

    out = tmp_path / "out"
    a0, a1, b0, b1 = made("A_0000", "A_0001", "B_0000", "B_0001")
    assert images_at([tmp_path], out, 2) == [[a0, a1], [b0, b1]]
    with pytest.raises(DataError, match="do not ascend"):
        find_images([b1, a0], out, 2)
    with pytest.raises(SettingsError, match="images cannot be cases of"):
        find_images([a0, a1, b0], out, 2)
    with pytest.raises(SettingsError, match="A has 2 channels, but the network takes 3"):
        find_images([tmp_path], out, 3)

    (both,) = made("D", num_channels=2)
    assert images_at([both, a0, a1], out, 2) == [[both], [a0, a1]]
    assert images_at([tmp_path], out, 2) == [[both], [a0, a1], [b0, b1]]

    a1.unlink()
    b0.unlink()
    with pytest.raises(SettingsError, match=r"A has no channel 0001.*\n.*B has no channel 0000"):
        find_images([tmp_path], out, 2)
    made("C")
    with pytest.raises(SettingsError, match="C.nii.gz: has no channel number"):
        find_images([tmp_path], out, 2)


def test_the_label_map_of_several_channels_has_the_name_of_the_case(tmp_path):
    channels = [tmp_path / f"S01_000{n}.nii.gz" for n in range(2)]
    others = [tmp_path / "S02_t1.nii.gz", tmp_path / "S02_flair.nii.gz"]

    outputs = [output.name for _, output in planned_outputs([channels, others], tmp_path / "out")]

    assert outputs == ["S01_pred.nii.gz", "S02_t1_pred.nii.gz"]


def test_a_pattern_gives_what_it_matches_in_order(phantom, tmp_path):
    places = [tmp_path / "study" / f"sub-{n}" / "anat" for n in (2, 1)]
    two, one = (phantom(case_id="T1w", folder=place).image for place in places)
    pattern = tmp_path / "study" / "**" / "images" / "*.nii.gz"

    assert images_at([pattern], tmp_path / "out") == [[one], [two]]
    with pytest.raises(SettingsError, match=r"flair\*: matches no file"):
        find_images([tmp_path / "study" / "flair*"], tmp_path / "out")


def test_a_file_whose_name_looks_like_a_pattern_is_itself(phantom, tmp_path):
    image = phantom(case_id="scan[1]").image

    assert images_at([image], tmp_path / "out") == [[image]]


def test_a_list_names_its_cases_and_its_label_maps_are_left(phantom, tmp_path):
    one, two = (phantom(case_id="T1w", folder=tmp_path / name) for name in "ab")
    (tmp_path / "file_path_list.txt").write_text(f"{one.image} {one.label}\n{two.image}\n")
    (tmp_path / "file_name_list.txt").write_text("S01\nS02\n")

    found = find_images([tmp_path / "file_path_list.txt"], tmp_path / "out")

    assert [case.id for case in found] == ["S01", "S02"]
    assert [case.images for case in found] == [(one.image,), (two.image,)]
    outputs = [output.name for _, output in planned_outputs(found, tmp_path / "out")]
    assert outputs == ["S01_pred.nii.gz", "S02_pred.nii.gz"]


def test_a_list_without_label_maps_gives_the_last_channel_too(phantom, tmp_path):
    t1, t2 = (phantom(case_id=name).image for name in ("t1", "t2"))
    (tmp_path / "scans.txt").write_text(f"{t1} {t2}\n")

    assert images_at([tmp_path / "scans.txt"], tmp_path / "out", 2) == [[t1, t2]]
    with pytest.raises(SettingsError, match="case t1 has 2 images, and the network takes 3"):
        find_images([tmp_path / "scans.txt"], tmp_path / "out", 3)
