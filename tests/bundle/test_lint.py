"""What people get wrong in a bundle is named, all at once, before it runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bundles import LPBA
from monaiseg.bundle.build import build_bundle
from monaiseg.bundle.lint import lint_bundle
from monaiseg.cli import app
from monaiseg.settings.reading import changed
from monaiseg.training import checkpoint as checkpoints


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


def test_a_packed_bundle_has_no_faults_and_says_what_it_scored(packed, by_hand):
    best = checkpoints.newest(by_hand).best
    told = json.loads((packed / "configs" / "metadata.json").read_text())

    assert lint_bundle(packed) == []
    assert told["eval_metrics"] == {"validation_mean_dice": round(best.value, 4)}


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
    (put("train", "spacing", [1, 1]), r"train.json: spacing: is \[1, 1\]; give three numbers"),
    (put("evaluate", "spacing", [2, 1, 1]), r"evaluate.json: spacing: is \[2, 1, 1\], but \[1.0, 1.0, 1.0\] in train"),
    (put("train", "optimizer/network", "@netwrk"), r"'@netwrk' refers to nothing; did you mean 'network'"),
    (put("train", "train/trainer/loss_function", "@train::loss"), r"'@train::loss' refers to nothing"),
    (put("train", "network", "$@network_df.to(@device)"), r"'@network_df' refers to nothing; did you mean 'network_def'"),
    (put("train", "loss/_target_", "monaiseg.bundle.components.los"), r"there is no function or class 'monaiseg.bundle.components.los'; did you mean 'loss'"),
    (put("train", "loss/_target_", "monaiseg.bundle.component.loss"), r"there is no function or class 'monaiseg.bundle.component.loss'; give its full name"),
    (put("train", "loss/_target_", "monaiseg.bundle.components.DATA_FOLDER"), r"there is no function or class 'monaiseg.bundle.components.DATA_FOLDER'"),
    (renamed("train", "loss/labels", "lables"), r"loss: .* unexpected keyword argument 'lables'; did you mean 'labels'"),
    (drop("train", "loss/settings"), r"loss: monaiseg.bundle.components.loss: missing a required argument: 'settings'; add it"),
    (drop("inference", "dataset_dir"), r"inference.json: dataset_dir: is missing \(MONAI's property 'dataset_dir'\)"),
    (drop("evaluate", "inferer"), r"evaluate.json: inferer: is missing \(MONAI's property"),
    (put("train", "validate/evaluator/inferer", "@train::inferer"), r"evaluator::inferer: .* use '@validate::inferer'"),
    (put("inference", "handlers/0/load_path", "@ckpt_pth"), r"'@ckpt_pth' refers to nothing; did you mean 'ckpt_path'"),
    (put("multi_gpu_train", "device/_target_", "monaiseg.training.distributed.my_device"), r"multi_gpu_train.json: device: there is no function or class"),
    (put("multi_gpu_train", "networks", 1), r"multi_gpu_train.json: networks: unknown key"),
    (put("metadata", f"{PRED}/num_channels", 56), r"metadata.json: .*outputs.pred.num_channels: is 56, .* has 57"),
    (put("metadata", f"{IMAGE}/num_channels", 2), r"metadata.json: .*inputs.image.num_channels: is 2, .* has 1"),
    (put("metadata", f"{IMAGE}/spatial_shape", [8, 8, 8]), r"inputs.image.spatial_shape: is \[8, 8, 8\]"),
    (put("metadata", f"{PRED}/channel_def/3", "cortex"), r"channel_def: class 3 is 'cortex', but 'left middle"),
    (drop("metadata", f"{PRED}/channel_def/56"), r"channel_def: class 56 is None, but 'brainstem'"),
    (put("metadata", f"{IMAGE}/dtype", "float23"), r"inputs.image.dtype: is 'float23'"),
    (put("metadata", "version", "first"), r"metadata.json: version: is 'first'"),
    (put("metadata", "version", "0.2.0"), r"changelog: has no entry for version 0.2.0"),
    (renamed("metadata", "intended_use", "intended_uses"), r"unknown key; did you mean 'intended_use'"),
    (drop("metadata", "task"), r"metadata.json: task: is missing"),
    (put("metadata", "description", "$__import__('os').abort()"), r"would be run as code by MONAI"),
    (put("about", "modalities", "MR"), r"about.json: modalities: unknown key; did you mean 'modality'"),
    (put("settings", "tsk_set/epochs", 0), r"settings.json: tsk_set.epochs: 0 is not"),
    (put("settings", "tsk_set/epoch_count", 4), r"settings.json: tsk_set.epoch_count: unknown key"),
    (put("settings", "dataset/seg/patch_size", [17, 16, 16]), r"settings.json: dataset.seg.patch_size: 17"),
    (rewritten("configs/labels.csv", "22,right", "21,right"), r"labels.csv: a label value appears twice"),
    (rewritten("configs/labels.csv", "superior frontal gyrus,22", "superior frontal gyrus,23"), r"labels.csv: label"),
    (rewritten("configs/train.json", '"bundle_root": ".",', '"bundle_root": "."'), r"train.json: .*delimiter"),
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
    put("train", "optimizer/network", "@netwrk")(bundle)
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


def test_monais_short_names_and_code_of_the_bundles_own_are_no_faults(bundle):
    put("train", "train/handlers", [{"_target_": "StatsHandler"}])(bundle)
    put("train", "loss", {"_target_": "scripts.mine.Loss", "weight": 2})(bundle)
    put("train", "loss_weight", 2)(bundle)
    put("train", "optimizer/lr", "@loss_weight")(bundle)

    assert lint_bundle(bundle) == []


def test_lint_runs_nothing_of_the_bundle(bundle, tmp_path):
    canary = tmp_path / "canary"
    code = f"$open({str(canary)!r}, 'w')"
    put("train", "network", code)(bundle)
    put("metadata", "task", code)(bundle)
    (bundle / "hostile.py").write_text(f"open({str(canary)!r}, 'w')")
    put("train", "loss/_target_", "hostile.loss")(bundle)

    lint_bundle(bundle)

    assert not canary.exists()
