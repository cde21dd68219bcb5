"""Placement: training starts from the atlas, and positions stay with their voxels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events

from bodies import PARTNERS, K, make_body, to_body
from monaiseg.bundle.build import pack_bundle
from monaiseg.bundle.lint import lint_bundle
from monaiseg.data.labels import LabelTable
from monaiseg.errors import CheckpointError, DataError, MonaisegWarning, SettingsError
from monaiseg.export import export_onnx
from monaiseg.networks.atlas_prior import AtlasPrior
from monaiseg.networks.residual_unet import network_of
from monaiseg.portable.model import PortableModel
from monaiseg.portable.nifti import read_scan
from monaiseg.prediction import Predictor
from monaiseg.prediction.adaptation import with_settings
from monaiseg.preparation import prepare
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import load_checkpoint
from monaiseg.training.batches import drawn_places
from monaiseg.training.cache import cached_cases
from monaiseg.training.handlers.seeded_steps import SeededSteps
from monaiseg.training.loaders import build_training_loader
from monaiseg.training.placement import placed
from monaiseg.training.run import train

NAMES = {1: "left organ", 2: "right organ", 3: "front organ", 4: "top organ"}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """A prepared data task of seven bodies: five to train on, one to validate, one to test."""
    folder = tmp_path_factory.mktemp("bodies")
    table = LabelTable.from_values([0, 1, 2, 3, 4], NAMES)
    for n in range(7):
        body = make_body(
            to_body((n % 3 - 1.0, 0.5 * n - 1.5, 0), 0.9 + 0.04 * n, 4.0 * n - 12), 1.0, 2.0, n
        )
        image = nib.Nifti1Image(body.image[0].numpy().astype(np.float32), np.eye(4))
        for kind in ("images", "labels"):
            (folder / "scans" / kind).mkdir(parents=True, exist_ok=True)
        nib.save(image, folder / "scans" / "images" / f"b{n}.nii.gz")
        label = nib.Nifti1Image(body.classes.numpy(), np.eye(4))
        nib.save(label, folder / "scans" / "labels" / f"b{n}.nii.gz")
    (folder / "labels.csv").write_text(
        "value,name\n0,background\n" + "".join(f"{v},{name}\n" for v, name in NAMES.items())
    )
    assert table.partner_classes == PARTNERS
    return prepare(
        folder / "scans", folder / "work", "bodies", train_size=70, val_size=15, test_size=15,
        label_table=folder / "labels.csv",
    )  # fmt: skip


@pytest.fixture(scope="module")
def with_atlas(settings):
    """Three short epochs with an atlas, a loss at some voxels, and all spatial augmentation."""
    document = json.loads(dump_settings(settings))
    document["dataset"]["spacing"] = [1.0, 1.0, 1.0]
    document["dataset"]["seg"]["augmentation"] = {
        "enabled": True,
        "flip": {"left_right": 0.5},
        "rotation": {"probability": 0.5, "degrees": 10},
        "deformation": {"probability": 0.3},
    }
    document["tsk_set"].update(epochs=3, val_period=1, checkpoint_period=1, checkpoint_steps=1)
    document["tsk_set"]["weight_averaging"] = 0.9
    document["tsk_set"]["loss"] = {"voxels": 512, "only_present": True}
    document["tsk_set"]["network"] |= {
        "atlas": True, "variant": "folded", "deep_supervision_heads": 0, "num_stages": 2,
    }  # fmt: skip
    return settings_from_dict(document)


@pytest.fixture(scope="module")
def few(bodies, with_atlas):
    """The result of a run with an atlas; read only."""
    return run(with_atlas, bodies, "few")


def run(settings, task, name, **options):
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name=name,
        **options,
    )


def mean_dice(prediction, reference):
    scores = []
    for value in range(1, K):
        a, b = prediction == value, reference == value
        scores.append(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))
    return float(np.mean(scores))


def test_a_few_steps_are_enough_because_training_starts_from_the_atlas(bodies, few):
    case = bodies.cases["test"][0]
    prediction = Predictor(few.run_folder).predict(case.images[0])
    reference = np.asarray(nib.load(case.label).dataobj)

    assert few.best.value > 0.6
    assert mean_dice(prediction, reference) > 0.6


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "SAL", "PIR"])
def test_a_scan_stored_in_another_orientation_gets_the_same_label_map(
    orientation, bodies, few, tmp_path
):
    """Left and right are told apart by the place alone, so a flip that is missed exchanges them."""
    stored = nib.load(bodies.cases["test"][0].images[0])
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(orientation)
    )
    nib.save(stored.as_reoriented(turn), tmp_path / "turned.nii.gz")
    predictor = Predictor(few.run_folder)

    expected = predictor.predict(stored)
    found = predictor.predict(nib.load(tmp_path / "turned.nii.gz"))

    assert "".join(nib.aff2axcodes(found.affine)) == orientation
    found = nib.as_closest_canonical(found)
    assert np.allclose(found.affine, expected.affine)
    assert set(np.unique(expected.dataobj)) == {0, 1, 2, 3, 4}
    assert np.array_equal(found.dataobj, expected.dataobj)


@pytest.mark.parametrize("flips", [(), (0,)])
def test_a_portable_model_registers_scans_and_labels_them_as_the_checkpoint(
    flips, bodies, few, tmp_path
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = few.run_folder
    if flips:
        document = json.loads(dump_settings(Predictor(run).settings))
        document["dataset"]["seg"]["partition"]["flips"] = ["left_right"]
        changed = with_settings(load_checkpoint(run), settings_from_dict(document))
        by_torch = Predictor(changed, device="cpu")
    else:
        by_torch = Predictor(run, device="cpu")
    path, case = tmp_path / "model.onnx", bodies.cases["test"][0]
    image, like = read_scan(case.images, 1)

    replay = export_onnx(by_torch, path)
    expected = by_torch.predict(case.images)
    alone = PortableModel(path).label_map(image, like.affine)

    assert replay.differing <= 1e-4 * replay.voxels
    assert len(np.unique(expected)) == K
    assert (Predictor(path).predict(case.images) == expected).mean() > 0.9999
    assert (alone == expected).mean() > 0.9999


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


def test_a_run_with_an_atlas_resumes_to_the_same_bits(bodies, with_atlas, few, monkeypatch):
    def attach(self, engine, original=SeededSteps.attach):
        original(self, engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), kill)

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SeededSteps, "attach", attach)
        with pytest.raises(Killed):
            run(with_atlas, bodies, "killed")
    run(with_atlas, bodies, "killed", resume=True)

    whole, killed = (
        checkpoints.newest(folder) for folder in (few.run_folder, bodies.folder / "killed")
    )
    assert whole.step == killed.step
    assert all(torch.equal(whole.network[name], killed.network[name]) for name in whole.network)


def test_every_training_case_is_left_out_of_its_own_atlas(bodies, with_atlas):
    table, cases = bodies.label_table(with_atlas), bodies.cases["train"]
    cached = cached_cases(cases, with_atlas, table, bodies.folder / "cache", for_training=True)
    prior = network_of(with_atlas, table, (1.0, 1.0, 1.0)).prior
    items = placed(cached, prior, table, {})

    assert list(prior.without) == [case.id for case in cases]
    item = items[0]
    positions = item["positions"].flatten(1)[None].float()
    classes = item["label"].flatten().long()[None, :, None]
    own, others = (
        prior.logits(positions, names).transpose(1, 2).gather(2, classes)[0][classes[0] > 0].mean()
        for names in (None, [cases[0].id])
    )
    assert own > others  # its own votes would tell the answer


def test_positions_stay_with_their_voxels(bodies, with_atlas):
    """Wherever a patch is cut and however it is turned, its positions say where in the body its voxels are."""
    table, folder = bodies.label_table(with_atlas), bodies.folder / "cache"
    prior = network_of(with_atlas, table, (1.0, 1.0, 1.0)).prior
    loader = build_training_loader(
        bodies.cases["train"], with_atlas, table, folder, prior=prior, persons={}
    )
    likely = []
    for epoch in range(1, 5):
        loader.sampler.epoch = epoch
        for batch in loader:
            positions = batch["positions"].flatten(2).float()
            prior_of = prior.logits(positions, batch["case_id"])
            classes = batch["label"].flatten(2).long()
            likely.append(prior_of.gather(1, classes)[classes > 0])
    assert torch.cat(likely).mean() > -1.5  # nats; with left and right exchanged: below -3


def test_it_needs_the_voxel_size(settings):
    document = json.loads(dump_settings(settings))
    document["tsk_set"]["network"]["atlas"] = True
    with pytest.raises(SettingsError, match=r"needs dataset\.spacing"):
        settings_from_dict(document)


def test_a_loss_at_some_voxels_and_coarser_outputs_exclude_each_other(settings):
    document = json.loads(dump_settings(settings))
    document["tsk_set"]["loss"] = {"voxels": 100}
    with pytest.raises(SettingsError, match="deep_supervision_heads is 1"):
        settings_from_dict(document)


def test_an_empty_prior_says_that_it_has_no_atlas():
    with pytest.raises(DataError, match="no atlas yet"):
        AtlasPrior(5, (1.0, 1.0, 1.0)).positions(torch.zeros(1, 8, 8, 8))


def test_drawn_blocks_are_different_and_mostly_near_the_foreground():
    label = torch.zeros(2, 1, 32, 32, 32, dtype=torch.uint8)
    label[:, :, 12:16, 12:16, 12:16] = 1
    torch.manual_seed(0)
    places = drawn_places(label, (2, 2, 2), 64)

    assert places.shape == (2, 64)
    assert all(len(set(row.tolist())) == 64 for row in places)
    x, y, z = places // 256, places // 16 % 16, places % 16
    near = sum(((part >= 5) & (part <= 8)).int() for part in (x, y, z)) == 3
    assert near.float().mean() > 0.05  # 0.113 is expected; 64 of 4096 blocks are 0.016


@pytest.mark.parametrize("name", ["counts", "classes", "shape"])
def test_a_checkpoint_with_an_impossible_atlas_is_refused(few, name):
    saved = checkpoints.load_checkpoint(few.run_folder)
    weights = dict(saved.weights)
    weights[f"prior.atlas_{name}"] = torch.full_like(weights[f"prior.atlas_{name}"], 99)
    with pytest.raises(CheckpointError, match="atlas"):
        Predictor(replace(saved, network=weights, averaged=None))


def test_a_bundle_labels_as_the_checkpoint_does(bodies, few, tmp_path):
    folder = pack_bundle(few.run_folder, tmp_path / "bundle")

    assert lint_bundle(folder) == []
    case = bodies.cases["test"][0]
    (tmp_path / "scans").mkdir()
    shutil.copy(case.images[0], tmp_path / "scans")
    told = ["--config_file", folder / "configs" / "inference.json", "--bundle_root", folder]
    told += ["--dataset_dir", tmp_path / "scans", "--output_dir", tmp_path / "out"]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", *map(str, told)], check=True)
    (label_map,) = (tmp_path / "out").glob("*_pred.nii.gz")
    expected = Predictor(few.run_folder).predict(case.images[0])
    assert np.array_equal(np.asarray(nib.load(label_map).dataobj), expected)


def test_a_scan_of_something_else_is_named(bodies, few, tmp_path):
    noise = np.random.default_rng(0).normal(100, 20, (24, 28, 22)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "noise.nii.gz")

    with pytest.warns(MonaisegWarning, match=r"noise\.nii\.gz: does not resemble the scans"):
        Predictor(few.run_folder).predict(tmp_path / "noise.nii.gz")
