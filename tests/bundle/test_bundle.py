"""MONAI bundles: written from one source, run by MONAI's own runner, equal to the command line bit for bit."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle.utils import load_bundle_config
from monai.bundle.workflows import ConfigWorkflow
from monai.data.meta_tensor import MetaTensor
from typer.testing import CliRunner

from monaiseg.bundle.build import build_bundle, pack_bundle
from monaiseg.bundle.components import evaluation_data
from monaiseg.bundle.configuration import configurations
from monaiseg.bundle.lint import lint_bundle
from monaiseg.cli import app
from monaiseg.data.data_tasks import DataTask
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import write_phantom_dataset
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError, SettingsError
from monaiseg.evaluation.scoring import evaluate
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare
from monaiseg.settings.reading import changed, load_settings
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.resume import difference
from monaiseg.training.run import train
from monaiseg.transforms.chains import cached_chain
from monaiseg.transforms.items import case_item
from monaiseg.transforms.load import ReadReferenced

REPOSITORY = Path(__file__).parents[2]
LPBA = REPOSITORY / "bundles" / "lpba"
TRAIN, EVALUATE, INFERENCE = (f"configs/{n}.json" for n in ("train", "evaluate", "inference"))

EXPRESSIONS = {
    "$@bundle_root + '/data'",
    "$@bundle_root + '/eval'",
    "$@bundle_root + '/models'",
    "$@ckpt_dir + '/model.pt'",
    "$@ckpt_dir + '/model.ts'",
    "$@defaults.tsk_set.epochs",
    "$@defaults.tsk_set.val_period",
    "$@labels.num_classes",
    "$@network_def.to(@device)",
    "$@training.run()",
    "$@evaluator.run()",
}
"""All the code that a bundle holds."""


@pytest.fixture(scope="session")
def table() -> LabelTable:
    return LabelTable.read_csv(LPBA / "configs" / "labels.csv")


@pytest.fixture(scope="session")
def brains(table: LabelTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brains") / "LPBA40"
    write_phantom_dataset(folder, 5, table=table, shape=(32, 36, 32), seed=0)
    return folder


@pytest.fixture(scope="session")
def task(brains: Path, tmp_path_factory: pytest.TempPathFactory) -> DataTask:
    """Phantoms with LPBA40's values: three to train on, one to validate, one to test."""
    root = tmp_path_factory.mktemp("work")
    return prepare(brains, root, "brains", label_table=LPBA / "configs" / "labels.csv")


@pytest.fixture(scope="session")
def short(settings: Settings) -> Settings:
    """Three epochs with augmentation, deep supervision and averaging; the bundles are told to make it two."""
    return changed(
        settings,
        {
            "dataset.seg.augmentation.enabled": True,
            "tsk_set.epochs": 3,
            "tsk_set.val_period": 1,
            "tsk_set.weight_averaging": 0.5,
            "tsk_set.network.channels": 4,
            "tsk_set.network.num_stages": 2,
        },
    )


@pytest.fixture(scope="session")
def built(short: Settings, table: LabelTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(short, table, tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A bundle of the short settings: the test's own copy."""
    return Path(shutil.copytree(built, tmp_path / "small"))


@pytest.fixture(scope="session")
def by_hand(short: Settings, task: DataTask) -> Path:
    """The run folder of the same two epochs through Python."""
    two = changed(short, {"tsk_set.epochs": 2})
    root = task.folder.parent
    named = {"output_root_path": root, "data_task_name": "brains", "task_name": "python"}
    return train(two, **named).run_folder


@pytest.fixture(scope="session")
def trained(built: Path, task: DataTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose own training of two epochs has run: shared by the session, read only."""
    folder = Path(shutil.copytree(built, tmp_path_factory.mktemp("trained") / "small"))
    run_workflow(folder, "train", dataset_dir=str(task.folder), max_epochs=2)
    return folder


def workflow(folder: Path, name: str, **overrides: Any) -> ConfigWorkflow:
    """MONAI's workflow of a configuration, initialised."""
    made = ConfigWorkflow(
        str(folder / "configs" / f"{name}.json"),
        logging_file=False,
        workflow_type="train" if name == "train" else "infer",
        bundle_root=str(folder),
        **overrides,
    )
    made.initialize()
    return made


def run_workflow(folder: Path, name: str, **overrides: Any) -> ConfigWorkflow:
    made = workflow(folder, name, **overrides)
    made.run()
    made.finalize()
    return made


def runner(*words: object, cwd: Path) -> str:
    """`python -m monai.bundle ...` as a user types it."""
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, words)],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def same_weights(first: Path, second: Path) -> bool:
    weights = checkpoints.newest(first).network, checkpoints.newest(second).network
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[0][name], value) for name, value in weights[1].items()
    )


# ---------------------------------------------------------------- one source


def test_the_shipped_bundle_is_what_its_settings_and_labels_build(table, tmp_path):
    folder = tmp_path / "lpba"
    (folder / "configs").mkdir(parents=True)
    shutil.copy(LPBA / "configs" / "about.json", folder / "configs")
    build_bundle(load_settings(LPBA / "configs" / "settings.json"), table, folder)

    written = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert written == sorted(p.relative_to(LPBA) for p in LPBA.rglob("*") if p.is_file())
    for name in written:
        if name.parts[0] == "docs":
            continue  # written by hand
        fresh, shipped = (folder / name).read_text(), (LPBA / name).read_text()
        if name.name == "metadata.json":
            fresh, shipped = (without_versions(text) for text in (fresh, shipped))
        assert fresh == shipped, f"{name}: build the bundle again"


def without_versions(text: str) -> dict[str, Any]:
    document = json.loads(text)
    return {k: v for k, v in document.items() if not re.search("(monai|torch|numpy|packages)_v", k)}


def test_the_shipped_metadata_name_the_versions_that_are_tested():
    words = (REPOSITORY / "constraints.txt").read_text().split()
    tested = dict(word.split("==") for word in words if "==" in word)
    told = json.loads((LPBA / "configs" / "metadata.json").read_text())

    assert told["monai_version"] == tested["monai"]
    assert told["pytorch_version"] == tested["torch"]
    assert told["numpy_version"] == tested["numpy"]
    required = told["required_packages_version"]
    assert required.pop("monaiseg") == importlib.metadata.version("monaiseg")
    assert required == {name: tested[name] for name in required}


def test_the_labels_are_lpba40s_with_partners_and_colours(table):
    packaged = LabelTable.read_csv(REPOSITORY / "monaiseg" / "lpba40_labels.csv")
    assert table == packaged
    assert (len(table.foreground), table.values[1], table.values[-1]) == (56, 21, 182)
    assert sum(label.partner is not None for label in table.labels) == 54
    assert len({label.color for label in table.labels}) == 57
    described = json.loads((LPBA / "configs/metadata.json").read_text())["network_data_format"]
    assert tuple(described["outputs"]["pred"]["channel_def"].values()) == table.names


def test_a_bundle_holds_no_other_code_than_this():
    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        ):
            yield from texts(item)

    assert {text for text in texts(configurations()) if text.startswith("$")} == EXPRESSIONS
    shipped = [json.loads(path.read_text()) for path in LPBA.glob("configs/*.json")]
    assert {text for text in texts(shipped) if text.startswith("$")} == EXPRESSIONS


@pytest.mark.parametrize(
    "name",
    ["$__import__('os').system('x')", " $1", "@network", "%configs/train.json", "a@::b", "x %#y"],
)
def test_names_that_are_code_to_the_runner_are_refused(name, settings, tmp_path):
    """Labels at their source; what a channel or `about.json` says by the exporter itself."""
    with pytest.raises(DataError, match="run as code|cannot be a name"):
        LabelTable.from_values([1], {1: name})

    table, folder = LabelTable.from_values([1]), tmp_path / "bundle"
    with pytest.raises(SettingsError, match="cannot stand in a bundle"):
        build_bundle(settings, table, folder, channels=(name,))
    assert not folder.exists()
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "about.json").write_text(json.dumps({"data_source": name}))
    with pytest.raises(SettingsError, match="cannot stand in a bundle"):
        build_bundle(settings, table, folder)


# ---------------------------------------------------------------- what MONAI's tools ask


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_no_property_that_monai_asks_for_is_missing(name, trained, task, brains):
    data = brains / "images" if name == "inference" else task.folder
    made = workflow(trained, name, dataset_dir=str(data))

    assert made.check_properties() == []
    assert made.version == json.loads((trained / "configs/metadata.json").read_text())["version"]
    assert all(hasattr(made, name) for name in made.properties)


def test_properties_are_what_their_names_say(trained, task):
    made = workflow(trained, "train", dataset_dir=str(task.folder), max_epochs=2)

    assert made.max_epochs == 2
    assert made.trainer.state.max_epochs == 2
    assert made.trainer.network is made.parser.get_parsed_content("network")
    assert len(made.train_dataset) == len(made.train_dataset_data) == 3
    assert made.val_interval == 1
    assert list(made.val_key_metric) == ["dice"]


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
    assert difference(bundled.fingerprint, checkpoints.newest(by_hand).fingerprint) == []
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
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"
    )
    assert len(first) == 5
    assert first == second


def test_a_bundle_scores_as_the_command_line_does(trained, by_hand, task, tmp_path):
    made = run_workflow(trained, "evaluate", dataset_dir=str(task.folder), output_dir=str(tmp_path))
    expected = evaluate(Predictor(by_hand, device="cpu"), task.cases["test"])

    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["mean_dice"] == round(expected.mean_dice, 6)
    assert [(row["name"], row["dice"]) for row in told["labels"]] == [
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
    with pytest.raises(RuntimeError, match="reading_settings") as raised:
        workflow(bundle, "train", dataset_dir=str(task.folder)).run()
    assert "dataset.intensity: " in str(raised.value.__cause__)


def test_the_minutes_of_a_budget_begin_before_the_data_are_read(bundle, task):
    before = time.monotonic()
    made = workflow(
        bundle, "train", dataset_dir=str(task.folder), **{"settings#tsk_set.budget_minutes": 5.0}
    )
    training = made.parser.get_parsed_content("training").training

    assert before <= training.budget._started < training.budget._since


def test_a_training_resumes_in_its_output_folder(bundle, task):
    folder = str(task.folder)
    run_workflow(bundle, "train", dataset_dir=folder, **{"train#trainer#max_epochs": 1})
    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1)
    assert "holds the checkpoints of a training" in str(caught.value.__cause__)

    made = run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1, resume=True)

    assert made.trainer.state.epoch == 1
    saved = checkpoints.newest(bundle / "eval" / "training")
    assert json.loads(saved.settings)["tsk_set"]["epochs"] == 1


def test_what_is_overridden_reaches_the_checkpoint(bundle, task):
    run_workflow(
        bundle,
        "train",
        dataset_dir=str(task.folder),
        max_epochs=1,
        **{
            "network_def#channels": 6,
            "optimizer#lr": 0.002,
            "settings#tsk_set.batch_size": 1,
            "settings#tsk_set.loss.type": "ce",
        },
    )

    saved = checkpoints.newest(bundle / "eval" / "training")
    told = json.loads(saved.settings)["tsk_set"]
    assert (told["network"]["channels"], told["optim"]["lr"]) == (6, 0.002)
    assert (told["batch_size"], told["loss"]["type"]) == (1, "ce")
    Predictor(bundle / "eval" / "training", device="cpu")  # its settings rebuild the network


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

    with pytest.raises(DataError, match="changed since the check"):
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
    assert "other labels" in str(caught.value.__cause__)


# ---------------------------------------------------------------- the runner itself


def test_the_runner_trains_in_a_process_of_its_own(bundle, task, by_hand):
    words = ["--config_file", TRAIN, "--dataset_dir", task.folder, "--max_epochs", "2"]
    more = ["--settings#tsk_set.seed", "0", "--network_def#channels", "4", "--val_interval", "1"]
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
    assert done.stderr.splitlines()[-1].startswith(f"{tmp_path}/nowhere: is no folder")


def card_commands() -> list[str]:
    """The commands of the model card, in the order they stand in."""
    card = (LPBA / "docs" / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1500)
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
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

    assert len(commands) == 9
    assert (folder / "lpba.zip").read_bytes() == (folder / "again" / "lpba.zip").read_bytes()
    assert same_weights(folder / "eval" / "training", by_hand)
    assert checkpoints.newest(folder / "eval_two" / "training").fingerprint["world size"] == 2
    maps = sorted(path.name for path in (folder / "predictions").iterdir())
    assert len(maps) == 5
    for name in maps:
        traced = folder / "predictions_torchscript" / name
        assert (folder / "predictions" / name).read_bytes() == traced.read_bytes()


# ---------------------------------------------------------------- handing on


@pytest.fixture(scope="session")
def packed(by_hand: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundle(by_hand, tmp_path_factory.mktemp("packed") / "handed")


def test_a_packed_bundle_predicts_as_its_checkpoint_does(packed, by_hand, brains, tmp_path):
    images = str(brains / "images")
    run_workflow(packed, "inference", dataset_dir=images, output_dir=str(tmp_path / "a"))
    scripted = {"_target_": "torch.jit.load", "f": str(packed / "models" / "model.ts")}
    run_workflow(
        packed,
        "inference",
        dataset_dir=images,
        output_dir=str(tmp_path / "b"),
        network_def=scripted,
        **{"handlers#0#_disabled_": True},
    )
    predictor = Predictor(by_hand, device="cpu")
    image = min((brains / "images").iterdir())
    expected = predictor.predict_file(image, tmp_path / "expected.nii.gz").read_bytes()

    for name in "ab":
        assert (tmp_path / name / "brain_001_pred.nii.gz").read_bytes() == expected


def test_a_packed_bundle_has_no_faults_and_says_what_it_scored(packed, by_hand):
    best = checkpoints.newest(by_hand).best
    told = json.loads((packed / "configs" / "metadata.json").read_text())

    assert lint_bundle(packed) == []
    assert told["eval_metrics"] == {"validation_mean_dice": round(best.value, 4)}


def test_a_packed_bundle_carries_the_documents_that_it_is_given(by_hand, tmp_path):
    pack_bundle(by_hand, tmp_path / "lpba.zip", documents=LPBA)

    with zipfile.ZipFile(tmp_path / "lpba.zip") as archive:
        metadata = json.loads(archive.read("lpba/configs/metadata.json"))
        assert archive.read("lpba/docs/README.md") == (LPBA / "docs" / "README.md").read_bytes()
    assert metadata["name"] == json.loads((LPBA / "configs" / "about.json").read_text())["name"]
    with pytest.raises(SettingsError, match="is no bundle"):
        pack_bundle(by_hand, tmp_path / "other.zip", documents=tmp_path)


def test_a_packed_bundle_names_no_case_and_no_place(packed, task):
    names = {case.id for cases in task.cases.values() for case in cases}
    for path in packed.rglob("*"):
        if path.is_file():
            content = path.read_bytes().decode("latin-1")
            assert str(task.folder.parent) not in content, path
            assert not [name for name in names if name in content], path


def test_a_zip_holds_the_folder_and_monai_reads_it(packed, by_hand, tmp_path):
    """TorchScript alone is not compared: torch counts the classes that a process has traced, and names them so."""
    path = pack_bundle(by_hand, tmp_path / "handed.zip")

    with zipfile.ZipFile(path) as archive:
        held = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    files = [file for file in packed.rglob("*") if file.is_file()]
    assert list(held) == sorted(str(file.relative_to(packed.parent)) for file in files)
    for file in files:
        if file.name != "model.ts":
            assert held[str(file.relative_to(packed.parent))] == file.read_bytes()
    parser = load_bundle_config(str(path), "inference.json")
    assert parser["network_def"]["_target_"] == "monaiseg.bundle.components.network"


def test_a_folder_with_configurations_of_another_kind_is_left_alone(by_hand, tmp_path):
    mine = tmp_path / "project" / "configs" / "train.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")

    with pytest.raises(SettingsError, match="holds something that is no bundle"):
        pack_bundle(by_hand, tmp_path / "project")
    assert mine.read_text() == "{}"


def test_packing_into_a_bundle_keeps_its_documents(by_hand, tmp_path):
    folder = tmp_path / "lpba"
    shutil.copytree(LPBA, folder)
    pack_bundle(by_hand, folder)

    assert (folder / "docs/README.md").read_bytes() == (LPBA / "docs/README.md").read_bytes()
    assert (folder / "configs/about.json").read_bytes() == (
        LPBA / "configs/about.json"
    ).read_bytes()
    assert lint_bundle(folder) == []


def test_a_folder_of_other_things_is_left_alone(by_hand, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="no bundle"):
        pack_bundle(by_hand, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# ---------------------------------------------------------------- lint


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset.seg.patch_size": [64, 64, 32], "dataset.spacing": [3.0, 1.0, 1.0]},
        {"dataset.num_channels": 2, "dataset.seg.interested_label_list": [0, 161, 162]},
        {
            "tsk_set.loss.type": "focal",
            "tsk_set.network.norm": "group",
            "dataset.intensity.method": "minmax",
        },
    ],
)
def test_bundles_of_other_settings_have_no_faults(changes, settings, table, tmp_path):
    folder = build_bundle(changed(settings, changes), table, tmp_path / "other")
    assert lint_bundle(folder) == []


def test_the_shipped_bundle_has_no_faults():
    assert lint_bundle(LPBA) == []


def put(name: str, way: str, value: Any) -> Callable[[Path], None]:
    """Puts a value into a configuration."""

    def change(folder: Path) -> None:
        path = folder / "configs" / f"{name}.json"
        document = json.loads(path.read_text())
        *places, last = way.split("/")
        place = document
        for key in places:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value
        path.write_text(json.dumps(document))

    return change


def drop(name: str, way: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "configs" / f"{name}.json"
        document = json.loads(path.read_text())
        *places, last = way.split("/")
        place = document
        for key in places:
            place = place[key]
        del place[last]
        path.write_text(json.dumps(document))

    return change


def renamed(name: str, way: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "configs" / f"{name}.json"
        document = json.loads(path.read_text())
        *places, last = way.split("/")
        place = document
        for key in places:
            place = place[key]
        place[new] = place.pop(last)
        path.write_text(json.dumps(document))

    return change


def rewritten(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


IMAGE, PRED = "network_data_format/inputs/image", "network_data_format/outputs/pred"
MUTATIONS: list[tuple[Callable[[Path], None], str]] = [
    (renamed("train", "max_epochs", "max_epoch"), r"train.json: max_epoch: unknown key; did you mean 'max_epochs'"),
    (renamed("train", "train/trainer", "trianer"), r"train.json: train::trainer: is missing.* 'train::trianer'"),
    (put("train", "max_epochs", "two"), r'train.json: max_epochs: is "two"; a whole number belongs there'),
    (put("train", "resume", "no"), r'train.json: resume: is "no"; true or false belongs there'),
    (put("train", "train/handlers", {}), r"train.json: train::handlers: is \{\}; a list belongs there"),
    (put("train", "network_def", 7), r"train.json: network_def: is 7; a part with `_target_` belongs there"),
    (put("train", "spacing", [1, 1]), r"train.json: spacing: is \[1, 1\]; give three numbers"),
    (put("evaluate", "spacing", [2, 1, 1]), r"evaluate.json: spacing: is \[2, 1, 1\], but \[1.0, 1.0, 1.0\] in train"),
    (put("train", "optimizer/network", "@netwrk"), r"'@netwrk' leads nowhere; did you mean 'network'"),
    (put("train", "train/trainer/loss_function", "@train::loss"), r"'@train::loss' leads nowhere"),
    (put("train", "network", "$@network_df.to(@device)"), r"'@network_df' leads nowhere; did you mean 'network_def'"),
    (put("train", "network", "$@network_def.to(@device"), r"train.json: network: .* is not Python"),
    (put("train", "network", "$move(@network_def)"), r"'move' is not known"),
    (put("train", "max_epochs", "$@defaults.tsk_set.epoch"), r"there is no 'epoch'; did you mean 'epochs'"),
    (put("train", "loss/_target_", "monaiseg.bundle.components.los"), r"monaiseg.bundle.components has no 'los'; did you mean 'loss'"),
    (put("train", "loss/_target_", "monaiseq.workflow.loss"), r"there is no module 'monaiseq'"),
    (put("train", "loss/_target_", "monaiseg.bundle.component.loss"), r"monaiseg.bundle has no 'component'; did you mean 'components'"),
    (put("train", "loss/_target_", "monaiseg.bundle.components.DATA_FOLDER"), r"cannot be called"),
    (renamed("train", "loss/labels", "lables"), r"loss::lables: .* no such argument; did you mean 'labels'"),
    (drop("train", "loss/settings"), r"argument 'settings' of monaiseg.bundle.components.loss is missing"),
    (put("train", "train/preprocessing/for_training", "yes"), r"for_training: is \"yes\"; true or false"),
    (drop("inference", "dataset_dir"), r"inference.json: dataset_dir: is missing, MONAI's property 'dataset_dir'"),
    (drop("evaluate", "inferer"), r"evaluate.json: inferer: is missing, MONAI's property"),
    (put("train", "validate/evaluator/inferer", "@train::inferer"), r"evaluator::inferer: .* use '@validate::inferer'"),
    (put("inference", "handlers/0/load_path", "@ckpt_pth"), r"'@ckpt_pth' leads nowhere; did you mean 'ckpt_path'"),
    (put("multi_gpu_train", "device/_target_", "monaiseg.training.distributed.my_device"), r"multi_gpu_train.json: device::_target_"),
    (put("multi_gpu_train", "networks", 1), r"multi_gpu_train.json: networks: unknown key"),
    (put("metadata", f"{PRED}/num_channels", 56), r"metadata.json: .*outputs.pred.num_channels: is 56, .* has 57"),
    (put("metadata", f"{IMAGE}/num_channels", 2), r"metadata.json: .*inputs.image.num_channels: is 2, .* has 1"),
    (put("metadata", f"{IMAGE}/spatial_shape", [8, 8, 8]), r"inputs.image.spatial_shape: is \[8, 8, 8\]"),
    (put("metadata", f"{PRED}/channel_def/3", "cortex"), r"channel_def: class 3 is 'cortex', but 'left middle"),
    (drop("metadata", f"{PRED}/channel_def/56"), r"channel_def: class 56 is None, but 'brainstem'"),
    (put("metadata", f"{IMAGE}/dtype", "float23"), r"inputs.image.dtype: is 'float23'"),
    (put("metadata", "version", "first"), r"metadata.json: version: is 'first'"),
    (put("metadata", "version", "0.2.0"), r"changelog: says nothing of version 0.2.0"),
    (renamed("metadata", "intended_use", "intended_uses"), r"unknown key; did you mean 'intended_use'"),
    (drop("metadata", "task"), r"metadata.json: task: is missing"),
    (put("metadata", "description", "$__import__('os').abort()"), r"is code to MONAI's runner"),
    (put("about", "modalities", "MR"), r"about.json: modalities: unknown key; did you mean 'modality'"),
    (put("settings", "tsk_set/epochs", 0), r"settings.json: tsk_set.epochs: 0 is not"),
    (put("settings", "tsk_set/epoch_count", 4), r"settings.json: tsk_set.epoch_count: unknown key"),
    (put("settings", "dataset/seg/patch_size", [17, 16, 16]), r"settings.json: dataset.seg.patch_size: 17"),
    (rewritten("configs/labels.csv", "22,right", "21,right"), r"labels.csv: a label value stands twice"),
    (rewritten("configs/labels.csv", "superior frontal gyrus,22", "superior frontal gyrus,23"), r"labels.csv: label"),
    (rewritten("configs/train.json", '"bundle_root": ".",', '"bundle_root": "."'), r"train.json: .*delimiter"),
    (rewritten("configs/train.json", '"bundle_root": ".",', '"bundle_root": ".", "bundle_root": ".",'), r"bundle_root: stands twice"),
    (rewritten("configs/logging.conf", "[handlers]", "[handler]"), r"logging.conf: handlers: has no keys"),
    (without("configs/evaluate.json"), r"configs/evaluate.json: is missing"),
    (without("LICENSE"), r"LICENSE: is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), MUTATIONS, ids=[line for _, line in MUTATIONS])
def test_each_fault_is_named_in_one_short_line(change, line, bundle):
    change(bundle)

    found = lint_bundle(bundle)

    assert [text for text in found if re.search(line, text)], found
    assert all(len(text) <= 250 and "\n" not in text for text in found)


def test_all_faults_are_named_at_once_and_the_command_exits_with_2(bundle):
    put("train", "max_epochs", "two")(bundle)
    put("metadata", f"{PRED}/num_channels", 5)(bundle)
    without("LICENSE")(bundle)

    done = CliRunner().invoke(app, ["bundle", "lint", str(bundle)])

    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 3


def test_weights_that_do_not_fit_are_a_fault(packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "handed")
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    weights.popitem()
    torch.save(weights, folder / "models" / "model.pt")

    (fault,) = lint_bundle(folder)
    assert fault.startswith("models/model.pt: its weights do not fit")


def test_lint_runs_nothing_of_the_bundle(bundle, tmp_path):
    canary = tmp_path / "canary"
    code = f"$open({str(canary)!r}, 'w')"
    put("train", "network", code)(bundle)
    put("metadata", "task", code)(bundle)
    (bundle / "hostile.py").write_text(f"open({str(canary)!r}, 'w')")
    put("train", "loss/_target_", "hostile.loss")(bundle)

    lint_bundle(bundle)

    assert not canary.exists()


# ---------------------------------------------------------------- the command


def test_build_takes_labels_and_voxel_size_from_a_data_task(data_task, settings, tmp_path):
    (tmp_path / "settings.json").write_text(dump_settings(settings))
    words = ["--settings", tmp_path / "settings.json", "-o", tmp_path / "bundle"]
    done = CliRunner().invoke(
        app, ["bundle", "build", *map(str, words), "--data-task", str(data_task.folder)]
    )

    assert done.exit_code == 0, done.output
    assert lint_bundle(tmp_path / "bundle") == []
    assert LabelTable.read_csv(tmp_path / "bundle/configs/labels.csv") == data_task.table


def test_build_needs_labels_from_one_place(settings, tmp_path):
    (tmp_path / "settings.json").write_text(dump_settings(settings))
    done = CliRunner().invoke(
        app,
        [
            "bundle",
            "build",
            "--settings",
            str(tmp_path / "settings.json"),
            "-o",
            str(tmp_path / "b"),
        ],
    )

    assert done.exit_code == 2
    assert "--label-table" in done.output


def test_a_bundle_computes_where_its_user_can(by_hand, task, short, table, tmp_path):
    planned = changed(short, {"tsk_set.gpu_id": -1})

    build_bundle(planned, table, tmp_path / "made")

    assert load_settings(tmp_path / "made" / "configs" / "settings.json").tsk_set.gpu_id is None


def test_what_is_changed_for_a_resume_wants_to_be_accepted(bundle, task):
    folder = str(task.folder)
    run_workflow(bundle, "train", dataset_dir=folder, max_epochs=1)
    longer = {"dataset_dir": folder, "max_epochs": 2, "resume": True}

    with pytest.raises(RuntimeError) as caught:
        run_workflow(bundle, "train", **longer)
    assert "would not go on exactly" in str(caught.value.__cause__)
    made = run_workflow(bundle, "train", **longer, accept_inexact=True)

    assert made.trainer.state.epoch == 2


def test_an_interrupted_training_leaves_its_best_weights_and_the_exit_code_of_a_signal(
    bundle, task, monkeypatch
):
    monkeypatch.setattr("monaiseg.training.handlers.stop.StopOnSignal.requested", True)

    with pytest.raises(SystemExit) as caught:
        run_workflow(bundle, "train", dataset_dir=str(task.folder))

    assert caught.value.code == 130
    assert checkpoints.newest(bundle / "eval" / "training").step == 1
