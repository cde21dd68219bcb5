"""Training: the same weights however often it is stopped, the best model kept."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monaiseg.data.data_tasks import DataTask
from monaiseg.data.grid import ras_axes
from monaiseg.errors import CheckpointError, NumericsError, OutOfMemoryError, SettingsError
from monaiseg.settings.reading import changed as changed_at
from monaiseg.settings.reading import load_settings, settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.engines import build_optimizer, network_spacing
from monaiseg.training.run import train


def changed(settings: Settings, **tsk: object) -> Settings:
    """The settings with other values in `tsk_set`."""
    document = json.loads(dump_settings(settings))
    document["tsk_set"].update(tsk)
    return settings_from_dict(document)


def run(settings: Settings, task: DataTask, name: str, **options: object):
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name=name,
        **options,
    )


def state(folder: Path) -> tuple:
    """All that two equal trainings have in common: weights, optimiser, best and history."""
    saved = checkpoints.newest(folder)
    optimizer = [
        {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in entry.items()}
        for entry in saved.optimizer["state"].values()
    ]
    weights = {name: value.tolist() for name, value in saved.network.items()}
    best = (saved.best.epoch, saved.best.value)  # its digest covers the name of the training too
    return saved.step, weights, optimizer, best, [dict(row) for row in saved.history]


@pytest.fixture
def short(settings: Settings) -> Settings:
    """Three epochs of three steps, with dropout, averaging and augmentation: all that is random takes part."""
    document = json.loads(dump_settings(settings))
    document["dataset"]["seg"]["augmentation"] = {"enabled": True}
    document["tsk_set"].update(
        epochs=3, val_period=1, checkpoint_period=1, checkpoint_steps=1, weight_averaging=0.9
    )
    document["tsk_set"]["network"]["dropout"] = 0.1
    return settings_from_dict(document)


def test_it_learns_the_phantoms(trained):
    assert trained.best is not None
    assert trained.best.value > 0.5
    assert not trained.interrupted


def test_the_run_folder_holds_what_a_user_looks_for(trained):
    names = {path.name for path in trained.run_folder.iterdir()}
    assert {"cur_task_setting.json", "checkpoints", "records", "history.csv", "log.txt"} <= names
    assert (
        load_settings(trained.run_folder / "cur_task_setting.json").tsk_set.task_name == "trained"
    )
    with (trained.run_folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, 9)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_tensorboard_holds_losses_rate_speed_and_dice_by_name(settings, data_task):
    result = run(
        changed(
            settings,
            epochs=1,
            val_period=1,
            print_step=[1, 1, 1],
            save_fig_on=True,
            save_val_fig_epoch=1,
        ),
        data_task,
        "watched",
    )
    events = EventAccumulator(str(result.run_folder))
    events.Reload()

    scalars = set(events.Tags()["scalars"])
    assert {"loss/train", "learning_rate", "seconds_per_iteration", "dice/mean"} <= scalars
    assert {"dice_of_labels/label 1", "dice_of_labels/label 4", "dice/lowest label"} <= scalars
    assert {"gradient_norm", "memory_gib/process"} <= scalars
    (case,) = data_task.cases["val"]
    assert events.Tags()["images"] == [f"cases/{case.id}"]
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")
    assert b"patch_size" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(short, data_task):
    first, second = (state(run(short, data_task, name).run_folder) for name in ("a", "b"))
    other = state(run(changed(short, seed=1), data_task, "c").run_folder)

    assert first == second
    assert first[1] != other[1]


def test_extend_trains_longer(short, data_task):
    run(changed(short, epochs=1), data_task, "longer")

    result = run(changed(short, epochs=1), data_task, "longer", resume=True, extend=1)

    assert result.epochs == 2
    assert [row["epoch"] for row in checkpoints.newest(result.run_folder).history] == [1, 2]
    again = run(changed(short, epochs=1), data_task, "longer", resume=True, extend=1)
    assert again.epochs == 2
    with pytest.raises(SettingsError, match="--extend"):
        run(changed(short, epochs=1), data_task, "longer", extend=1)


def test_an_extension_is_not_taken_back(short, data_task):
    brief = changed(short, epochs=1)
    run(brief, data_task, "longer")
    run(brief, data_task, "longer", resume=True, extend=2)

    with pytest.raises(SettingsError, match="already has 3 epochs; use --extend 2 or more"):
        run(brief, data_task, "longer", resume=True, extend=1)


def test_a_resume_that_would_not_be_exact_is_refused_with_the_difference(short, data_task):
    run(changed(short, epochs=1), data_task, "moved")
    other = changed(short, epochs=1, batch_size=1)

    with pytest.raises(CheckpointError, match=r"batch_size"):
        run(other, data_task, "moved", resume=True)


def test_a_resume_where_the_processor_computes_otherwise_is_refused(short, data_task, monkeypatch):
    def processor(has_bfloat16: bool) -> None:
        for module in ("engines", "recipe"):
            name = f"monaiseg.training.{module}.computes_in_bfloat16"
            monkeypatch.setattr(name, lambda _: has_bfloat16)

    processor(has_bfloat16=True)
    run(changed(short, epochs=1), data_task, "run")
    processor(has_bfloat16=False)

    with pytest.raises(CheckpointError, match="device: cpu in bfloat16 then, cpu now"):
        run(changed(short, epochs=1), data_task, "run", resume=True)


def test_what_was_changed_holds_after_an_inexact_resume(short, data_task):
    """Of a training whose loss was no number, the message says to lower the rate."""
    run(changed(short, epochs=1), data_task, "changed")
    optim = {"optim_type": "adamw", "lr": 1e-5, "weight_decay": 0.1, "adam": {"beta": 0.5}}
    other = changed(short, epochs=2, optim=optim, warmup_epochs=0)

    result = run(other, data_task, "changed", resume=True, accept_inexact=True)

    saved = checkpoints.newest(result.run_folder)
    (group,) = saved.optimizer["param_groups"]
    assert result.epochs == 2
    assert (group["weight_decay"], group["betas"][0]) == (0.1, 0.5)
    assert 0 < saved.history[-1]["learning_rate"] <= 1e-5


@pytest.mark.parametrize(
    ("before", "after"), [("adamw", "sgd"), ("sgd", "adam"), ("adamw", "adam")]
)
def test_another_optimiser_starts_afresh(before, after, short, data_task):
    run(changed(short, epochs=1, optim={"optim_type": before}), data_task, "other")

    more = changed(short, epochs=2, optim={"optim_type": after})
    result = run(more, data_task, "other", resume=True, accept_inexact=True)

    (group,) = checkpoints.newest(result.run_folder).optimizer["param_groups"]
    fresh = build_optimizer(torch.nn.Linear(1, 1), more.tsk_set.optim).state_dict()["param_groups"]
    assert group.keys() == fresh[0].keys()
    assert group.get("decoupled_weight_decay") == fresh[0].get("decoupled_weight_decay")
    log = (result.run_folder / "log.txt").read_text()
    assert f"has the state of {before}; the optimiser starts from scratch" in log


@pytest.mark.parametrize(("before", "after"), [(None, 0.1), (0.1, None)])
def test_a_budget_is_neither_given_nor_taken_later(before, after, short, data_task):
    run(changed(short, epochs=1, budget_minutes=before), data_task, "timed")

    with pytest.raises(CheckpointError, match=r"budget_minutes.*change that back"):
        run(
            changed(short, epochs=2, budget_minutes=after),
            data_task,
            "timed",
            resume=True,
            accept_inexact=True,
        )


def test_commits_within_an_epoch_wait_for_the_gradients_that_are_accumulated(
    short, data_task, monkeypatch
):
    steps = []
    commit = checkpoints.commit
    monkeypatch.setattr(
        "monaiseg.training.checkpoint.commit",
        lambda folder, saved: (steps.append(saved.step), commit(folder, saved)),
    )
    slow = changed(
        short,
        epochs=1,
        checkpoint_steps=3,
        gradient_accumulation_steps=2,
        max_batch_num_per_epoch=[9, -1, 0],
    )

    run(slow, data_task, "slow")

    assert steps == [0, 4, 6, 9]


def test_epochs_without_batches_are_refused(short, data_task):
    with pytest.raises(SettingsError, match="max_batch_num_per_epoch: an epoch of 0 batches"):
        run(changed(short, max_batch_num_per_epoch=[0, -1, 0]), data_task, "nothing")


def test_memory_that_runs_out_in_a_validation_names_its_case(short, data_task, monkeypatch):
    def starved(*_: object, **__: object) -> None:
        raise RuntimeError("can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("monaiseg.networks.sliding_window.SlidingWindow.__call__", starved)
    (case,) = data_task.cases["val"]

    with pytest.raises(OutOfMemoryError, match=rf"^epoch 1, val, cases {case.id}: .*patch_size"):
        run(short, data_task, "starved")


def test_mirror_images_of_labels_without_names_are_announced(short, data_task):
    said: list[str] = []
    flips = {"dataset.seg.augmentation.flip.left_right": 0.5, "tsk_set.epochs": 1}

    run(changed_at(short, flips), data_task, "mirrored", say=said.append)

    assert "label 1, label 4 have no names" in said[0]


def test_a_second_training_does_not_overwrite_the_first(short, data_task):
    run(changed(short, epochs=1), data_task, "mine")

    with pytest.raises(SettingsError, match="--resume"):
        run(changed(short, epochs=1), data_task, "mine")


def test_there_is_nothing_to_resume_where_nothing_was_trained(short, data_task):
    with pytest.raises(CheckpointError, match="no run to resume"):
        run(short, data_task, "never", resume=True)


def test_continue_train_takes_weights_epoch_and_best_from_another_training(short, data_task):
    first = run(changed(short, epochs=2), data_task, "first")
    path = str(first.run_folder)

    more = changed(short, epochs=3, continue_train=True, continue_train_lr=5e-4, model_path=path)
    second = run(more, data_task, "second")

    saved = checkpoints.newest(second.run_folder)
    best = checkpoints.load_checkpoint(first.run_folder)
    assert saved.epoch == 3
    assert second.best.value >= first.best.value
    assert saved.scheduler["base"] == 5e-4
    assert best.epoch <= 2
    log = (second.run_folder / "log.txt").read_text()
    assert f"continue_train: from {path}" in log
    assert "continues with epoch 3" in log
    assert "from continue_train_lr 0.0005" in log
    assert f"best mean Dice so far {first.best.value:.4f}" in log


def test_reset_train_epoch_counts_from_the_epoch_given(short, data_task):
    first = run(changed(short, epochs=2), data_task, "first")
    again = changed(
        short,
        epochs=3,
        continue_train=True,
        reset_train_epoch=True,
        load_model_but_train_from_epoch=1,
        model_path=str(first.run_folder),
    )

    second = run(again, data_task, "reset")

    log = (second.run_folder / "log.txt").read_text()
    assert "continues with epoch 2, set by load_model_but_train_from_epoch" in log

    assert [row["epoch"] for row in checkpoints.newest(second.run_folder).history] == [2, 3]


def test_a_missing_checkpoint_to_continue_from_is_refused(short, data_task):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        run(changed(short, continue_train=True, model_path="nowhere.pt"), data_task, "lost")


def test_a_loss_that_is_no_number_stops_with_the_cases_names(short, data_task):
    wild = changed(
        short, optim={"optim_type": "sgd", "lr": 1e30}, gradient_clip=None, warmup_epochs=0.0
    )

    with pytest.raises(NumericsError, match="case_"):
        run(wild, data_task, "wild")


@pytest.mark.parametrize("loss", ["ce", "focal", "dice", "gdice", "tversky"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_loss_and_optimiser_trains(loss, optimizer, settings, data_task):
    brief = changed(
        settings,
        epochs=1,
        loss={"type": loss},
        optim={"optim_type": optimizer, "lr": 1e-3, "lr_scheduler": {"type": "plateau"}},
        gradient_accumulation_steps=2,
    )

    assert run(brief, data_task, "brief").epochs == 1


# ---------------------------------------------------------------- voxel size of the network


def test_the_axes_of_a_file_are_turned_to_ras():
    assert ras_axes("SRP") == (1, 2, 0)


def test_the_network_works_at_the_voxel_size_that_resizing_makes(data_task):
    """24 voxels of 1 mm, resized to 48, 16 and 24."""
    even = replace(data_task, cases={"train": data_task.cases["train"][:1]})
    (case,) = even.cases["train"]
    facts = replace(data_task.facts[case.id], shape=(24, 24, 24), spacing=(1.0, 1.0, 1.0))
    even = replace(even, facts={case.id: facts})

    def spacing(**dataset: object) -> tuple[float, float, float]:
        return network_spacing(
            even, settings_from_dict({"dataset": {"axis_order": "xyz", **dataset}})
        )

    assert spacing() == (1.0, 1.0, 1.0)
    assert spacing(spacing=[2.0, 1.0, 3.0]) == (2.0, 1.0, 3.0)
    assert spacing(img_after_resize=[48, 16, 32]) == (0.5, 1.5, 0.75)
