"""The command line, as a user types it: from a folder of scans to scores and label maps, and bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.settings.reading import find_settings, load_settings
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

RUNNER = CliRunner()


def call(*words: object):
    return RUNNER.invoke(app, [str(word) for word in words])


@pytest.fixture
def small(settings: Settings, tmp_path: Path) -> Path:
    document = json.loads(dump_settings(settings))
    document["tsk_set"].update(epochs=1)
    path = tmp_path / "settings" / "cur_task_setting.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return path


def test_from_a_folder_of_scans_to_scores_and_label_maps(dataset, small, tmp_path):
    names = ["--output_root_path", tmp_path / "out", "-dtn", "phantoms"]
    prepared = call(
        "prepare",
        "--dataset_path",
        dataset,
        *names,
        "--train_size",
        60,
        "--test_size",
        20,
        "--val_size",
        20,
    )
    assert prepared.exit_code == 0, prepared.output
    assert "monaiseg plan" in prepared.output

    trained = call("train", "-ts", small.parent, *names, "-tn", "first", "-g", -1)
    assert trained.exit_code == 0, trained.output
    assert "best mean Dice" in trained.output
    model = tmp_path / "out" / "phantoms" / "first"

    evaluated = call("evaluate", "-m", model, *names, "--save-predictions")
    assert evaluated.exit_code == 0, evaluated.output
    assert "label 4" in evaluated.output
    summary = json.loads((model / "records" / "test" / "summary.json").read_text())
    assert summary["cases"] == 1
    assert [label["values"] for label in summary["labels"]] == [[1], [4]]
    assert (model / "records" / "test" / "scores.csv").read_text().count("\n") == 3
    assert len(list((model / "records" / "test" / "predictions").glob("*_pred.nii.gz"))) == 1

    predicted = call("predict", "-m", model, "-i", dataset / "images", "-o", tmp_path / "labels")
    assert predicted.exit_code == 0, predicted.output
    assert len(list((tmp_path / "labels").glob("*_pred.nii.gz"))) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "--dataset-path", "nowhere", "-o", "out", "-dtn", "x"], "nowhere"),
        (
            ["train", "-ts", "missing.json", "-o", "out", "-dtn", "x", "-tn", "y"],
            "no such settings file",
        ),
        (["settings", "check", "typo.json"], "did you mean 'patch_size'"),
        (
            ["settings", "check", "two_faults.json"],
            "tsk_set.epochs: 0 is not a whole number of at least 1",
        ),
        (["predict", "-m", "nothing.pt", "-i", "a.nii.gz", "-o", "out"], "nothing.pt"),
        (["evaluate", "-m", "nothing.pt", "-o", "out", "-dtn", "x"], "out/x"),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("typo.json").write_text('{"dataset": {"seg": {"patch_sise": [16, 16, 16]}}}')
    Path("two_faults.json").write_text('{"tsk_set": {"epochs": 0, "optim": {"lr": -1}}}')
    before = sorted(path.name for path in tmp_path.iterdir())

    result = call(*words)

    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_image_without_a_label_map_is_named(dataset, tmp_path):
    (dataset / "labels" / "case_3.nii.gz").unlink()

    result = call("prepare", "--dataset-path", dataset, "-o", tmp_path / "out", "-dtn", "x")

    assert result.exit_code == 2
    assert "case_3" in result.output
    assert not (tmp_path / "out").exists()


def test_a_text_file_named_nii_gz_is_named(dataset, tmp_path):
    (dataset / "images" / "case_2.nii.gz").write_text("not a scan")

    result = call("prepare", "--dataset-path", dataset, "-o", tmp_path / "out", "-dtn", "x")

    assert result.exit_code == 2
    assert "case_2" in result.output


def test_a_patch_that_does_not_divide_is_refused_before_training(data_task, small):
    document = json.loads(small.read_text())
    document["dataset"]["seg"]["patch_size"] = [16, 27, 16]
    small.write_text(json.dumps(document))

    result = call(
        "train",
        "-ts",
        small,
        "-o",
        data_task.folder.parent,
        "-dtn",
        data_task.folder.name,
        "-tn",
        "bad",
    )

    assert result.exit_code == 2
    assert "use 24 or 28" in result.output
    assert not list(data_task.folder.glob("bad/checkpoints/*"))


def test_a_gpu_that_is_not_there_is_refused(data_task, small):
    result = call(
        "train",
        "-ts",
        small,
        "-o",
        data_task.folder.parent,
        "-dtn",
        data_task.folder.name,
        "-tn",
        "g",
        "-g",
        7,
    )

    assert result.exit_code == 2
    assert "-1 for the CPU" in result.output


@pytest.mark.parametrize(
    "name", ["cur_task_setting.json", "curr_task_settings.json", "curr_task_setting.json"]
)
def test_a_settings_folder_is_searched_for_easyregs_names(name, tmp_path):
    (tmp_path / name).write_text("{}")

    assert find_settings(tmp_path) == tmp_path / name
    assert call("settings", "check", tmp_path).exit_code == 0


def test_settings_init_writes_what_check_accepts_and_show_prints(tmp_path):
    path = tmp_path / "settings.json"
    assert call("settings", "init", path).exit_code == 0

    assert call("settings", "check", path).exit_code == 0
    assert load_settings(path) == Settings()
    assert call("settings", "show", path).output == path.read_text()
    assert call("settings", "init", path).exit_code == 2


@pytest.mark.parametrize("name", ["model_best.pth.tar", "../checkpoints/model_best.pth.tar"])
def test_easyregs_name_for_the_best_checkpoint_finds_the_best(name, trained):
    from monaiseg.training.checkpoint import load_checkpoint

    found = load_checkpoint(trained.run_folder / "checkpoints" / name)
    assert found.path.name == trained.best.file


FLAGS = {
    "prepare": [
        "--dataset_path D", "--output_root_path O", "--data_task_name N", "--task_type seg", "--train_size 60",
        "--test_size 20", "--val_size 20", "--seed 1773", "--preprocess P", "--atlas", "--im2im",
        "--atlas_image_path A", "--atlas_label_path A", "--dataset D", "--output O", "--data_task N", "--train 60",
        "--test 20", "--val 20", "--pre P", "--task seg",
    ],
    "train": [
        "--output_root_path O", "-o O", "--data_task_name N", "-dtn N", "--task_name N", "-tn N",
        "--setting_folder_path S", "-ts S", "--gpu_id 0", "-g -1", "-g-1", "--gpu_id=-1", "--output O", "--data N",
        "--task N", "--setting S", "--gpu 0", "-d N",
    ],
    "eval-seg": [
        "--setting_folder_path S", "-ts S", "--file_txt_path F", "-txt F", "--image_list a b", "-i a b",
        "--limage_list a b", "-li a b", "-l a b", "--task_output_path O", "-o O", "--model_path M", "-m M",
        "--gpu_id 0", "-g -1", "--file F", "--image a b", "--limage a b", "--task O", "--model M",
    ],
}  # fmt: skip
"""EasyReg's flags, and some shortened as argparse allowed."""


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, flags in FLAGS.items() for flag in flags]
)
@pytest.mark.parametrize("hyphens", [False, True])
def test_a_flag_of_easyreg_is_taken(command, flag, hyphens):
    """What it does is shown elsewhere; here, that the command knows it."""
    name, *values = flag.split()
    words = [name.replace("_", "-") if hyphens else name, *values]

    result = call(command, *words)

    assert result.exit_code == 2
    assert "No such option" not in result.output
    assert "No such option" in call(command, "--nobody", *words).output


def test_the_scripts_are_doors_to_the_same_commands(dataset, tmp_path):
    scripts = Path(__file__).parent.parent / "scripts"
    done = subprocess.run(
        [sys.executable, "prepare_data.py", "--dataset_path", dataset, "--output_root_path", tmp_path / "o",
         "--data_task_name", "lpba", "--task_type", "seg"],
        cwd=scripts, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    lists = tmp_path / "o" / "lpba"
    for split in ("train", "val", "test", "debug"):
        assert (lists / split / "file_path_list.txt").is_file()
        assert (lists / split / "file_name_list.txt").is_file()
    assert (lists / "dataset.json").is_file()
    shutil.rmtree(scripts / "__pycache__", ignore_errors=True)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"dataset": {"seg": {"patch_size": [100, 96, 96]}}}, "use 96 or 112"),
        (
            {"tsk_set": {"continue_train": True}},
            "continue_train is true but tsk_set.model_path is empty",
        ),
    ],
)
def test_settings_that_every_training_would_refuse_are_refused_by_the_check(
    document, message, tmp_path
):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document))

    result = call("settings", "check", path)

    assert result.exit_code == 2
    assert message in result.output


def test_how_deep_a_network_may_be_is_left_open_without_a_voxel_size(tmp_path):
    path = tmp_path / "settings.json"
    document = {
        "dataset": {"seg": {"patch_size": [16, 16, 16]}},
        "tsk_set": {"network": {"num_stages": 5}},
    }
    path.write_text(json.dumps(document))
    assert call("settings", "check", path).exit_code == 0

    document["dataset"]["spacing"] = [1, 1, 1]
    path.write_text(json.dumps(document))
    assert call("settings", "check", path).exit_code == 2


def test_a_demo_that_is_interrupted_ends_as_interrupted(tmp_path, monkeypatch):
    from monaiseg import demo
    from monaiseg.training.run import TrainingResult

    monkeypatch.setattr(demo, "NUM_BRAINS", 10)
    monkeypatch.setattr(demo, "SHAPE", (32, 36, 32))
    stopped = TrainingResult(tmp_path, None, 1, interrupted=True, seconds=1.0)
    monkeypatch.setattr(demo, "train", lambda *_, **__: stopped)

    result = call("demo", "-o", tmp_path / "demo")

    assert result.exit_code == 130
    assert "evaluating" not in result.output


def test_paths_do_what_easyregs_three_names_do(dataset, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scans = shutil.move(str(dataset), "scans")

    prepared = call("prepare", scans, "--train-size", 60, "--test-size", 20, "--val-size", 20)
    assert prepared.output.splitlines()[-1] == "next: monaiseg plan work/scans --minutes 60"

    shutil.copy(small, "work/scans/settings.json")  # where `plan` writes
    trained = call("train", "work/scans", "--name", "first", "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    assert "next: monaiseg evaluate work/scans/first" in trained.output

    assert "already complete" in call("train", "work/scans/first", "--resume").output

    evaluated = call("evaluate", "work/scans/first")
    assert evaluated.exit_code == 0, evaluated.output
    assert Path("work/scans/first/records/test/scores.csv").is_file()

    predicted = call("predict", "work/scans/first", *sorted(Path("scans/images").iterdir())[:2], "-o", "labels")  # fmt: skip
    assert predicted.exit_code == 0, predicted.output
    assert len(list(Path("labels").glob("*_pred.nii.gz"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "work/scans"], "work/scans: the run needs a name; add for example --name first"),
        (["train", "work/scans", "--name", "a"], "work/scans: is not a prepared dataset"),
        (["train", "work/scans", "-o", "work", "--name", "a"], "not both"),
        (["train", "-o", "work", "--name", "a"], "give the prepared dataset as a folder"),
        (["predict", "model", "-o", "labels"], "there are no images; give files or folders"),
        (["predict", "model", "a.nii.gz"], "give a folder for the label maps with --output"),
        (["evaluate", "work/scans/first"], "this run folder or checkpoint does not exist"),
        (["evaluate", "a", "-m", "b"], "the model is given twice"),
        (["predict", "m", "a.nii.gz", "-o", "x", "--device", "gpu"], "use cpu, cuda or cuda:1"),
        (
            ["predict", "m", "a.nii.gz", "-o", "x", "--device", "cpu", "-g", 0],
            "--device cpu and --gpu-id 0 contradict",
        ),
    ],
)
def test_what_is_not_named_is_asked_for(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = call(*words)

    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_fit_goes_on_where_it_was_stopped(dataset, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(str(dataset), "scans")
    sizes = ["--train-size", 60, "--test-size", 20, "--val-size", 20]
    assert call("prepare", "scans", *sizes).exit_code == 0
    shutil.copy(small, "work/scans/settings.json")

    first, second = call("fit", "scans"), call("fit", "scans")

    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert "$ monaiseg prepare" not in first.output
    assert "$ monaiseg train work/scans --name first\n" in first.output
    assert "already complete" in second.output
    assert (
        first.output.count("next: ") == 1
    )  # what fit does by itself is not named as the next command
    assert "next: monaiseg predict work/scans/first IMAGE.nii.gz -o labels" in first.output
