"""Mirrored windows: a run finds out whether they help, and predictions follow."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from ignite.engine import Events
from typer.testing import CliRunner

from monaiseg.bundle import pack_bundle
from monaiseg.cli import app
from monaiseg.errors import DataError
from monaiseg.evaluation import evaluate
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare
from monaiseg.settings.reading import changed, parse_settings
from monaiseg.training.checkpoint import load_checkpoint
from monaiseg.training.handlers.validation import Validation
from monaiseg.training.mirroring import Mirroring, read_mirroring, write_mirroring
from monaiseg.training.run import train
from plain_trainer import plain_evaluator, plain_trainer, unet

HELPS, HARMS = Mirroring(0.6, 0.7), Mirroring(0.7, 0.6)


def train_mirrored(settings, data_task, name: str, **options):
    flips = {"dataset.seg.partition.flips": ("up_down",), "tsk_set.epochs": 2}
    return train(
        changed(settings, flips | {"tsk_set.val_period": 1}),
        output_root_path=data_task.folder.parent,
        data_task_name=data_task.folder.name,
        task_name=name,
        show_progress=False,
        **options,
    )


@pytest.fixture
def checkpoint(settings, data_task) -> Path:
    """The best checkpoint of a run that looked at mirrored windows along Z."""
    path = load_checkpoint(train_mirrored(settings, data_task, "mirrored").run_folder).path
    assert path is not None
    return path


def test_an_evaluator_for_the_end_runs_after_the_last_step_alone():
    network, seen = unet(), []
    evaluators = {name: plain_evaluator(network) for name in ("val", "mirrored")}
    validation = Validation(
        {"val": evaluators["val"]}, at_the_end={"mirrored": evaluators["mirrored"]}
    )
    engine = plain_trainer([validation], network, max_epochs=3)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: seen.append(list(engine.state.metrics))
    )

    engine.run()

    assert seen == [["dice/mean"], ["dice/mean"], ["dice/mean", "dice_mirrored/mean"]]


def test_a_run_scores_its_validation_cases_both_ways_at_its_end_and_says_so(
    settings, phantom, tmp_path
):
    for number in range(5):  # of a shape that is not padded: evaluation does not see the margin
        phantom((32, 32, 32), seed=number, case_id=f"S{number}", folder=tmp_path / "scans")
    task = prepare(
        tmp_path / "scans", tmp_path / "tasks", "scans", train_size=40, test_size=20, val_size=40
    )
    said: list[str] = []

    result = train_mirrored(settings, task, "both", say=said.append)

    with (result.run_folder / "history.csv").open() as file:
        first, last = csv.DictReader(file)
    assert first["dice_mirrored/mean"] == ""
    assert [name for name in last if "mirrored" in name] == ["dice_mirrored/mean"]
    path = load_checkpoint(result.run_folder).path
    found = read_mirroring(path)
    assert found == Mirroring(float(last["dice/mean"]), float(last["dice_mirrored/mean"]))
    assert said[-1] == found.in_words()
    # The best checkpoint is that of the last step, and evaluation scores it by other code.
    assert path.name == "best-epoch-0002.safetensors"
    for flips, dice in ((False, found.dice), (True, found.dice_mirrored)):
        predictor = Predictor(path, device="cpu", flips=flips)
        scores = evaluate(predictor, task.cases["val"], model="", data_task="")
        assert scores.mean_dice == pytest.approx(dice, abs=1e-5)
    assert found.dice != found.dice_mirrored


@pytest.mark.parametrize(("found", "flips"), [(HELPS, (2,)), (HARMS, ()), (None, (2,))])
def test_predictions_and_bundles_mirror_windows_unless_that_did_not_help(
    found, flips, checkpoint, tmp_path
):
    checkpoint.with_suffix(".mirroring.json").unlink()
    if found is not None:
        write_mirroring(checkpoint, found)

    assert Predictor(checkpoint, device="cpu").flips == flips
    assert Predictor(checkpoint, device="cpu", flips=True).flips == (2,)
    assert Predictor(checkpoint, device="cpu", flips=False).flips == ()
    bundle = pack_bundle(checkpoint, tmp_path / "bundle")
    text = (bundle / "configs" / "settings.json").read_text()
    assert parse_settings(text, "bundle").window_flips == flips


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "mirrored windows: not used, as the validation Dice is 0.6000 with them and 0.7000 without"),
        (["--flips"], None),
        (["--no-flips"], None),
    ],
)  # fmt: skip
def test_predict_says_what_validation_decided(words, said, checkpoint, phantom, tmp_path):
    write_mirroring(checkpoint, HARMS)
    command = ["predict", checkpoint, phantom(label_values=(1, 4)).image, "-o", tmp_path / "out"]

    done = CliRunner().invoke(app, [*map(str, command), *words])

    assert done.exit_code == 0, done.output
    assert ("mirrored windows" in done.output) == (said is not None)
    assert said is None or said in done.output


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"dice": 1}', "other checkpoint"], ids=lambda text: text or "empty"
)
def test_a_damaged_file_and_that_of_another_checkpoint_are_refused(text, checkpoint, tmp_path):
    file = checkpoint.with_suffix(".mirroring.json")
    if text == "other checkpoint":
        other = Path(shutil.copy(checkpoint.parent / "step-000000006.safetensors", tmp_path))
        shutil.copy(write_mirroring(other, HELPS), file)
    else:
        file.write_text(text)

    with pytest.raises(DataError, match="mirroring.json"):
        Predictor(checkpoint, device="cpu")


def test_scores_of_a_best_checkpoint_go_with_it(settings, data_task):
    first = train_mirrored(settings, data_task, "longer").run_folder / "checkpoints"
    assert [path.name for path in first.glob("*.mirroring.json")] == ["best-epoch-0002.mirroring.json"]  # fmt: skip

    train_mirrored(settings, data_task, "longer", resume=True, extend=2)

    best = load_checkpoint(first).path
    assert [path.stem for path in first.glob("*.mirroring.json")] == [f"{best.stem}.mirroring"]


def test_scores_that_are_undefined_or_hardly_differ_mirror_nothing():
    for pair in ((float("nan"), float("nan")), (0.7, 0.7), (0.7, 0.7004), (0.7, float("nan"))):
        assert not Mirroring(*pair).helps
    assert Mirroring(0.7, 0.7006).helps
