"""Bundles run by MONAI's own runner, equal to the command line bit for bit."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from typer.testing import CliRunner

from bundles import LPBA, run_workflow, same_weights, workflow
from monaiseg.bundle.build import build_bundle
from monaiseg.bundle.components import evaluation_data
from monaiseg.cli import app
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError
from monaiseg.evaluation.scoring import evaluate
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare
from monaiseg.settings.reading import changed
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.conditions import difference
from monaiseg.transforms.chains import cached_chain
from monaiseg.transforms.items import case_item
from monaiseg.transforms.load import ReadReferenced

TRAIN, EVALUATE, INFERENCE = (f"configs/{n}.json" for n in ("train", "evaluate", "inference"))


# ---------------------------------------------------------------- bit for bit


def test_a_bundle_trains_to_the_weights_of_the_command_line_bit_for_bit(
    trained, by_hand, task, short
):
    document = task.folder.parent / "settings.json"
    document.write_text(dump_settings(changed(short, {"tsk_set.epochs": 2})))
    words = ["train", "-ts", document, "-o", task.folder.parent, "-dtn", "brains", "-tn", "typed"]
    done = CliRunner().invoke(app, list(map(str, words)))

    assert done.exit_code == 0, done.output
    assert same_weights(trained / "eval" / "training", by_hand)
    assert same_weights(task.folder / "typed", by_hand)
    bundled = checkpoints.newest(trained / "eval" / "training")
    assert difference(bundled.conditions, checkpoints.newest(by_hand).conditions) == []
    best = checkpoints.load_checkpoint(by_hand)
    plain = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(plain[name], value) for name, value in best.weights.items())


def test_a_bundle_predicts_the_label_maps_of_the_command_line_byte_for_byte(
    trained, by_hand, brains, tmp_path
):
    images = brains / "images"
    run_workflow(trained, "inference", dataset_dir=str(images), output_dir=str(tmp_path / "a"))
    CliRunner().invoke(
        app, ["predict", "-m", str(by_hand), "-i", str(images), "-o", str(tmp_path / "b")]
    )

    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*_pred.nii.gz")}
        for name in "ab"
    )
    assert len(first) == 5
    assert first == second


def test_a_bundle_scores_as_the_command_line_does(trained, by_hand, task, tmp_path):
    made = run_workflow(trained, "evaluate", dataset_dir=str(task.folder), output_dir=str(tmp_path))
    expected = evaluate(Predictor(by_hand, device="cpu"), task.cases["test"])

    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["mean_dice"]["value"] == round(expected.mean_dice, 6)
    assert [(row["name"], row["scores"]["dice"]["value"]) for row in told["labels"]] == [
        (name, None if math.isnan(dice) else round(dice, 6))
        for name, dice in expected.label_means().items()
    ]
    assert made.evaluator.state.metrics["dice"] == pytest.approx(expected.mean_dice)
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 56 * len(task.cases["test"])


def test_a_raw_dataset_is_prepared_with_the_bundles_labels(bundle, brains, by_hand):
    run_workflow(bundle, "train", dataset_dir=str(brains), max_epochs=2)

    assert (bundle / "eval" / "data" / "dataset.json").exists()
    assert same_weights(bundle / "eval" / "training", by_hand)


# ---------------------------------------------------------------- overrides


def test_volumes_that_were_prepared_are_not_normalised_again(bundle, brains, short, tmp_path):
    settings = changed(short, {"dataset.intensity.clip_range": (0.0, 50.0)})
    (tmp_path / "settings.json").write_text(dump_settings(settings))
    labels = LPBA / "configs" / "labels.csv"
    task = prepare(
        brains, tmp_path, "ready", label_table=labels, preprocess=tmp_path / "settings.json"
    )
    (bundle / "configs" / "settings.json").write_text(dump_settings(settings))

    parser = workflow(bundle, "train", dataset_dir=str(task.folder)).parser
    cases = parser.get_parsed_content("train::dataset")

    table = task.label_table(settings)
    expected = cached_chain(task.as_read(settings), table, for_training=False)
    for case, item in zip(task.cases["train"], cases, strict=True):
        assert torch.equal(item["image"], expected(case_item(case))["image"])

    (bundle / "configs" / "settings.json").write_text(dump_settings(short))
    with pytest.raises(RuntimeError, match="components.recipe") as raised:
        workflow(bundle, "train", dataset_dir=str(task.folder)).run()
    assert "dataset.intensity: " in str(raised.value.__cause__)


def test_the_minutes_of_a_budget_begin_before_the_data_are_read(bundle, task):
    before = time.monotonic()
    made = workflow(
        bundle, "train", dataset_dir=str(task.folder), **{"settings#tsk_set.budget_minutes": 5.0}
    )
    training = made.parser.get_parsed_content("training")

    assert before <= training.started < time.monotonic()


def test_a_training_resumes_in_its_output_folder(bundle, task):
    folder = str(task.folder)
    run_workflow(bundle, "train", dataset_dir=folder, **{"train#trainer#max_epochs": 1})
    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1)
    assert "this run exists; continue it with --resume" in str(caught.value.__cause__)

    made = run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1, resume=True)

    assert made.trainer.state.epoch == 1
    saved = checkpoints.newest(bundle / "eval" / "training")
    assert json.loads(saved.settings)["tsk_set"]["epochs"] == 1


def test_what_is_changed_for_a_resume_wants_to_be_accepted(bundle, task):
    folder = str(task.folder)
    run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1)
    longer = {"dataset_dir": folder, "max_epochs": 2, "resume": True}

    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", **longer)
    assert "would not continue exactly" in str(caught.value.__cause__)
    made = run_workflow(bundle, "train", **longer, accept_inexact=True)

    assert made.trainer.state.epoch == 2


def test_an_interrupted_training_leaves_its_best_weights_and_the_exit_code_of_a_signal(
    bundle, task, monkeypatch
):
    monkeypatch.setattr("monaiseg.training.handlers.stop_on_signal.StopOnSignal.requested", True)

    with pytest.raises(SystemExit) as caught:
        run_workflow(bundle, "train", dataset_dir=str(task.folder))

    assert caught.value.code == 130
    assert checkpoints.newest(bundle / "eval" / "training").step == 1


def test_what_is_overridden_reaches_the_checkpoint(bundle, task):
    run_workflow(
        bundle,
        "train",
        dataset_dir=str(task.folder),
        max_epochs=1,
        **{
            "settings#tsk_set.network.channels": 6,
            "settings#tsk_set.optim.lr": 0.002,
            "settings#tsk_set.batch_size": 1,
            "settings#tsk_set.loss.type": "ce",
        },
    )

    saved = checkpoints.newest(bundle / "eval" / "training")
    told = json.loads(saved.settings)["tsk_set"]
    assert (told["network"]["channels"], told["optim"]["lr"]) == (6, 0.002)
    assert (told["batch_size"], told["loss"]["type"]) == (1, "ce")
    Predictor(bundle / "eval" / "training", device="cpu")  # its settings rebuild the network


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        ("network_def#channels", r"give it as --settings#tsk_set\.network\.channels 6"),
        ("optimizer#lr", r"give it as --settings#tsk_set\.optim\.lr 6"),
    ],
)
def test_what_would_bypass_the_settings_is_refused_with_the_way_through_them(
    part, advice, bundle, task
):
    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", dataset_dir=str(task.folder), **{part: 6})
    assert re.search(advice, str(caught.value.__cause__))


def test_other_losses_datasets_and_handlers_can_be_given(bundle, task, trained):
    loss = {"_target_": "monai.losses.DiceCELoss", "to_onehot_y": True, "softmax": True}
    handler = {
        "_target_": "monai.handlers.StatsHandler",
        "output_transform": "$lambda x: x[0]['loss'] if isinstance(x, list) else x['loss']",
    }
    made = run_workflow(
        bundle,
        "train",
        dataset_dir=str(task.folder),
        max_epochs=2,
        **{
            "loss": loss,
            "train#dataset": {
                "_target_": "monai.data.CacheDataset",
                "data": [
                    {"image": str(case.images[0]), "label": str(case.label)}
                    for case in task.cases["train"]
                ],
                "transform": "@train::preprocessing",
                "progress": False,
            },
            "train#handlers": [handler],
        },
    )

    assert made.trainer.state.iteration == 6
    assert not same_weights(bundle / "eval" / "training", trained / "eval" / "training")


def test_another_dataset_of_the_same_cases_changes_nothing(bundle, task, trained):
    run_workflow(
        bundle,
        "train",
        dataset_dir=str(task.folder),
        max_epochs=2,
        **{
            "train#dataset": {
                "_target_": "monai.data.Dataset",
                "data": [
                    {"image": str(case.images[0]), "label": str(case.label)}
                    for case in task.cases["train"]
                ],
                "transform": "@train::preprocessing",
            }
        },
    )

    assert same_weights(bundle / "eval" / "training", trained / "eval" / "training")


def test_references_on_other_grids_or_changed_since_are_refused(bundle, brains, by_hand, tmp_path):
    task = prepare(brains, tmp_path, "brains", label_table=LPBA / "configs" / "labels.csv")
    (case,) = task.cases["test"]
    dataset = tmp_path / "copy"
    shutil.copytree(brains, dataset)
    other = prepare(dataset, tmp_path, "moved", label_table=LPBA / "configs" / "labels.csv")
    label = other.cases["test"][0].label
    values, header = read_label_map(label)
    turned = header.grid.array @ np.diag([-1.0, 1.0, 1.0, 1.0])
    write_label_map(label, values, Grid.of(values.shape, turned))

    with pytest.raises(DataError, match="changed after `prepare` had checked"):
        evaluation_data(other, "test")
    item = {
        "reference": str(label),
        "image": MetaTensor(torch.zeros(1), meta={"filename_or_obj": str(case.images[0])}),
    }
    with pytest.raises(DataError, match="lie on different grids: orientation"):
        ReadReferenced(task.table)(item)


def test_data_with_other_labels_than_the_bundles_are_refused(bundle, data_task):
    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", dataset_dir=str(data_task.folder))
    assert "does not have the labels" in str(caught.value.__cause__)


# ---------------------------------------------------------------- the runner itself


def runner(*words: object, cwd: Path) -> str:
    """`python -m monai.bundle ...` as a user types it."""
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, words)],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_runner_trains_in_a_process_of_its_own(bundle, task, by_hand):
    words = ["--config_file", TRAIN, "--dataset_dir", task.folder, "--max_epochs", "2"]
    more = [
        "--settings#tsk_set.seed",
        "0",
        "--settings#tsk_set.network.channels",
        "4",
        "--val_interval",
        "1",
    ]
    runner("run", *words, *more, "--device", "cpu", cwd=bundle)

    assert same_weights(bundle / "eval" / "training", by_hand)


def test_the_runner_ends_with_our_own_message_and_no_traceback(bundle, tmp_path):
    words = ["run", "--config_file", TRAIN, "--dataset_dir", str(tmp_path / "nowhere")]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        check=False,
        cwd=bundle,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{tmp_path}/nowhere: is not a folder")


def card_commands() -> list[str]:
    """The commands of the model card, in the order they stand in."""
    card = (LPBA / "docs" / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
def test_the_cards_commands_work_as_printed(short, table, brains, by_hand, tmp_path):
    """In a bundle of small settings, with phantoms laid out as the card says, in a shell without our paths."""
    folder = tmp_path / "lpba"
    build_bundle(changed(short, {"tsk_set.epochs": 2}), table, folder)
    shutil.copytree(brains, folder / "LPBA40")
    shutil.copytree(brains / "images", folder / "NEW")
    kept = {
        name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ
    }
    place = str(Path(sys.executable).parent)
    env = {"PATH": f"{place}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **kept}

    commands = card_commands()
    again = commands[-1].replace("lpba.zip", "again/lpba.zip")
    (folder / "again").mkdir()
    for command in [*commands, again]:
        done = subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

    assert len(commands) == 9
    assert (folder / "lpba.zip").read_bytes() == (folder / "again" / "lpba.zip").read_bytes()
    assert same_weights(folder / "eval" / "training", by_hand)
    assert checkpoints.newest(folder / "eval_two" / "training").conditions["world size"] == 2
    maps = sorted(path.name for path in (folder / "predictions").iterdir())
    assert len(maps) == 5
    for name in maps:
        traced = folder / "predictions_torchscript" / name
        assert (folder / "predictions" / name).read_bytes() == traced.read_bytes()
