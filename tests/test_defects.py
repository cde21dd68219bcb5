"""EasyReg's silent defects, one test each: what it computed without a word, and what is right.

A number in a test's name is the defect's in the order of its workflow: labels and geometry (4 to 11), sampling (12),
the training loop (16 to 24). Each docstring says what EasyReg did; each test fails on that.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drawings import GRID, SHAPE, write_case
from monaiseg.data.cases import Case, find_cases
from monaiseg.data.data_tasks import DataTask, read_data_task
from monaiseg.data.grid import Grid
from monaiseg.data.list_files import read_list_file, write_list_file
from monaiseg.data.splits import split_cases
from monaiseg.data.volumes import read_header, read_label_map, write_image, write_label_map
from monaiseg.errors import DataError, SettingsError
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare
from monaiseg.settings.reading import load_settings, settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.handlers.learning_rate import LearningRate
from monaiseg.training.loaders import build_training_loader
from monaiseg.training.run import train
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import load_chain
from monaiseg.transforms.items import case_item

SCRIPTS = Path(__file__).parent.parent / "scripts"


def listed_by_easyreg(folder: Path, splits: dict[str, list[Case]]) -> Path:
    """A data task as EasyReg's preparation leaves it: list files with paths, and names; no debug, no dataset.json."""
    for split, cases in splits.items():
        (folder / split).mkdir(parents=True)
        lines = "".join(f"{case.images[0]} {case.label}\n" for case in cases)
        (folder / split / "file_path_list.txt").write_text(lines)
        (folder / split / "file_name_list.txt").write_text("".join(f"{c.id}\n" for c in cases))
    return folder


def with_values(folder: Path, name: str, *values: int, seed: int = 0) -> Case:
    """A case whose label map has these values, each in a row of its own along X (and zeros, if 0 is among them)."""
    label = np.array(sorted(values), np.uint8)[np.arange(SHAPE[0] * 4 * 5) % len(values)]
    files = folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"
    return write_case(*files, seed=seed, values=label.reshape(SHAPE))


def classes(task: DataTask, case: Case, **seg: Any) -> dict[int, int]:
    """Label value in the file -> class index that the network is taught, through the chain."""
    settings = settings_from_dict({"dataset": {"seg": {"patch_size": [16, 16, 16], **seg}}})
    item = CaseChain(load_chain(settings, task.label_table(settings)))(case_item(case))
    values = read_label_map(case.label)[0]
    inside = item["label"].numpy()[0][6:9, 6:10, 5:10]  # without the padding
    pairs = {(int(v), int(c)) for v, c in zip(values.ravel(), inside.ravel(), strict=True)}
    assert len(dict(pairs)) == len(pairs), "one value became two classes"
    return dict(sorted(pairs))


@pytest.fixture
def task(tmp_path: Path) -> DataTask:
    """Label values 0, 2, 4 in the training's first case, fewer in the others, and more in none."""
    cases = {
        "train": [with_values(tmp_path, "all", 0, 2, 4, seed=1), with_values(tmp_path, "some", 0, 4, seed=2)],
        "val": [with_values(tmp_path, "lacks", 0, 4, seed=3)],
        "test": [with_values(tmp_path, "other", 0, 2, seed=4)],
    }  # fmt: skip
    return read_data_task(listed_by_easyreg(tmp_path / "task", cases))


# ---------------------------------------------------------------- labels


def test_defect_4a_a_case_with_all_labels_is_remapped_like_the_others(task):
    """EasyReg left {0, 2, 4} as it was, and made {0, 2} of {0, 4}."""
    everything, some = task.cases["train"]
    assert classes(task, everything) == {0: 0, 2: 1, 4: 2}
    assert classes(task, some) == {0: 0, 4: 2}


def test_defect_4b_a_list_without_0_keeps_background(task):
    """EasyReg made the first label of the list background: 2 became 0."""
    everything = task.cases["train"][0]
    assert classes(task, everything, interested_label_list=[2, 4]) == {0: 0, 2: 1, 4: 2}


def test_defect_4c_a_list_in_any_order_merges_no_labels(tmp_path):
    """EasyReg rewrote in place, label after label: [0, 2, 1] made 0, 1, 1, 0 of 0, 1, 2, 3."""
    cases = [with_values(tmp_path, f"S{n}", 0, 1, 2, 3, seed=n) for n in range(2)]
    task = read_data_task(
        listed_by_easyreg(tmp_path / "task", {"train": cases[:1], "val": cases[1:]})
    )
    assert classes(task, cases[0], interested_label_list=[0, 2, 1]) == {0: 0, 1: 1, 2: 2, 3: 0}


def test_defect_4d_a_label_has_one_index_in_every_split(task):
    """EasyReg counted each split's labels anew: 4 was class 2 in training and class 1 in validation."""
    (validation,), (test,) = task.cases["val"], task.cases["test"]
    assert classes(task, validation) == {0: 0, 4: 2}
    assert classes(task, test) == {0: 0, 2: 1}
    assert task.table.values == (0, 2, 4)


@pytest.mark.parametrize("class_num", [2, 57])
def test_defect_4e_a_number_of_classes_that_is_not_the_datas_is_refused(task, class_num):
    """EasyReg trained outputs that nothing used, or stopped with an assertion on the GPU."""
    settings = settings_from_dict({"tsk_set": {"seg": {"class_num": class_num}}})
    with pytest.raises(SettingsError, match=f"{class_num} is not the number of labels .* use 3"):
        task.label_table(settings)


# ---------------------------------------------------------------- geometry


def test_defect_5_each_axis_is_resized_by_its_own_factor(tmp_path):
    """EasyReg gave X the factor of Z and Z that of X: the bright plane at X = 12 of 16 came out elsewhere or was lost."""
    image = np.zeros((16, 16, 32))
    image[12, :, :] = 100
    case = Case("plane", (tmp_path / "plane.nii.gz",), tmp_path / "plane_seg.nii.gz")
    grid = Grid.of(image.shape, np.eye(4))
    write_image(case.images[0], image, grid)
    write_label_map(case.label, (image > 0).astype(np.uint8), grid)
    settings = settings_from_dict(
        {"dataset": {"img_after_resize": [16, 16, 48], "seg": {"patch_size": [16, 16, 16]}}}
    )
    table = read_data_task(listed_by_easyreg(tmp_path / "task", {"train": [case]})).table

    item = CaseChain(load_chain(settings, table))(case_item(case))

    assert item["image"].shape[1:] == (48, 16, 16)  # thrice along X, half along Z
    assert np.flatnonzero(item["label"].numpy()[0].all(axis=(1, 2))).tolist() == [36, 37, 38]
    assert int(item["image"].numpy()[0].mean(axis=(1, 2)).argmax()) == 37


def test_defect_6_a_prediction_lies_on_its_scans_grid_and_has_label_values(
    trained, dataset, tmp_path
):
    """EasyReg wrote class indices on the resized grid, at zero origin and identity direction."""
    for name in ("case_2", "case_3", "case_4"):  # LPS, PIR, LAS
        image = dataset / "images" / f"{name}.nii.gz"

        path = Predictor(trained.run_folder).predict_file(image, tmp_path / f"{name}.nii.gz").output

        values, header = read_label_map(path)
        assert header.grid.difference(read_header(image).grid) is None
        assert set(np.unique(values)) == {0, 1, 4}
        reference = read_label_map(dataset / "labels" / f"{name}.nii.gz")[0]
        assert (values == reference).mean() > 0.9


def test_defect_7_image_and_label_map_on_different_grids_are_refused(dataset, tmp_path):
    """EasyReg threw geometry away on reading, and so could not see it."""
    path = dataset / "labels" / "case_1.nii.gz"
    values, header = read_label_map(path)
    shifted = header.grid.array.copy()
    shifted[:3, 3] += 5
    write_label_map(path, values, Grid.of(values.shape, shifted))

    with pytest.raises(DataError, match="case_1.* lie on different grids"):
        prepare(dataset, tmp_path / "out", "phantoms")


def test_defect_7_orientations_are_made_one(tmp_path):
    """EasyReg trained on voxels as they lay in the file: left was right in half of a mixed dataset."""
    values = np.arange(60.0).reshape(SHAPE)
    turned = Grid.of(SHAPE, np.diag([-1, -1, 2, 1]))
    for name, data, grid in (("RAS", values, GRID), ("LPS", values[::-1, ::-1], turned)):
        write_image(tmp_path / f"{name}.nii.gz", data, grid)
    chain = CaseChain(
        load_chain(settings_from_dict({"dataset": {"seg": {"patch_size": [16] * 3}}}))
    )

    ours, theirs = (
        chain(case_item(Case(name, (tmp_path / f"{name}.nii.gz",))))["image"].numpy()
        for name in ("RAS", "LPS")
    )

    assert np.array_equal(ours, theirs)


# ---------------------------------------------------------------- lists and splits


def test_defect_8_two_cases_of_one_name_are_refused(tmp_path):
    """EasyReg read the first image twice, and never the second."""
    first, second = (write_case(tmp_path / side / "S1.nii.gz", tmp_path / side / "S1_seg.nii.gz", seed=n) for n, side in enumerate("ab"))  # fmt: skip
    folder = listed_by_easyreg(tmp_path / "task", {"train": [first, second]})

    with pytest.raises(
        DataError, match="case id 'S1' is used 2 times; give each case its own name"
    ):
        read_data_task(folder)


@pytest.mark.parametrize("letter", [" ", ",", "|", "+", "ü", "é", "脑"])
def test_defect_9_a_path_may_hold_any_letter(letter, tmp_path):
    """EasyReg cut paths at spaces, commas, | and +."""
    folder = tmp_path / f"left{letter}right"
    case = write_case(folder / f"S{letter}1.nii.gz", folder / f"S{letter}1_seg.nii.gz")
    write_list_file(tmp_path / "file_path_list.txt", [case])

    assert read_list_file(tmp_path / "file_path_list.txt") == (case,)


def test_defect_9_a_path_that_easyreg_would_have_cut_is_named_with_what_to_do(tmp_path):
    case = write_case(tmp_path / "my scans" / "S1.nii.gz", tmp_path / "my scans" / "S1_seg.nii.gz")
    folder = listed_by_easyreg(tmp_path / "task", {"train": [case]})

    with pytest.raises(DataError, match="put a path with a space, comma, . or . in double quotes"):
        read_data_task(folder)


def test_defect_10_files_are_paired_by_their_names(tmp_path):
    """EasyReg paired what came first with what came first: image10 with label02."""
    names = [("image1", "label01"), ("image2", "label02"), ("image10", "label10")]
    for image, label in names:
        write_case(tmp_path / f"images/{image}.nii.gz", tmp_path / f"labels/{label}.nii.gz")

    pairs = {(c.images[0].name[:-7], c.label.name[:-7]) for c in find_cases(tmp_path).cases}

    assert pairs == set(names)


def test_defect_10_equal_counts_do_not_hide_a_missing_partner(tmp_path):
    """EasyReg compared the counts alone: A, B, C with the label maps of A, C, D went through."""
    for image, label in (("A", "A"), ("B", "C"), ("C", "D")):
        write_case(tmp_path / f"images/{image}.nii.gz", tmp_path / f"labels/{label}.nii.gz")

    with pytest.raises(
        DataError, match=r"image B\.nii\.gz has no label map\nlabel map D\.nii\.gz has no image"
    ):
        find_cases(tmp_path)


@pytest.mark.parametrize("count", [3, 5, 9, 11, 40])
def test_defect_11_no_case_is_trained_on_and_validated_on(count):
    """EasyReg's slice [-0:] made the whole dataset its validation split, below ten cases at 10 per cent."""
    names = [f"S{n}" for n in range(count)]
    splits = split_cases(names, (70, 20, 10), seed=1773)

    held = [name for split in ("train", "val", "test") for name in splits[split]]
    assert sorted(held) == sorted(names)
    assert all(splits[split] for split in ("train", "val", "test"))
    assert splits == split_cases(names[::-1], (70, 20, 10), seed=1773)


def test_defect_11_a_data_task_that_easyreg_leaked_into_is_refused(tmp_path):
    cases = [with_values(tmp_path, f"S{n}", 0, 1, seed=n) for n in range(3)]
    folder = listed_by_easyreg(tmp_path / "task", {"train": cases[:2], "val": cases})

    with pytest.raises(DataError, match="'s0' is in train and val; keep it in one"):
        read_data_task(folder)


# ---------------------------------------------------------------- sampling and training


def test_defect_12_crops_of_one_second_differ_and_those_of_one_seed_do_not(
    data_task, settings, tmp_path, monkeypatch
):
    """EasyReg seeded every crop by the clock's whole seconds: all of one second were cut at the same place."""
    document = json.loads(dump_settings(settings))
    document["dataset"]["seg"]["transform"] = {"transform_seq": ["my_balanced_random_crop"]}
    del document["dataset"]["seg"]["sampling"]
    document["tsk_set"] |= {"max_batch_num_per_epoch": [6, 0, 0], "num_workers": 2}
    chosen = settings_from_dict(document)
    case = data_task.cases["train"][:1]

    def crops(now: float) -> list[bytes]:
        monkeypatch.setattr(time, "time", lambda: now)
        loader = build_training_loader(case, chosen, data_task.table, tmp_path)
        try:
            return [crop.numpy().tobytes() for batch in loader for crop in batch["image"]]
        finally:
            loader.close()

    first = crops(1000.0)
    assert len(set(first)) == len(first) == 12
    assert crops(2000.0) == first


def test_defect_16_minus_one_batch_an_epoch_means_all(data_task, settings, tmp_path):
    """EasyReg took a modulus by -1, and ended the epoch after one batch."""
    assert settings.tsk_set.max_batch_num_per_epoch[0] == -1
    loader = build_training_loader(data_task.cases["train"], settings, data_task.table, tmp_path)
    seen = [case for batch in loader for case in batch["case_id"]]
    assert len(loader) == 3
    assert set(seen) == {case.id for case in data_task.cases["train"]}


def lpba_rate(base: float | None = None) -> LearningRate:
    """The schedule of the LPBA settings: "custom", a fall by half every 60 epochs, 400 steps an epoch."""
    with pytest.warns(match="no effect"):
        settings = load_settings(SCRIPTS / "settings_for_lpba" / "seg_train" / "curr_task_settings.json")  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return LearningRate(
        optimizer, settings.tsk_set.optim, steps_per_epoch=400, epochs=400,
        warmup_epochs=settings.tsk_set.warmup_epochs, base=base,
    )  # fmt: skip


def test_defect_17_the_warm_up_ends():
    """EasyReg's scheduler took the rate back to a tenth in the same epoch: LPBA trained at 1e-4, never at 1e-3."""
    rate = lpba_rate()
    epochs = {epoch: rate.at(400 * (epoch - 1) + 1) for epoch in (1, 3, 60, 61, 121)}
    assert epochs == {
        epoch: pytest.approx(value)
        for epoch, value in {1: 1e-4, 3: 1e-3, 60: 1e-3, 61: 5e-4, 121: 2.5e-4}.items()
    }


def test_defect_17_continue_train_lr_is_not_overwritten():
    """EasyReg's scheduler overwrote it in the first epoch."""
    rate = lpba_rate(base=5e-4)
    assert rate.at(400 * 10 + 1) == pytest.approx(5e-4)
    assert rate.at(400 * 100 + 1) == pytest.approx(2.5e-4)


def test_defect_18_plateau_waits_for_dice_to_stop_rising():
    """EasyReg fed Dice to a schedule that waits for a fall: it cut the rate because the model improved."""
    document = {
        "optim": {"lr": 1.0, "lr_scheduler": {"type": "plateau", "plateau": {"patience": 2}}}
    }
    settings = settings_from_dict({"tsk_set": document}).tsk_set.optim
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rate = LearningRate(optimizer, settings, steps_per_epoch=1, epochs=99, warmup_epochs=0)
    rising, flat = [], []
    for dice in np.linspace(0.1, 0.9, 9):
        rate.validated(float(dice))
        rising.append(rate.at(50))
    for _ in range(3):
        rate.validated(0.9)
        flat.append(rate.at(50))

    assert rising == [1.0] * 9
    assert flat == [1.0, 1.0, 0.5]


def short(settings: Settings, **tsk: Any) -> Settings:
    document = json.loads(dump_settings(settings))
    document["tsk_set"].update({"epochs": 1, "val_period": 1, **tsk})
    return settings_from_dict(document)


def run(settings: Settings, task: DataTask, name: str) -> Any:
    return train(settings, output_root_path=task.folder.parent, data_task_name=task.folder.name, task_name=name)  # fmt: skip


def test_defect_24_the_best_model_is_saved_from_the_first_validation_and_outlives_a_resume(
    data_task, settings
):
    """EasyReg did not save the first best, and after a resume the first validation replaced it, worse or not."""
    first = run(short(settings), data_task, "first")
    assert first.best is not None
    assert first.best.epoch == 1
    folder = first.run_folder / "checkpoints"
    best = checkpoints.load_checkpoint(folder / first.best.file)
    newest = checkpoints.newest(first.run_folder)
    unbeatable = checkpoints.save_best(folder, best, value=0.999)
    checkpoints.commit(folder, replace(newest, best=unbeatable))

    again = short(settings, epochs=2, continue_train=True, model_path=str(folder / unbeatable.file))
    second = run(again, data_task, "second")

    (row,) = checkpoints.newest(second.run_folder).history
    assert row["dice/mean"] < 0.999
    assert second.best == unbeatable
    kept = checkpoints.load_checkpoint(second.run_folder)
    assert all(torch.equal(kept.network[name], best.network[name]) for name in best.network)


def test_defect_1_a_data_task_of_lists_alone_trains_as_it_is(data_task, settings, tmp_path):
    """EasyReg's script wrote no debug folder, and its training ended with an AttributeError without one."""
    for split in ("train", "val", "test"):
        shutil.copytree(data_task.folder / split, tmp_path / "easyreg" / "phantoms" / split)
    document = settings.model_dump(mode="json")
    document["tsk_set"] |= {"epochs": 1}

    result = train(
        settings_from_dict(document),
        output_root_path=tmp_path / "easyreg",
        data_task_name="phantoms",
        task_name="first",
    )

    written = {path.name for path in (tmp_path / "easyreg" / "phantoms").iterdir()}
    assert written == {"train", "val", "test", "first"}  # its own files stay as they were
    assert Predictor(result.run_folder).table.values == (0, 1, 4)
