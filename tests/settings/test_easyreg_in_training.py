"""EasyReg's keys that show in what a training leaves behind: steps, commits, pictures, volumes, and where it starts."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines.trainer import SupervisedTrainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from easyreg_bench import (
    SCHEDULE,
    SMALL,
)
from monaiseg.cli import app
from monaiseg.data.data_tasks import DataTask
from monaiseg.data.volumes import read_label_map
from monaiseg.settings.reading import load_settings, settings_from_dict
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.run import train
from sections import document

KEYS = [
    "tsk_set.train",
    "tsk_set.task_name",
    "tsk_set.output_root_path",
    "tsk_set.epoch",
    "tsk_set.max_batch_num_per_epoch",
    "tsk_set.val_period",
    "tsk_set.check_best_model_period",
    "tsk_set.save_val_fig_epoch",
    "tsk_set.save_fig_on",
    "tsk_set.save_running_resolution_3d_img",
    "tsk_set.print_step",
    "tsk_set.criticUpdates",
    "tsk_set.continue_train",
    "tsk_set.continue_train_lr",
    "tsk_set.reset_train_epoch",
    "tsk_set.load_model_but_train_from_epoch",
    "tsk_set.model_path",
    "tsk_set.save_3d_img_on",
]

FIRST = {
    **SMALL,
    "tsk_set.task_name": "to be replaced",
    "tsk_set.batch_sz": [2, 1, 1, 1],
    "tsk_set.epoch": 5,
    "tsk_set.max_batch_num_per_epoch": [4, 1, 2],
    "tsk_set.val_period": 2,
    "tsk_set.check_best_model_period": 3,
    "tsk_set.save_val_fig_epoch": 4,
    "tsk_set.save_fig_on": True,
    "tsk_set.save_running_resolution_3d_img": True,
    "tsk_set.print_step": [3, 1, 1],
    "tsk_set.criticUpdates": 2,
    "tsk_set.warmming_up_epoch": 0,
    "tsk_set.optim.lr": 0.01,
    f"{SCHEDULE}.type": "custom",
}
"""The training that the first half of `LOOP` looks at."""


def second_after(first: SimpleNamespace) -> dict[str, Any]:
    """One that goes on from it, as the guide says: the second half looks at this."""
    return {
        **{key: value for key, value in FIRST.items() if not key.endswith("_resolution_3d_img")},
        "tsk_set.save_fig_on": False,
        "tsk_set.save_3d_img_on": True,
        "tsk_set.save_val_fig_epoch": 1,
        "tsk_set.max_batch_num_per_epoch": [-1, -1, 0],
        "tsk_set.continue_train": True,
        "tsk_set.continue_train_lr": 0.002,
        "tsk_set.reset_train_epoch": True,
        "tsk_set.load_model_but_train_from_epoch": 3,
        "tsk_set.model_path": str(first.newest.path),
    }


def watched(values: dict[str, Any], task: Path, name: str) -> SimpleNamespace:
    """Train, and note what happens on the way."""
    seen = SimpleNamespace(rates=[], weights=[], commits=[], start=None)

    def weights(trainer: SupervisedTrainer) -> dict[str, torch.Tensor]:
        return {k: v.detach().clone() for k, v in trainer.network.named_parameters()}

    def noting(trainer: SupervisedTrainer) -> None:
        seen.start = weights(trainer)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda _: (
                seen.rates.append(trainer.optimizer.param_groups[0]["lr"]),
                seen.weights.append(weights(trainer)),
            ),
        )
        run(trainer)

    def committing(folder: Path, saved: Any) -> Path:
        seen.commits.append(saved.epoch)
        return commit(folder, saved)

    run, commit = SupervisedTrainer.run, checkpoints.commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupervisedTrainer, "run", noting)
        patch.setattr(checkpoints, "commit", committing)
        seen.result = train(
            settings_from_dict(document(values)),
            output_root_path=task.parent,
            data_task_name=task.name,
            task_name=name,
        )
    seen.folder = seen.result.run_folder
    seen.newest = checkpoints.newest(seen.folder)
    seen.events = EventAccumulator(str(seen.folder), {"images": 0, "scalars": 0})
    seen.events.Reload()
    seen.log = (seen.folder / "log.txt").read_text()
    seen.settings = load_settings(seen.folder / "cur_task_setting.json")
    seen.volumes = sorted((seen.folder / "records" / "3D").glob("*.nii.gz"))
    return seen


@pytest.fixture(scope="module")
def loop(_data_task: DataTask, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The two trainings, on three phantoms; the second goes on from the first."""
    task = Path(shutil.copytree(_data_task.folder, tmp_path_factory.mktemp("root") / "phantoms"))
    logging.getLogger("monaiseg").setLevel(logging.INFO)
    first = watched(FIRST, task, "first")
    return SimpleNamespace(first=first, second=watched(second_after(first), task, "second"))


def epochs(run):
    return [row["epoch"] for row in run.newest.history]


def validated(run):
    return [row["epoch"] for row in run.newest.history if "dice/mean" in row]


def steps_of_epochs(run):
    return [row["step"] for row in run.newest.history]


def picture_steps(run):
    return [event.step for tag in run.events.Tags()["images"] for event in run.events.Images(tag)]


def volume_names(run):
    """Case-less names, and how many of each."""
    names = ["_".join(path.name.split("_")[2:]) for path in run.volumes]
    return {name: names.count(name) for name in names}


def logged_steps(run):
    return [event.step for event in run.events.Scalars("loss/train")]


def steps_that_change_weights(run):
    states = [run.start, *run.weights]
    return [
        step
        for step, (before, after) in enumerate(itertools.pairwise(states), start=1)
        if any(not torch.equal(before[name], after[name]) for name in before)
    ]


def periodic_commits(run):
    """Epochs of commits, without those that a better validation made."""
    improved = [row["epoch"] for row in best_rows(run)]
    return sorted(set(run.commits) - (set(improved) - {3, 5}))


def best_rows(run):
    best = -1.0
    for row in run.newest.history:
        if row.get("dice/mean", -1.0) > best:
            best = row["dice/mean"]
            yield row


def named_in_settings(run):
    return run.settings.tsk_set.task_name, Path(run.settings.tsk_set.output_root_path).name


def starts_from(run):
    """Whether the network starts from the checkpoint that it is told to, where in the count, and how fast."""
    saved = checkpoints.load_checkpoint(run.settings.tsk_set.model_path)
    same = all(torch.equal(run.start[name], saved.network[name]) for name in run.start)
    return same, run.newest.history[0]["epoch"], run.rates[0]


# fmt: off
LOOP: list[tuple[str, str, Callable[[Any], Any], Any]] = [
    ("tsk_set.task_name", "first", lambda run: named_in_settings(run)[0], "first"),
    ("tsk_set.output_root_path", "first", lambda run: run.settings.tsk_set.output_root_path == str(run.folder.parents[1]), True),
    ("tsk_set.epoch", "first", epochs, [1, 2, 3, 4, 5]),
    ("tsk_set.max_batch_num_per_epoch", "first", steps_of_epochs, [4, 8, 12, 16, 20]),
    ("tsk_set.max_batch_num_per_epoch", "second", lambda run: run.newest.step / 5, 3),
    ("tsk_set.val_period", "first", validated, [2, 4, 5]),
    ("tsk_set.check_best_model_period", "first", periodic_commits, [0, 3, 5]),
    ("tsk_set.save_val_fig_epoch", "first", picture_steps, [16]),
    ("tsk_set.save_fig_on", "second", picture_steps, []),
    ("tsk_set.save_running_resolution_3d_img", "first", volume_names, {"val_iter_16_output.nii.gz": 1, "val_iter_16_gt.nii.gz": 1, "debug_iter_16_output.nii.gz": 2, "debug_iter_16_gt.nii.gz": 2}),
    ("tsk_set.save_3d_img_on", "second", volume_names, {f"val_iter_{step}_{what}.nii.gz": 1 for step in (12, 15) for what in ("output", "gt")}),
    ("tsk_set.print_step", "first", logged_steps, [3, 6, 9, 12, 15, 18]),
    ("tsk_set.criticUpdates", "first", steps_that_change_weights, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
    ("tsk_set.continue_train", "second", starts_from, (True, 4, 0.002)),
    ("tsk_set.model_path", "second", starts_from, (True, 4, 0.002)),
    ("tsk_set.continue_train_lr", "second", lambda run: set(run.rates), {0.002}),
    ("tsk_set.reset_train_epoch", "second", epochs, [4, 5]),
    ("tsk_set.load_model_but_train_from_epoch", "second", epochs, [4, 5]),
]
# fmt: on


@pytest.mark.parametrize(
    ("key", "which", "look", "expected"), LOOP, ids=[f"{row[0]}-{row[1]}" for row in LOOP]
)
def test_a_key_has_its_effect_in_training(key, which, look, expected, loop):
    assert look(getattr(loop, which)) == expected


def test_the_log_names_each_resume_key_that_counts(loop):
    log, model = loop.second.log, loop.first.newest
    assert f"continue_train: from {model.path}, saved in epoch 5" in log
    assert (
        "continues with epoch 4, set by load_model_but_train_from_epoch (reset_train_epoch)" in log
    )
    assert "learning rate 0.002, from continue_train_lr 0.002" in log
    assert f"best mean Dice so far {model.best.value:.4f}, in epoch {model.best.epoch}" in log


def test_volumes_of_a_validation_hold_label_values_on_the_networks_grid(loop):
    for path in loop.first.volumes:
        values, header = read_label_map(path)
        assert set(np.unique(values)) <= {0, 1, 4}
        assert header.grid.shape == (32, 32, 32)
        assert header.grid.orientation == "RAS"
    given = [
        read_label_map(path)[0] for path in loop.first.volumes if path.name.endswith("gt.nii.gz")
    ]
    assert all(set(np.unique(values)) == {0, 1, 4} for values in given)


def test_train_false_evaluates_the_model_on_the_test_split(loop, tmp_path):
    """As EasyReg's training program does; nothing is trained."""
    first = loop.first
    settings = tmp_path / "cur_task_setting.json"
    settings.write_text(
        json.dumps(
            document(
                {
                    "tsk_set.train": False,
                    "tsk_set.gpu_ids": -1,
                    "tsk_set.model_path": str(first.folder),
                }
            )
        )
    )
    words = [
        "train",
        "-ts",
        settings,
        "-o",
        first.folder.parents[1],
        "-dtn",
        "phantoms",
        "-tn",
        "scored",
    ]

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 0, result.output
    scored = first.folder.parent / "scored"
    scores = (scored / "records" / "test" / "scores.csv").read_text()
    assert not (scored / "checkpoints").exists()

    other = json.loads(settings.read_text())
    other.setdefault("dataset", {})["img_after_resize"] = [48, 48, 48]
    settings.write_text(json.dumps(other))
    resized = CliRunner().invoke(app, [str(w) for w in [*words[:-1], "resized"]])
    assert resized.exit_code == 0, resized.output
    path = first.folder.parent / "resized" / "records" / "test" / "scores.csv"
    assert path.read_text() != scores


def test_every_key_of_easyreg_that_a_training_shows_stands_in_a_table():
    assert {row[0] for row in LOOP} | {"tsk_set.train"} == set(KEYS)  # that has a test of its own
