"""Preparation: a dataset becomes a data task, whole or not at all, and is itself only read."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from monaiseg.data.cases import find_cases
from monaiseg.data.data_tasks import DataTask, read_data_task
from monaiseg.data.volumes import read_header, read_label_map, read_label_table, read_volume
from monaiseg.errors import DataError, SettingsError
from monaiseg.preparation import prepare
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

prepare_60_20_20 = functools.partial(prepare, train_size=60, test_size=20, val_size=20)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_dataset_becomes_a_data_task_and_stays_as_it_is(dataset, tmp_path):
    before = contents(dataset)

    task = prepare_60_20_20(dataset, tmp_path / "new" / "out", "brains")

    assert contents(dataset) == before
    assert {split: len(members) for split, members in task.cases.items()} == {
        "train": 3, "val": 1, "test": 1, "debug": 3,
    }  # fmt: skip
    assert task.table.values == (0, 1, 4)
    assert read_data_task(tmp_path / "new" / "out" / "brains") == task
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["brains"]


def test_the_same_seed_prepares_the_same_bytes(dataset, tmp_path):
    one, two, other = (
        prepare_60_20_20(dataset, tmp_path / name, "brains", seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert contents(one.folder) == contents(two.folder)
    assert contents(one.folder) != contents(other.folder)


def test_progress_is_told_of_every_case(dataset, tmp_path):
    steps: list[tuple[int, int]] = []
    prepare(dataset, tmp_path / "out", "brains", on_progress=lambda *step: steps.append(step))
    assert steps == [(n, 5) for n in range(1, 6)]


def test_a_split_dataset_keeps_its_split(dataset, tmp_path):
    for split, numbers in {"train": (1, 2, 3), "val": (4,), "test": (5,)}.items():
        for kind in ("images", "labels"):
            (tmp_path / "split" / split / kind).mkdir(parents=True)
            for n in numbers:
                name = f"case_{n}.nii.gz"
                shutil.copy(dataset / kind / name, tmp_path / "split" / split / kind / name)

    task = prepare(tmp_path / "split", tmp_path / "out", "brains", train_size=0)

    assert [case.id for case in task.cases["train"]] == ["case_1", "case_2", "case_3"]
    assert [case.id for case in task.cases["val"]] == ["case_4"]
    assert task.cases["debug"] == task.cases["train"]


def test_a_label_table_names_the_labels_and_must_name_all(dataset, tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text("value,name\n1,left lobe\n4,right lobe\n")
    task = prepare(dataset, tmp_path / "out", "brains", label_table=csv)
    assert task.table.names == ("background", "left lobe", "right lobe")
    assert task.notes == ()

    csv.write_text("value,name\n1,left lobe\n4,right lobe\n7,absent lobe\n")
    task = prepare(dataset, tmp_path / "out", "atlas", label_table=csv)
    assert task.table.values == (0, 1, 4)
    assert task.notes == (
        "the label table names 7 (absent lobe), which no label map has; they are left out",
    )

    csv.write_text("value,name\n1,lobe\n")
    with pytest.raises(
        DataError, match=r"case 'case_5': its label map has the values 4 \(\d+ voxels\)"
    ):
        prepare(dataset, tmp_path / "out", "other", label_table=csv)
    assert not (tmp_path / "out" / "other").exists()


def test_groups_tolerances_and_lesions_stay_with_the_labels(dataset, tmp_path):
    table = tmp_path / "dseg.tsv"
    table.write_text("index\tname\tgroup\tlesion\ttolerance_mm\n1\tcore\ttumour\tyes\t2\n4\tedge\ttumour\tn/a\tn/a\n")  # fmt: skip

    prepare(dataset, tmp_path / "out", "brains", label_table=table)

    core, edge = read_data_task(tmp_path / "out" / "brains").table.foreground
    assert (core.group, core.is_lesion, core.tolerance_mm) == ("tumour", True, 2.0)
    assert (edge.group, edge.is_lesion, edge.tolerance_mm) == ("tumour", False, None)


def test_nothing_is_written_where_a_case_is_bad(dataset, tmp_path):
    for n in (2, 4):
        path = dataset / "images" / f"case_{n}.nii.gz"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="2 of 5 cases cannot be used") as caught:
        prepare(dataset, tmp_path / "out", "brains")
    assert all(
        f"case_{n}.nii.gz: its compressed data end too early" in str(caught.value) for n in (2, 4)
    )
    assert not (tmp_path / "out").exists()


def test_an_image_that_all_cases_share_cannot_be_split(dataset, tmp_path):
    for kind in ("images", "labels"):
        for n in (2, 3, 4, 5):
            shutil.copy(dataset / kind / "case_1.nii.gz", dataset / kind / f"case_{n}.nii.gz")
    with pytest.raises(DataError, match="5 cases in 1 group cannot fill"):
        prepare(dataset, tmp_path / "out", "brains")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"task_type": "reg"}, "task_type: 'reg'"),
        ({"data_task_name": "../brains"}, "data_task_name"),
        ({"data_task_name": ".."}, "data_task_name"),
        ({"train_size": 80}, "sum to 100"),
    ],
)
def test_what_cannot_be_done_is_refused(dataset, tmp_path, changes, found):
    arguments = {"output_root_path": tmp_path / "out", "data_task_name": "brains", **changes}
    with pytest.raises(SettingsError, match=found):
        prepare(dataset, **arguments)
    assert not (tmp_path / "out").exists()


def test_output_and_dataset_may_not_lie_in_one_another(dataset, tmp_path):
    before = contents(tmp_path)
    (tmp_path / "link").symlink_to(dataset)
    for root, name in [
        (dataset, "brains"),
        (dataset.parent, dataset.name),
        (dataset.parent.parent, dataset.parent.name),
        (tmp_path / "link", "brains"),
        (dataset / "images", "brains"),
    ]:
        with pytest.raises(SettingsError, match="overlap; choose"):
            prepare(dataset, root, name)
    (tmp_path / "link").unlink()
    assert contents(tmp_path) == before


def test_scans_that_links_lead_to_are_not_overwritten(dataset, tmp_path):
    (tmp_path / "out").mkdir()
    dataset.rename(tmp_path / "out" / "brains")
    for kind in ("images", "labels"):
        (tmp_path / "linked" / kind).mkdir(parents=True)
        for path in (tmp_path / "out" / "brains" / kind).iterdir():
            (tmp_path / "linked" / kind / path.name).symlink_to(path)
    with pytest.raises(SettingsError, match="is inside the output"):
        prepare(tmp_path / "linked", tmp_path / "out", "brains")
    assert len(list((tmp_path / "out" / "brains").rglob("*.nii.gz"))) == 10


# ---------------------------------------------------------------- volumes written once


@pytest.fixture(params=[{"spacing": [1.3, 1.2, 1.5]}, {"img_after_resize": [32, 16, 48]}])
def resampled(dataset, tmp_path, settings, request) -> tuple[DataTask, Settings]:
    """The dataset, prepared on another grid with label 4 alone."""
    document = settings.model_dump(mode="json")
    document["dataset"] |= {"axis_order": "xyz", **request.param}
    document["dataset"]["seg"]["interested_label_list"] = [4]
    chosen = settings_from_dict(document)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "cur_task_setting.json").write_text(dump_settings(chosen))
    task = prepare_60_20_20(dataset, tmp_path / "out", "brains", preprocess=tmp_path / "settings")
    return task, chosen


def test_training_reads_volumes_that_were_resampled_once(dataset, resampled):
    from monaiseg.transforms.case_chain import CaseChain
    from monaiseg.transforms.chains import load_chain
    from monaiseg.transforms.items import case_item

    task, settings = resampled
    original = {case.id: case for case in find_cases(dataset).cases}
    table = task.label_table(settings)
    chain = CaseChain(load_chain(settings, table))
    read = CaseChain(load_chain(task.as_read(settings), table))
    for case in (*task.cases["train"], *task.cases["val"]):
        assert task.folder in case.images[0].parents
        grid = read_header(case.images[0]).grid
        assert grid.orientation == "RAS"
        assert grid.shape == (32, 16, 48) or np.allclose(grid.spacing, (1.3, 1.2, 1.5))
        ours, theirs = read(case_item(case)), chain(case_item(original[case.id]))
        assert np.array_equal(ours["image"], theirs["image"])
        assert np.array_equal(ours["label"], theirs["label"])


def test_preprocessed_label_maps_keep_the_wanted_labels_with_their_names(resampled):
    task, _ = resampled
    assert task.table.values == (0, 4)
    for case in task.cases["train"]:
        assert case.label is not None
        assert set(np.unique(read_label_map(case.label)[0])) == {0, 4}
        assert read_label_table(case.label) == task.table
        assert task.facts[case.id].label_voxels.keys() == {0, 4}
        assert task.facts[case.id].shape == read_volume(case.images[0])[0].shape


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing", [1.0, 2.0, 3.0]),
        ("img_after_resize", [48, 48, 48]),
        ("intensity", {"method": "minmax"}),
    ],
)
def test_training_by_other_settings_than_the_volumes_were_prepared_by_is_refused(
    resampled, key, value
):
    task, settings = resampled
    document = settings.model_dump(mode="json")
    document["dataset"][key] = value
    other = settings_from_dict(document)

    with pytest.raises(SettingsError, match=rf"dataset\.{key}: .* prepare the data again"):
        task.as_read(other)
    assert task.as_read(other, "test") == other


def test_test_cases_stay_the_original_scans(dataset, resampled):
    task, _ = resampled
    assert set(task.cases["test"]) <= set(find_cases(dataset).cases)
    assert read_data_task(task.folder) == task
    assert {case.id for case in task.cases["debug"]} <= {case.id for case in task.cases["train"]}
    assert set(task.cases["debug"]) <= set(task.cases["train"])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            {"dataset": {"num_channels": 2}},
            "dataset.num_channels: is 2, but the cases have 1 channel",
        ),
        ({"dataset": {"seg": {"interested_label_list": [9]}}}, "has no labels 9"),
        ({"tsk_set": {"seg": {"class_num": 57}}}, "use 3, or -1"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_anything_is_written(
    dataset, tmp_path, change, found
):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(change))
    with pytest.raises(SettingsError, match=found):
        prepare(dataset, tmp_path / "out", "brains", preprocess=path)
    assert not (tmp_path / "out").exists()


def test_the_real_cases_are_prepared_in_seconds(hippocampus, tmp_path):
    task = prepare(hippocampus, tmp_path, "hippocampus")

    assert {split: len(members) for split, members in task.cases.items()} == {
        "train": 140, "val": 20, "test": 40, "debug": 5,
    }  # fmt: skip
    assert task.table.values == (0, 1, 2)
    assert task.notes == ()
