"""dataset.json: what a dataset says of itself decides, and is held against its files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from drawings import SHAPE, write_case
from monaiseg.data.cases import Case, find_cases
from monaiseg.data.descriptions import names_in
from monaiseg.data.volumes import read_label_map
from monaiseg.errors import DataError
from monaiseg.preparation import prepare


def write_files(folder, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")


def describe(folder, **document) -> None:
    (folder / "dataset.json").write_text(json.dumps(document))


@pytest.fixture
def raw(tmp_path):
    """Six cases of nnU-Net's layout with the label values 1, 2 and, in the last, 7."""
    for n in range(6):
        values = np.zeros(SHAPE, int)
        values[1, 1:3, 1:4], values[2, 2, 2] = 1, 2
        values[0, 0, 0] = 7 if n == 5 else 0
        image = tmp_path / f"raw/imagesTr/a_{n}_0000.nii.gz"
        write_case(image, tmp_path / f"raw/labelsTr/a_{n}.nii.gz", values=values, seed=n)
    return tmp_path / "raw"


def test_the_list_decides_where_files_have_channel_numbers(tmp_path):
    write_files(tmp_path, *(f"imagesTr/{n}_000{c}.nii.gz" for n in "xyz" for c in (0, 1)))
    write_files(tmp_path, *(f"{f}/{n}.nii.gz" for f in ("labelsTr", "second") for n in "xyz"))
    items = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./second/{n}.nii.gz"} for n in "xy"]
    describe(tmp_path, training=items, modality={"0": "T1", "1": "T2"})

    found = find_cases(tmp_path)

    assert found.cases == tuple(
        Case(
            n,
            (tmp_path / f"imagesTr/{n}_0000.nii.gz", tmp_path / f"imagesTr/{n}_0001.nii.gz"),
            tmp_path / f"second/{n}.nii.gz",
        )
        for n in "xy"
    )
    assert len(found.notes) == 1
    assert "does not list 2 images" in found.notes[0]


@pytest.mark.parametrize("listed", ["imagesTr/x_0000.nii.gz", "imagesTr/x.nii.gz"])
def test_a_listed_image_stands_for_its_channels(tmp_path, listed):
    write_files(tmp_path, "imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x.nii.gz")
    describe(tmp_path, training=[{"image": listed, "label": "labelsTr/x.nii.gz"}])

    (case,) = find_cases(tmp_path).cases

    assert case.id == "x"
    assert [image.name for image in case.images] == ["x_0000.nii.gz", "x_0001.nii.gz"]


def test_a_listed_name_that_ends_in_numbers_is_an_image_of_its_own(tmp_path):
    write_files(tmp_path, "imagesTr/x_1.nii.gz", "imagesTr/x_2.nii.gz", "labelsTr/x_1.nii.gz")
    describe(tmp_path, training=[{"image": "imagesTr/x_1.nii.gz", "label": "labelsTr/x_1.nii.gz"}])

    assert [case.id for case in find_cases(tmp_path).cases] == ["x_1"]


def test_nnunets_dataset_of_named_cases_is_read(tmp_path):
    write_files(tmp_path, "a/flair.nii.gz", "a/t1.nii.gz", "a/seg.nii.gz")
    case = {"images": ["a/t1.nii.gz", "a/flair.nii.gz"], "label": "a/seg.nii.gz"}
    describe(tmp_path, dataset={"patient 1": case})

    files = (tmp_path / "a/t1.nii.gz", tmp_path / "a/flair.nii.gz")
    assert find_cases(tmp_path).cases == (Case("patient 1", files, tmp_path / "a/seg.nii.gz"),)


def test_a_dataset_that_is_a_name_is_no_list(tmp_path):
    write_files(tmp_path, "imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz")
    describe(tmp_path, dataset="hearts", labels={"background": 0, "heart": 1})

    assert [case.id for case in find_cases(tmp_path).cases] == ["x"]


def test_a_listed_file_that_is_not_there_is_named(raw, tmp_path):
    items = [
        {"image": f"imagesTr/a_{n}.nii.gz", "label": f"labelsTr/a_{n}.nii.gz"} for n in (0, 1, 9)
    ]
    describe(raw, training=items)

    with pytest.raises(DataError, match=r"(?s)imagesTr/a_9.*label map .*a_9.nii.gz: is not there"):
        prepare(raw, tmp_path / "out", "a")


def test_another_number_of_cases_and_lists_that_are_not_read_are_noted(tmp_path):
    write_files(tmp_path, "imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz")
    pair = {"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}
    describe(tmp_path, training=[pair], validation=[pair, pair], numTraining=2)

    notes = find_cases(tmp_path).notes

    assert "2 cases of 'validation' not used" in notes[0]
    assert "numTraining is 2, but it lists 1 case" in notes[1]


def test_a_value_that_it_does_not_name_is_refused(raw, tmp_path):
    describe(raw, labels={"background": 0, "anterior": 1, "posterior": 2})

    with pytest.raises(DataError, match=r"case 'a_5': its label map has the values 7 \(1 voxel\)"):
        prepare(raw, tmp_path / "out", "a")
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_label_map_has_is_noted(raw, tmp_path):
    describe(raw, labels={"background": 0, "a": 1, "b": 2, "c": 3, "stray": 7})

    task = prepare(raw, tmp_path / "out", "a")

    assert task.table.names == ("background", "a", "b", "stray")
    assert "dataset.json names 3 (c), which no label map has; they are left out" in task.notes


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2, "ignore": 7},
        {"0": "background", "1": "a", "2": "b", "7": "ignore"},
    ],
)
def test_the_ignore_label_of_nnunet_is_no_class(raw, tmp_path, labels):
    describe(raw, labels=labels)

    task = prepare(raw, tmp_path / "out", "a")

    assert task.table.values == (0, 1, 2)
    assert task.table.ignored_value == 7
    assert "label value 7 is ignored: 1 voxel left out of sampling, loss and scores" in task.notes


def test_the_ignored_value_is_kept_by_volumes_that_preparation_writes(raw, tmp_path, settings):
    from monaiseg.settings import dump_settings

    describe(raw, labels={"background": 0, "a": 1, "b": 2, "ignore": 7})
    (tmp_path / "s.json").write_text(dump_settings(settings))

    task = prepare(
        raw,
        tmp_path / "out",
        "a",
        preprocess=tmp_path / "s.json",
        train_size=100,
        test_size=0,
        val_size=0,
    )

    labels = [
        read_label_map(case.label)[0] for split in ("train", "val") for case in task.cases[split]
    ]
    assert any((values == 7).sum() == 1 for values in labels)


def test_a_listed_name_that_is_too_long_for_any_file_is_one_that_is_not_there(tmp_path):
    name = "a" * 5000
    describe(tmp_path, training=[{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"}])

    (case,) = find_cases(tmp_path).cases

    assert case.images[0].name == f"{name}.nii.gz"


def test_values_that_only_regions_name_are_known(raw, tmp_path):
    """BraTS in nnU-Net's format: whole tumour, tumour core, enhancing tumour."""
    labels = {"background": 0, "whole": [1, 2, 7], "core": [2, 7], "enhancing": 7}
    describe(raw, labels=labels, regions_class_order=[1, 2, 7])

    task = prepare(raw, tmp_path / "out", "t")

    assert {label.value: label.name for label in task.table.foreground} == {
        1: "label 1",
        2: "label 2",
        7: "enhancing",
    }
    assert any("'whole', 'core' are regions of several labels" in note for note in task.notes)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            {"background": 0, "left": 1, "right": 1},
            "label value 1 has the names 'left' and 'right'",
        ),
        ({"0": "background", "1": "left", "01": "right"}, "1 has the names 'left' and 'right'"),
        ({"background": 0, "left": 1.5}, "1.5 is not a label value"),
    ],
)
def test_names_that_contradict_one_another_are_refused(raw, tmp_path, labels, words):
    """Otherwise the last one would win, without a word."""
    describe(raw, labels=labels)

    with pytest.raises(DataError, match=words):
        prepare(raw, tmp_path / "out", "t")


@pytest.mark.parametrize("labels", [{"0": "background", "1": "a"}, {"background": "0", "a": "1"}])
def test_numbers_may_be_text_on_either_side(labels):
    assert names_in(labels) == ({0: "background", 1: "a"}, [])


def test_a_name_that_is_a_number_is_one_where_both_sides_are_numbers():
    """Brodmann areas are numbered; the key is the label value, as in the Decathlon."""
    assert names_in({"1": "17", "2": "18"}) == ({1: "17", 2: "18"}, [])
