"""Data tasks: written whole or not at all, read back, and EasyReg's lists alone."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from monaiseg.data.cases import SPLITS
from monaiseg.data.data_tasks import DataTask, fresh_folder, read_data_task, write_data_task
from monaiseg.data.facts import examine_cases
from monaiseg.data.label_checks import scan_labels
from monaiseg.data.list_files import write_list_file
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError, SettingsError, StorageError
from monaiseg.preparation import prepare
from monaiseg.settings.reading import settings_from_dict


@pytest.fixture
def task(cases, tmp_path) -> DataTask:
    """A data task of four cases, not yet written."""
    members = cases(4)
    facts = examine_cases(members)
    splits = {"train": members[:2], "val": members[2:3], "test": members[3:], "debug": members[:1]}
    folder = tmp_path / "home" / "out" / "task"
    return DataTask(folder, "task", 7, splits, scan_labels(facts), facts, ("T1",), ("a note",))


def test_a_data_task_is_read_back_as_it_was_written(task):
    write_data_task(task)

    assert read_data_task(task.folder) == task
    for split in SPLITS:
        assert (task.folder / split / "file_path_list.txt").is_file()
        assert (task.folder / split / "file_name_list.txt").is_file()
    assert sorted(path.name for path in task.folder.parent.iterdir()) == ["task"]


def test_easyregs_lists_alone_make_a_data_task(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    shutil.rmtree(task.folder / "debug")

    read = read_data_task(task.folder)

    assert {s: read.cases[s] for s in ("train", "val", "test")} == {
        s: task.cases[s] for s in ("train", "val", "test")
    }
    assert read.cases["debug"] == task.cases["train"]
    assert read.table == task.table
    assert read.facts == task.facts
    assert "labels were read from all label maps" in read.notes[0]


@pytest.mark.parametrize("wanted", ["out/tsak", "out", "outputs/task"])
def test_a_folder_that_is_no_data_task_names_those_that_are_near(task, wanted, tmp_path):
    """A slip in the name, the folder above, and EasyReg's guide, which prepares in one folder and trains in another."""
    write_data_task(task)

    with pytest.raises(
        DataError, match=f"not a prepared dataset.*use {re.escape(str(task.folder))}$"
    ):
        read_data_task(tmp_path / "home" / wanted)


def test_where_no_data_task_is_near_the_command_that_makes_one_is_named(tmp_path):
    with pytest.raises(DataError, match="make one with `monaiseg prepare`"):
        read_data_task(tmp_path / "home" / "work" / "scans")


def test_a_file_that_is_gone_is_named_when_the_task_is_read(task):
    write_data_task(task)
    for split in ("train", "val"):
        task.cases[split][0].images[0].unlink()
    with pytest.raises(DataError) as caught:
        read_data_task(task.folder)
    assert str(task.cases["train"][0].images[0]) in str(caught.value)
    assert str(task.cases["val"][0].images[0]) in str(caught.value)


def test_lists_that_share_a_case_are_refused(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    shutil.copytree(task.folder / "train", task.folder / "val", dirs_exist_ok=True)
    with pytest.raises(
        DataError, match=r"case 's0' is in train and val(.|\n)*image .*S0.nii.gz is in"
    ):
        read_data_task(task.folder)


def test_a_debug_case_comes_from_train(task):
    write_data_task(task)
    shutil.copytree(task.folder / "val", task.folder / "debug", dirs_exist_ok=True)
    with pytest.raises(DataError, match="debug case 'S2' is not a training case"):
        read_data_task(task.folder)


def test_lists_edited_by_hand_do_not_agree_silently_with_the_json(task):
    write_data_task(task)
    for name in ("file_path_list.txt", "file_name_list.txt"):
        listing = task.folder / "train" / name
        listing.write_text(listing.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"does not have the cases of train/file_path_list\.txt"):
        read_data_task(task.folder)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (
            lambda document: document.update(schema_version=2),
            "schema_version 2, but this monaiseg reads 1",
        ),
        (lambda document: document.pop("cases"), "KeyError"),
        (lambda document: document["cases"][0].update(split="holdout"), "holdout"),
        (lambda document: document["cases"][0].update(facts=3), "prepare the data again"),
        (lambda document: document["labels"][0].update(value=5), "background"),
    ],
)
def test_a_dataset_json_of_another_kind_is_refused(task, edit, found):
    write_data_task(task)
    path = task.folder / "dataset.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=found) as caught:
        read_data_task(task.folder)
    assert str(path) in str(caught.value)


def test_training_cases_need_label_maps_and_test_cases_do_not(task):
    write_data_task(task)
    (task.folder / "dataset.json").unlink()
    for split in ("val", "test"):
        (task.folder / split / "file_path_list.txt").write_text(
            f"{task.cases[split][0].images[0]}\n"
        )
    with pytest.raises(DataError, match="case 'S2' has no label map"):
        read_data_task(task.folder)
    write_list_file(task.folder / "val/file_path_list.txt", task.cases["val"])
    assert read_data_task(task.folder).cases["test"][0].label is None


def test_a_folder_without_lists_is_no_data_task(tmp_path):
    with pytest.raises(DataError, match="monaiseg prepare"):
        read_data_task(tmp_path)


def test_writing_again_replaces_a_data_task_but_nothing_else(task):
    write_data_task(task)
    before = (task.folder / "dataset.json").stat()
    write_data_task(task)
    assert (task.folder / "dataset.json").stat() == before

    write_data_task(replace(task, seed=8))
    assert read_data_task(task.folder).seed == 8

    (task.folder / "my first training").mkdir()
    write_data_task(replace(task, seed=8))  # says the same
    with pytest.raises(
        SettingsError, match="has my first training and another prepared dataset in it"
    ):
        write_data_task(task)
    assert read_data_task(task.folder).seed == 8


def test_a_dataset_that_has_moved_is_prepared_again_beside_the_trainings_on_it(dataset, tmp_path):
    place = tmp_path / "work"
    sizes = {"train_size": 60, "test_size": 20, "val_size": 20}
    before = prepare(dataset, place, "task", **sizes)
    (before.folder / "my first training").mkdir()
    moved = dataset.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"(?s)cannot be found.*prepare them again"):
        read_data_task(before.folder)

    after = prepare(moved, place, "task", **sizes)

    assert read_data_task(before.folder) == after
    assert (before.folder / "my first training").is_dir()
    assert after.cases["test"][0].images[0].parent == moved / "images"

    label = after.cases["train"][0].label
    values, header = read_label_map(label)
    write_label_map(label, np.where(values == 4, 1, values), header.grid)
    with pytest.raises(SettingsError, match="and another prepared dataset in it"):
        prepare(moved, place, "task", **sizes)
    assert (before.folder / "my first training").is_dir()


def test_what_macos_leaves_in_a_folder_does_not_keep_it_from_being_replaced(task):
    write_data_task(task)
    for folder in (task.folder, task.folder / "train"):
        (folder / ".DS_Store").write_bytes(b"")

    write_data_task(replace(task, seed=8))

    assert read_data_task(task.folder).seed == 8


def test_labels_that_are_background_alone_cannot_be_learned(task):
    only = settings_from_dict({"dataset": {"seg": {"interested_label_list": [0]}}})

    with pytest.raises(SettingsError, match="there are no labels but the background"):
        task.label_table(only)


def test_a_folder_that_fails_half_way_leaves_the_old_one(task):
    write_data_task(task)

    def fill_the_disk() -> None:
        with fresh_folder(task.folder) as scratch:
            (scratch / "half").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        fill_the_disk()
    assert read_data_task(task.folder) == task
    assert sorted(path.name for path in task.folder.parent.iterdir()) == ["task"]


@pytest.mark.parametrize(
    ("seg", "class_num", "values"),
    [([-1], -1, (0, 1, 4)), ([-1], 3, (0, 1, 4)), ([4], -1, (0, 4)), ([4, 0], 2, (0, 4))],
)
def test_settings_choose_the_labels(task, seg, class_num, values):
    settings = settings_from_dict(
        {
            "dataset": {"seg": {"interested_label_list": seg}},
            "tsk_set": {"seg": {"class_num": class_num}},
        }
    )
    assert task.label_table(settings).values == values


def test_settings_that_do_not_fit_the_labels_are_told_the_right_ones(task):
    with pytest.raises(SettingsError, match=r"no labels 2, 9; it has 0, 1, 4"):
        task.label_table(
            settings_from_dict({"dataset": {"seg": {"interested_label_list": [9, 2]}}})
        )
    with pytest.raises(SettingsError, match=r"class_num: 57 is not .*; use 3, or -1"):
        task.label_table(settings_from_dict({"tsk_set": {"seg": {"class_num": 57}}}))
