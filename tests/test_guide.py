"""EasyReg's guide, typed as it prints it, from inside `scripts/`; and LPBA40's 57 classes, with their values 21 to 182.

The brains are made, with every structure of LPBA40. The settings are those of `scripts/settings_for_lpba`, shortened
where a training of 400 epochs would take its time: fewer steps, fewer channels.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.data_tasks import read_data_task
from monaiseg.data.label_files import load_label_table
from monaiseg.data.phantoms import write_phantom_dataset
from monaiseg.data.volumes import read_header, read_label_map, write_image
from monaiseg.prediction import Predictor, with_settings
from monaiseg.settings.reading import changed, load_settings, parse_settings
from monaiseg.settings.settings import Settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.loaders import build_case_loader, build_training_loader
from monaiseg.training.run import train

REPOSITORY = Path(__file__).parent.parent
LPBA40 = load_label_table("lpba40")
FILES = ("seg_train", "seg_aug", "seg_eval")

PREPARE = "python prepare_data.py --dataset_path DATASET_LOCATION --output_root_path segmentation_work --data_task_name lpba_segmentation --task_type seg"
TRAIN = "python train_seg.py -ts settings_for_lpba/seg_train/curr_task_settings.json --output_root_path lpba_segmentation --data_task_name lpba --task_name segmentation_with_unet"
RESUME = "python train_seg.py -ts settings_for_lpba/seg_train/curr_task_settings.json --output_root_path lpba_segmentation --data_task_name lpba --task_name segmentation_with_unet_resumed"
"""The guide's commands, letter for letter."""

PREPARE_SPLIT = PREPARE.replace("DATASET_LOCATION", "DATASET_OWN_SPLIT").replace("segmentation_work --data_task_name lpba_segmentation", "lpba_segmentation --data_task_name lpba")  # fmt: skip
EVALUATE = "python eval_seg.py -ts settings_for_lpba/seg_eval -txt lpba_segmentation/lpba/test/file_path_list.txt -m lpba_segmentation/lpba/segmentation_with_unet/checkpoints/model_best.pth.tar -o evaluated -g -1"

SHORTENED = {
    "tsk_set.epoch": 2,
    "tsk_set.batch_sz": [1, 1, 1, 1],
    "tsk_set.max_batch_num_per_epoch": [1, 1, 0],
    "tsk_set.print_step": [1, 1, 1],
    "tsk_set.network": {"channels": 4, "deep_supervision_heads": 0},
    "tsk_set.num_workers": 0,
    "tsk_set.gpu_ids": 0,  # gives way to the CPU where there is none
}
"""What is edited in the settings so that the guide takes seconds."""


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Edits a settings file as a user would."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        section = document
        *parents, name = key.split(".")
        for parent in parents:
            section = section[parent]
        section[name] = value
    path.write_text(json.dumps(document, indent=2))


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The guide, done once: a copy of `scripts/` to stand in, and what each command said."""
    here = tmp_path_factory.mktemp("guide") / "scripts"
    shutil.copytree(REPOSITORY / "scripts", here, ignore=shutil.ignore_patterns("__pycache__"))
    write_phantom_dataset(here / "DATASET_LOCATION", 5, table=LPBA40, shape=(40, 48, 40))
    for number, split in enumerate(("train", "train", "train", "val", "test"), start=1):
        for kind in ("images", "labels"):
            (here / "DATASET_OWN_SPLIT" / split / kind).mkdir(parents=True, exist_ok=True)
            name = f"brain_{number:03d}.nii.gz"
            shutil.copy(here / "DATASET_LOCATION" / kind / name, here / "DATASET_OWN_SPLIT" / split / kind)  # fmt: skip

    def typed(command: str) -> str:
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    settings = here / "settings_for_lpba" / "seg_train" / "curr_task_settings.json"
    edit(settings, SHORTENED)
    said = SimpleNamespace(prepare=typed(PREPARE), prepare_split=typed(PREPARE_SPLIT))
    said.train = typed(TRAIN)
    best = "lpba_segmentation/lpba/segmentation_with_unet/checkpoints/model_best.pth.tar"
    edit(
        settings,
        {
            "tsk_set.continue_train": True,
            "tsk_set.continue_train_lr": 0.0005,
            "tsk_set.reset_train_epoch": True,
            "tsk_set.load_model_but_train_from_epoch": 1,
            "tsk_set.model_path": best,
        },
    )
    said.resume = typed(RESUME)
    evaluation = here / "settings_for_lpba" / "seg_eval" / "curr_task_settings.json"
    edit(evaluation, {"dataset.img_after_resize": [60, 70, 60]})
    said.evaluate = typed(EVALUATE)
    return SimpleNamespace(here=here, said=said, task=here / "lpba_segmentation" / "lpba")


def listed(folder: Path) -> dict[str, int]:
    return {
        split: len((folder / split / "file_path_list.txt").read_text().splitlines())
        for split in ("train", "val", "test", "debug")
    }


def test_prepare_makes_lists_of_both_layouts(guide):
    assert listed(guide.here / "segmentation_work" / "lpba_segmentation") == {"train": 3, "val": 1, "test": 1, "debug": 3}  # fmt: skip
    assert listed(guide.task) == {"train": 3, "val": 1, "test": 1, "debug": 3}
    (line,) = (guide.task / "val" / "file_path_list.txt").read_text().splitlines()
    assert [Path(path).name for path in line.split()] == ["brain_004.nii.gz"] * 2
    assert read_data_task(guide.task).table.values == LPBA40.values


def test_train_leaves_a_network_and_says_where_it_computes(guide):
    run = guide.task / "segmentation_with_unet"
    assert checkpoints.load_checkpoint(run / "checkpoints").epoch in (1, 2)
    assert torch.cuda.is_available() or "the CPU is used" in guide.said.train
    assert "57 classes" in guide.said.train


@pytest.mark.parametrize("name", ["segmentation_with_unet", "segmentation_with_unet_resumed"])
def test_tensorboards_files_lie_in_the_folder_of_the_task(guide, name):
    """output_root_path / data_task_name / task_name, as the guide says; EasyReg put them into log/ in it."""
    assert list((guide.task / name).glob("events.out.tfevents.*"))
    events = EventAccumulator(str(guide.task / name))
    events.Reload()
    assert {"loss/train", "dice/mean"} <= set(events.Tags()["scalars"])


def test_resume_goes_on_from_the_checkpoint_with_the_rate_and_epoch_of_the_settings(guide):
    first, second = (
        checkpoints.newest(guide.task / name)
        for name in ("segmentation_with_unet", "segmentation_with_unet_resumed")
    )
    assert [row["epoch"] for row in second.history] == [2]
    assert second.scheduler["base"] == 0.0005
    assert second.best.value >= first.best.value
    log = (guide.task / "segmentation_with_unet_resumed" / "log.txt").read_text()
    assert f"best mean Dice so far {first.best.value:.4f}" in log


def test_evaluation_resamples_as_its_settings_say_and_answers_on_the_scans_grid(guide):
    assert "[60, 70, 60] is rounded up to [64, 80, 64]" in guide.said.evaluate
    (path,) = (guide.here / "evaluated" / "seg" / "res" / "records" / "3D").iterdir()
    values, header = read_label_map(path)
    (case,) = read_data_task(guide.task).cases["test"]
    expected = read_header(case.label)
    assert header.grid.difference(expected.grid) is None
    assert set(np.unique(values)) <= set(LPBA40.values)
    assert (guide.here / "evaluated/seg/res/records/scores.csv").is_file()


def test_nothing_is_written_beside_the_settings_or_the_data(guide):
    assert sorted(p.name for p in (guide.here / "settings_for_lpba/seg_train").iterdir()) == ["curr_task_settings.json"]  # fmt: skip
    assert len(list((guide.here / "DATASET_LOCATION").rglob("*.*"))) == 10
    made = {"segmentation_work", "lpba_segmentation", "evaluated", "DATASET_LOCATION", "DATASET_OWN_SPLIT"}  # fmt: skip
    before = {path.name for path in (REPOSITORY / "scripts").iterdir()}
    assert {p.name for p in guide.here.iterdir()} - {"__pycache__"} == made | before - {"__pycache__"}  # fmt: skip


# ---------------------------------------------------------------- 57 classes


def lpba(name: str, changes: dict[str, Any] | None = None) -> Settings:
    """One of the three settings, with changes in our own spelling."""
    with pytest.warns(match="no effect here"):
        settings = load_settings(
            REPOSITORY / "scripts" / "settings_for_lpba" / name / "curr_task_settings.json"
        )
    return changed(settings, {"tsk_set.num_workers": 0, **(changes or {})})


@pytest.mark.parametrize("name", FILES)
def test_class_indices_are_never_out_of_range(guide, name, tmp_path):
    """Label values reach 182; a network of 57 outputs is taught indices 0 to 56, in training and validation."""
    task = read_data_task(guide.task)
    small = {"tsk_set.max_batch_num_per_epoch": [4, 1, 1], "dataset.img_after_resize": [-1, -1, -1], "tsk_set.batch_size": 2}  # fmt: skip
    settings = lpba(name, small)
    table = task.label_table(settings)
    patches = build_training_loader(task.cases["train"], settings, table, tmp_path)
    whole = build_case_loader(task.cases["val"], settings, table, tmp_path)

    labels = [batch["label"] for loader in (patches, whole) for batch in loader]

    assert len(labels) == 5
    assert all(int(label.max()) <= 56 for label in labels)
    assert labels[-1].unique().tolist() == [*range(57)]


class _Reads(nn.Module):
    """A network that knows the answer: the image's intensity is the class index."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        classes = image[:, 0].round().long().clamp(0, 56)
        return nn.functional.one_hot(classes, 57).movedim(-1, 1).float()


def test_a_prediction_carries_the_label_values_21_to_182(guide, tmp_path):
    saved = checkpoints.load_checkpoint(guide.task / "segmentation_with_unet")
    plain = changed(parse_settings(saved.settings), {"dataset.intensity.method": "none"})
    predictor = Predictor(with_settings(saved, plain), device="cpu")
    assert predictor.network(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 57
    (case,) = read_data_task(guide.task).cases["test"]
    reference, header = read_label_map(case.label)
    telling = np.searchsorted(LPBA40.values, reference).astype(np.float32)
    write_image(tmp_path / "telling.nii.gz", telling, header.grid)
    predictor.network = _Reads()

    path = predictor.predict_file(tmp_path / "telling.nii.gz", tmp_path / "labels.nii.gz").output

    values = read_label_map(path)[0]
    assert np.array_equal(values, reference)
    assert np.unique(values).tolist() == [*LPBA40.values]
    assert (min(LPBA40.values[1:]), max(LPBA40.values)) == (21, 182)


def test_the_settings_for_augmented_data_train(guide):
    settings = lpba("seg_aug", {"tsk_set.epochs": 1, "tsk_set.max_batch_num_per_epoch": [1, 1, 0], "tsk_set.batch_size": 1, "tsk_set.network.channels": 4, "tsk_set.network.deep_supervision_heads": 0})  # fmt: skip

    result = train(settings, output_root_path=guide.task.parent, data_task_name="lpba", task_name="augmented", gpu_id=-1)  # fmt: skip

    assert result.epochs == 1
    assert result.best is not None


def test_the_evaluations_size_is_rounded_up_with_a_message():
    result = CliRunner().invoke(app, ["settings", "check", str(REPOSITORY / "scripts/settings_for_lpba/seg_eval")])  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "[196, 164, 196] is rounded up to [208, 176, 208]" in result.output


@pytest.mark.slow
def test_the_evaluation_runs_at_its_own_size(guide, tmp_path):
    """208 x 176 x 208 voxels, in 100 windows of 72."""
    words = ["eval-seg", "-ts", REPOSITORY / "scripts/settings_for_lpba/seg_eval", "-txt", guide.task / "test/file_path_list.txt", "-m", guide.task / "segmentation_with_unet", "-o", tmp_path, "-g", -1]  # fmt: skip

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 0, result.output
    assert "[196, 164, 196] is rounded up to [208, 176, 208]" in result.output
    (path,) = (tmp_path / "seg/res/records/3D").iterdir()
    assert set(np.unique(read_label_map(path)[0])) <= set(LPBA40.values)
