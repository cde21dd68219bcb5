"""Bundles are written from one source, and packed for others."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from typing import Any

import pytest
from monai.bundle.utils import load_bundle_config
from typer.testing import CliRunner

from bundles import LPBA, run_workflow
from monaiseg.bundle.build import build_bundle, pack_bundle
from monaiseg.bundle.lint import lint_bundle
from monaiseg.cli import app
from monaiseg.data.label_files import load_label_table
from monaiseg.errors import SettingsError
from monaiseg.prediction import Predictor
from monaiseg.settings.reading import changed, load_settings
from monaiseg.settings.writing import dump_settings


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


def test_build_takes_labels_and_voxel_size_from_a_data_task(data_task, settings, tmp_path):
    (tmp_path / "settings.json").write_text(dump_settings(settings))
    words = ["--settings", tmp_path / "settings.json", "-o", tmp_path / "bundle"]
    done = CliRunner().invoke(
        app, ["bundle", "build", *map(str, words), "--data-task", str(data_task.folder)]
    )

    assert done.exit_code == 0, done.output
    assert lint_bundle(tmp_path / "bundle") == []
    assert load_label_table(tmp_path / "bundle/configs/labels.csv") == data_task.table


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


# ---------------------------------------------------------------- handing on


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
    expected = predictor.predict_file(image, tmp_path / "expected.nii.gz").output.read_bytes()

    for name in "ab":
        assert (tmp_path / name / "brain_001_pred.nii.gz").read_bytes() == expected


def test_a_packed_bundle_carries_the_documents_that_it_is_given(by_hand, tmp_path):
    pack_bundle(by_hand, tmp_path / "lpba.zip", documents=LPBA)

    with zipfile.ZipFile(tmp_path / "lpba.zip") as archive:
        metadata = json.loads(archive.read("lpba/configs/metadata.json"))
        assert archive.read("lpba/docs/README.md") == (LPBA / "docs" / "README.md").read_bytes()
    assert metadata["name"] == json.loads((LPBA / "configs" / "about.json").read_text())["name"]
    with pytest.raises(SettingsError, match="is not a bundle"):
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

    with pytest.raises(SettingsError, match="has files in it but is not a bundle"):
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
    with pytest.raises(SettingsError, match="not a bundle"):
        pack_bundle(by_hand, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
