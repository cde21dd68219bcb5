"""Phantoms with LPBA40's labels, and what a training, a bundle's training and a packed bundle make of them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bundles import LPBA, run_workflow
from monaiseg.bundle.build import build_bundle, pack_bundle
from monaiseg.data.data_tasks import DataTask
from monaiseg.data.label_files import load_label_table
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import write_phantom_dataset
from monaiseg.preparation import prepare
from monaiseg.settings.reading import changed
from monaiseg.settings.settings import Settings
from monaiseg.training.run import train


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's workflows change where Python looks for modules, and ours who shows an error: for one test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture(scope="session")
def table() -> LabelTable:
    return load_label_table(LPBA / "configs" / "labels.csv")


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


@pytest.fixture(scope="session")
def packed(by_hand: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundle(by_hand, tmp_path_factory.mktemp("packed") / "handed")
