"""Every key of EasyReg's settings does something here, seen where it acts: chain, loader, network, loss, trainer, files.

`KEYS` are the keys that EasyReg's segmentation reads or ships. Each stands in a table below: with values and what is
observed under each (`EFFECTS`, and `LOOP` for what a training leaves behind), as one that changes nothing and is named
(`NOTHING`), or as one of which a value cannot be had (`REFUSED`).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.cases import Case
from monaiseg.data.data_tasks import DataTask
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_label_map, write_image, write_label_map
from monaiseg.errors import MonaisegWarning, SettingsError
from monaiseg.networks.losses import build_loss
from monaiseg.networks.residual_unet import network_of
from monaiseg.networks.sliding_window import SlidingWindow
from monaiseg.settings.reading import load_settings, settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.devices import device_of
from monaiseg.training.engines import build_optimizer
from monaiseg.training.loaders import build_training_loader
from monaiseg.training.run import Training, train
from monaiseg.training.sampling import SeededDataset, limited
from monaiseg.training.schedule import LearningRate
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import cached_chain, load_chain, training_chain
from monaiseg.transforms.items import case_item
from sections import document

KEYS = [
    "dataset.task_type",
    "dataset.max_num_for_loading",
    "dataset.img_after_resize",
    "dataset.spacing_to_refer",
    "dataset.normalize_via_percentage_clip",
    "dataset.normalize_via_range_clip",
    "dataset.seg.patch_size",
    "dataset.seg.interested_label_list",
    "dataset.seg.use_whole_img_as_input",
    "dataset.seg.num_crop_per_class_per_train_img",
    "dataset.seg.partition.overlap_size",
    "dataset.seg.partition.padding_mode",
    "dataset.seg.partition.mode",
    "dataset.seg.partition.flicker_range",
    "dataset.seg.transform.transform_seq",
    "dataset.seg.transform.shared_info",
    "dataset.seg.transform.patch_size",
    "dataset.seg.transform.my_bal_rand_crop.scale_ratio",
    "dataset.seg.transform.my_bal_rand_crop.bg_th_ratio",
    "dataset.seg.transform.my_rand_crop.scale_ratio",
    "dataset.seg.transform.my_rand_crop.bg_label",
    "dataset.seg.transform.my_rand_crop.crop_bg_ratio",
    "dataset.seg.transform.bal_rand_crop.sample_threshold",
    "dataset.seg.transform.rand_rigid_trans.transition",
    "dataset.seg.transform.rand_rigid_trans.rotation",
    "dataset.seg.transform.rand_rigid_trans.rigid_ratio",
    "dataset.seg.transform.rand_rigid_trans.rigid_mode",
    "dataset.seg.transform.bspline_trans.bspline_order",
    "dataset.seg.transform.bspline_trans.mesh_size",
    "dataset.seg.transform.bspline_trans.deform_ratio",
    "dataset.seg.transform.bspline_trans.deform_scale",
    "dataset.seg.transform.bspline_trans.interpolator",
    "dataset.seg.transform.gaussian_blur.blur_ratio",
    "dataset.seg.transform.gaussian_blur.gaussian_var",
    "dataset.seg.transform.gaussian_blur.gaussian_width",
    "dataset.seg.transform.gaussian_blur.maximumError",
    "dataset.seg.transform.bilateral_filter.bilateral_ratio",
    "dataset.seg.transform.bilateral_filter.domain_sigma",
    "dataset.seg.transform.bilateral_filter.range_sigma",
    "dataset.seg.transform.bilateral_filter.number_of_range_gaussian_samples",
    "dataset.seg.transform.flicker_crop.bg_label",
    "dataset.seg.transform.flicker_crop.adopt_bg_ratio",
    "dataset.seg.transform.default.using_bspline_deform",
    "dataset.seg.transform.default.deform_target",
    "dataset.seg.transform.default.deform_scale",
    "tsk_set.model",
    "tsk_set.method_name",
    "tsk_set.train",
    "tsk_set.task_name",
    "tsk_set.output_root_path",
    "tsk_set.gpu_ids",
    "tsk_set.batch_sz",
    "tsk_set.n_in_channel",
    "tsk_set.epoch",
    "tsk_set.max_batch_num_per_epoch",
    "tsk_set.val_period",
    "tsk_set.check_best_model_period",
    "tsk_set.save_val_fig_epoch",
    "tsk_set.save_fig_on",
    "tsk_set.save_running_resolution_3d_img",
    "tsk_set.print_step",
    "tsk_set.criticUpdates",
    "tsk_set.warmming_up_epoch",
    "tsk_set.continue_train",
    "tsk_set.continue_train_lr",
    "tsk_set.reset_train_epoch",
    "tsk_set.load_model_but_train_from_epoch",
    "tsk_set.model_path",
    "tsk_set.output_taking_original_image_format",
    "tsk_set.path.expr_path",
    "tsk_set.path.logdir",
    "tsk_set.path.check_point_path",
    "tsk_set.path.model_load_path",
    "tsk_set.path.record_path",
    "tsk_set.optim.optim_type",
    "tsk_set.optim.lr",
    "tsk_set.optim.adam.beta",
    "tsk_set.optim.lr_scheduler.type",
    "tsk_set.optim.lr_scheduler.custom.step_size",
    "tsk_set.optim.lr_scheduler.custom.gamma",
    "tsk_set.optim.lr_scheduler.plateau.patience",
    "tsk_set.optim.lr_scheduler.plateau.factor",
    "tsk_set.optim.lr_scheduler.plateau.threshold",
    "tsk_set.optim.lr_scheduler.plateau.min_lr",
    "tsk_set.loss.type",
    "tsk_set.loss.ce.no_bg",
    "tsk_set.loss.ce.weighted",
    "tsk_set.loss.ce.class_weight",
    "tsk_set.loss.ce.reduced",
    "tsk_set.loss.ce.class_num",
    "tsk_set.loss.glncc.k_sz_set",
    "tsk_set.seg.class_num",
    "tsk_set.seg.use_bn",
    "tsk_set.seg.ensemble_during_the_test",
    "tsk_set.seg.seg_ensemble.warped_pth",
    "tsk_set.seg.seg_ensemble.warped_type",
    "tsk_set.seg.seg_ensemble.inv_phi_pth",
    "tsk_set.seg.seg_ensemble.inv_switcher",
    "tsk_set.seg.seg_ensemble.num_max",
    "tsk_set.seg.seg_ensemble.weight_for_orig_img",
    "tsk_set.seg.seg_ensemble.nomralize_type",
    "tsk_set.print_val_detail",
    "tsk_set.save_extra_running_resolution_3d_img",
    "tsk_set.use_physical_coord",
    "tsk_set.save_3d_img_on",
    "tsk_set.save_extra_3d_img",
    "tsk_set.debug.warped_pth",
    "tsk_set.debug.inv_phi_pth",
]

SEG, TRANSFORM = "dataset.seg", "dataset.seg.transform"
NAMES = {
    "my_bal_rand_crop": "my_balanced_random_crop",
    "my_rand_crop": "my_random_crop",
    "bal_rand_crop": "balanced_random_crop",
    "rand_rigid_trans": "random_rigid_transform",
    "bspline_trans": "bspline_transform",
    "gaussian_blur": "gaussian_blur",
    "bilateral_filter": "bilateral_filter",
    "flicker_crop": "flicker_crop",
}
"""Section of a transform's parameters -> its name in `transform_seq`."""


OURS_OFF = {
    f"{SEG}.augmentation.{name}.probability": 0.0
    for name in ("rotation", "scaling", "noise", "smoothing", "bias_field", "contrast", "gamma")
}
SMALL = {
    f"{SEG}.patch_size": [16, 16, 16],
    "dataset.cache.where": "memory",
    "tsk_set.gpu_ids": -1,
    "tsk_set.num_threads": 1,
    "tsk_set.num_workers": 0,
    "tsk_set.network.channels": 8,
    "tsk_set.network.num_stages": 2,
    "tsk_set.network.deep_supervision_heads": 0,
}


def settings_with(key: str, value: Any, more: dict[str, Any] | None = None) -> Settings:
    """Small settings in which one key says `value`, and a transform's parameter comes with what lists it."""
    values = {**SMALL, **OURS_OFF, **(more or {}), key: value}
    section = key.removeprefix(f"{TRANSFORM}.").split(".")[0]
    if section in NAMES:
        values.setdefault(f"{TRANSFORM}.transform_seq", [NAMES[section]])
    if section == "default":
        values.setdefault(f"{TRANSFORM}.transform_seq", [])
        values.setdefault(f"{TRANSFORM}.default.using_bspline_deform", True)
    if "gaussian_blur" in values.get(f"{TRANSFORM}.transform_seq", []):
        del values[f"{SEG}.augmentation.smoothing.probability"]
    return settings_from_dict(document(values))


# ---------------------------------------------------------------- what is looked at


class Bench:
    """Drawn cases on disk, and what the chains make of them."""

    def __init__(self, folder: Path) -> None:
        self.table = LabelTable.from_values([1, 7])
        self.task = DataTask(folder, "bench", 0, {}, self.table, {})
        X, Y, Z = np.meshgrid(*[np.arange(16.0)] * 3, indexing="ij")
        spike = np.zeros((16, 16, 16))
        spike[8, 8, 8] = 1
        half = np.where(X < 8, 0, 7).astype(np.uint8)
        # Three channels say where in the volume a voxel comes from; one is curved, one a spike, one a faint edge.
        channels = [X, Y, Z, X**2, spike, (X >= 8) * 0.5]
        self.places = self._case(folder, "places", np.stack(channels, -1), half)
        blobs = np.zeros((48, 48, 48), np.uint8)
        blobs[10:14, 10:14, 10:14] = 1  # two thirds of class 1
        blobs[34:36, 34:38, 34:38] = 1
        blobs[10:12, 34:36, 10:12] = 7
        self.blobs = self._case(folder, "blobs", np.arange(48.0**3).reshape(48, 48, 48), blobs)
        odd = np.arange(12 * 20 * 24, dtype=float).reshape(12, 20, 24)
        self.odd = self._case(folder, "odd", odd, (odd % 7 == 0) * 7)

    def _case(self, folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> Case:
        grid = Grid.of(label.shape, np.eye(4))
        files = [folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz"]
        write_image(files[0], image, grid)
        write_label_map(files[1], label.astype(np.uint8), grid)
        return Case(name, (files[0],), files[1])

    def loaded(self, settings: Settings, case: Case) -> dict[str, Any]:
        """Image and label map on the network grid."""
        return CaseChain(load_chain(settings, self.table))(case_item(case))

    def draws(self, settings: Settings, case: Case, count: int) -> list[SimpleNamespace]:
        """Training patches: `image` (C, X, Y, Z), `label` (X, Y, Z), as the loader would cut them."""
        item = cached_chain(settings, self.table, for_training=True)(case_item(case))
        patches = SeededDataset([item], CaseChain(training_chain(settings, self.table)), seed=0)
        found = [patches[1, position, 0] for position in range(count)]
        return [
            SimpleNamespace(image=p["image"].numpy(), label=p["label"][0].numpy()) for p in found
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def loaded_shape(settings, bench):
    return tuple(bench.loaded(settings, bench.odd)["image"].shape[1:])


def intensities(settings, bench):
    """Least and greatest of intensities that rise evenly from 0 to 5759."""
    image = bench.loaded(settings, bench.odd)["image"]
    return [float(image.min()), float(image.max())]


def approx(values, **tolerance):
    return pytest.approx(values, **(tolerance or {"abs": 0.02}))


def classes_of_blobs(settings, bench):
    """Class indices of the blobs of label values 1 and 7, and of background."""
    table = bench.task.label_table(settings)
    label = CaseChain(load_chain(settings, table))(case_item(bench.blobs))["label"].numpy()[0]
    return tuple(int(label[place]) for place in ((12, 12, 12), (11, 35, 11), (0, 0, 0)))


def patch_shape(settings, bench):
    return bench.draws(settings, bench.blobs, 1)[0].label.shape


def window_calls(settings, bench):
    """Windows that a volume of 48 x 48 x 16 voxels takes, and their shape."""
    seen = []

    def network(windows):
        seen.append(tuple(windows.shape))
        return windows

    SlidingWindow(settings, bench.table)(torch.zeros(1, 1, 48, 48, 16), network)
    return sum(shape[0] for shape in seen), seen[0][2:]


def centres_of(settings, bench):
    """Different places that 60 patches are cut at; every voxel has an intensity of its own."""
    places = {float(patch.image[0, 0, 0, 0]) for patch in bench.draws(settings, bench.blobs, 60)}
    return len(places) if len(places) < 10 else "many"


def padding(settings, bench):
    """A row of the padded image of 12 voxels along X, beyond its first voxel, against what it holds inside."""
    image = bench.loaded(settings, bench.odd)["image"].numpy()[0]  # 16 x 32 x 32
    inside = image[2:14, 10, 8]
    rows = {
        "floor": [image.min()] * 2,
        "edge": inside[[0, 0]],
        "reflect": inside[[2, 1]],
        "wrap": inside[[-2, -1]],
    }
    return next(name for name, row in rows.items() if np.allclose(image[:2, 10, 8], row))


def centre_classes(settings, bench):
    """How often 90 patches are centred on background, class 1 and class 7 (index 2)."""
    seen = [int(patch.label[8, 8, 8]) for patch in bench.draws(settings, bench.blobs, 90)]
    return [seen.count(index) / 90 for index in range(3)]


def even_classes(settings, bench):
    background, first, second = centre_classes(settings, bench)
    return "even" if min(background, first, second) > 0.2 else "foreground by size"


def least_share_of_class(settings, bench):
    """The least share of class 1 in patches that are centred on it; its small blob has a third."""
    patches = [p.label for p in bench.draws(settings, bench.blobs, 60) if p.label[8, 8, 8] == 1]
    return round(min(float((label == 1).sum()) / 96 for label in patches), 2)


def least_foreground(settings, bench):
    """The least share of the foreground in patches that are centred on it; the blobs have 0.08, 0.31 and 0.62."""
    patches = [p.label for p in bench.draws(settings, bench.blobs, 60) if p.label[8, 8, 8]]
    return round(min(float((label > 0).sum()) / 104 for label in patches), 2)


def background_share(settings, bench):
    """Share of patches centred on background."""
    return float(np.mean([p.label[8, 8, 8] == 0 for p in bench.draws(settings, bench.blobs, 100)]))


def has_foreground(settings, bench):
    """Whether some patch that is centred on background holds any foreground."""
    patches = [p.label for p in bench.draws(settings, bench.blobs, 200) if p.label[8, 8, 8] == 0]
    return any((label > 0).any() for label in patches)


PLAIN = {"dataset.intensity.method": "none"}
WHOLE = {**PLAIN, f"{SEG}.use_whole_img_as_input": True, "tsk_set.n_in_channel": 6}
RIGID, SPLINE, BLUR, BILATERAL, CROP = (
    f"{TRANSFORM}.{name}"
    for name in (
        "rand_rigid_trans",
        "bspline_trans",
        "gaussian_blur",
        "bilateral_filter",
        "my_rand_crop",
    )
)
MOVES = {**WHOLE, f"{RIGID}.rigid_ratio": 1.0, f"{RIGID}.transition": [0, 0, 6]}
BENDS = {
    **WHOLE,
    f"{SPLINE}.deform_ratio": 1.0,
    f"{SPLINE}.deform_scale": 2.0,
    f"{SPLINE}.bspline_order": 1,
}


def sources(settings, bench, count=60):
    """For each draw, how far from its place (3, X, Y, Z) each voxel was read, in voxels along X, Y, Z."""
    still = np.stack(np.meshgrid(*[np.arange(16.0)] * 3, indexing="ij"))
    return [patch.image[:3] - still for patch in bench.draws(settings, bench.places, count)]


def shifts(settings, bench):
    """Twice the standard deviation of the shifts along X, Y, Z, in voxels."""
    return tuple(2 * np.std([moved[:, 8, 8, 8] for moved in sources(settings, bench)], axis=0))


def turns(settings, bench):
    """Twice the standard deviation of the angles about X, Y, Z, in degrees."""
    angles = []
    for moved in sources(settings, bench):
        c = moved[:, 8, 8, 8]
        x, y, z = moved[:, 9, 8, 8] - c, moved[:, 8, 9, 8] - c, moved[:, 8, 8, 9] - c
        angles.append(
            [math.atan2(y[2], 1 + y[1]), math.atan2(z[0], 1 + z[2]), math.atan2(x[1], 1 + x[0])]
        )
    return tuple(2 * np.degrees(np.std(angles, axis=0)))


def moved_share(settings, bench):
    return float(np.mean([np.abs(moved).max() > 1e-3 for moved in sources(settings, bench, 80)]))


def what_moves(settings, bench):
    """Whether image and label map move, and whether as one; the label map is 7 where X is 8 or more."""
    still = np.arange(16)[:, None, None]
    patches = bench.draws(settings, bench.places, 8)
    image = any(np.abs(p.image[0] - still)[4:12].max() > 0.5 for p in patches)
    label = any(((p.label > 0) != (still >= 8)).any() for p in patches)
    as_one = all(((p.label > 0) == (np.round(p.image[0]) >= 8)).all() for p in patches)
    return image, label, as_one


def kinks(settings, bench):
    """Voxels along X, Y, Z where the displacement bends; degree 1 does so beside the mesh's knots alone."""
    moved = np.stack(sources(settings, bench, 4))
    bends = []
    for axis in range(3):
        lines = np.moveaxis(moved, axis + 2, -1)[:, :, 4:12, 4:12]
        second = np.abs(np.diff(lines, 2)).max(axis=(0, 1, 2, 3))
        bends.append(int((second[2:-2] > 1e-3).sum()))
    return tuple(bends)


def displacement(settings, bench):
    """Twice the standard deviation of the displacement at voxel 5, a knot of 3 cells over 15 voxels."""
    return 2 * float(np.std([moved[:, 5, 5, 5] for moved in sources(settings, bench, 120)]))


def is_wide(settings, bench):
    """Whether anything is displaced by more than 1.5 voxels."""
    return max(np.abs(moved).max() for moved in sources(settings, bench, 20)) > 1.5


def curvature_kept(settings, bench):
    """Whether X squared is read right between voxels; linear interpolation is up to a quarter above."""
    worst = 0.0
    for patch in bench.draws(settings, bench.places, 4):
        inside = (patch.image[0] > 4) & (patch.image[0] < 11)
        worst = max(worst, np.abs(patch.image[3] - patch.image[0] ** 2)[inside].max())
    return worst < 0.05


def blurred(settings, bench):
    """Variance along X, in voxels squared, that a spike is spread to."""
    spike = bench.draws(settings, bench.places, 1)[0].image[4].sum(axis=(1, 2))
    return float((spike * (np.arange(16) - 8.0) ** 2).sum() / spike.sum())


def changed_share(settings, bench):
    """Share of draws in which the spike is lower."""
    patches = bench.draws(settings, bench.places, 80)
    return float(np.mean([patch.image[4, 8, 8, 8] < 0.999 for patch in patches]))


def edge_after(settings, bench):
    """Whether a step of 0.5 is kept."""
    row = bench.draws(settings, bench.places, 1)[0].image[5, :, 8, 8]
    return "kept" if row[8] - row[7] > 0.45 else "smoothed"


def augmentation_of(settings, bench):
    """What patches of a place-telling volume show: moved, blurred."""
    patches = bench.draws(settings, bench.places, 12)
    still = np.stack(np.meshgrid(*[np.arange(16.0)] * 3, indexing="ij"))
    moved = any(np.abs(p.image[:3] - still)[:, 4:12, 4:12, 4:12].max() > 1e-3 for p in patches)
    blurs = any(p.image[4, 8, 8, 8] < 0.999 for p in patches)
    return moved, blurs


def network(settings, bench):
    return network_of(settings, bench.table, (1.0, 1.0, 1.0))


def channels_in(settings, bench):
    return network(settings, bench).encoder[0].conv1.conv.in_channels


def norms(settings, bench):
    kinds = {type(module).__name__ for module in network(settings, bench).modules()}
    return sorted(kind for kind in kinds if "Norm" in kind)


def rates(settings, bench):
    """Learning rate before steps 1, 6, 11, 16, ... of 5 an epoch."""
    optimizer = build_optimizer(torch.nn.Linear(1, 1), settings.tsk_set.optim)
    rate = LearningRate(
        optimizer, settings.tsk_set.optim, steps_per_epoch=5, epochs=settings.tsk_set.epochs,
        warmup_epochs=settings.tsk_set.warmup_epochs,
    )  # fmt: skip
    return [round(rate.apply(step), 9) for step in (1, 6, 11, 16, 21)]


def plateau(settings, bench):
    """Learning rate after each of eight validations: Dice rises by less and less, and then stays."""
    optimizer = build_optimizer(torch.nn.Linear(1, 1), settings.tsk_set.optim)
    rate = LearningRate(
        optimizer, settings.tsk_set.optim, steps_per_epoch=5, epochs=99, warmup_epochs=0
    )
    seen = []
    for dice in (0.1, 0.5, 0.7, 0.75, 0.76, 0.76, 0.76, 0.76):
        rate.validated(dice)
        seen.append(round(rate.at(100), 9))
    return seen


def first_steps(settings, bench):
    """How far a step of gradient 4 moves a weight, and how far the next one, of gradient 0."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimizer = build_optimizer(layer, settings.tsk_set.optim)
    moves = []
    for gradient in (4.0, 0.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        before = layer.weight.item()
        optimizer.step()
        moves.append(abs(layer.weight.item() - before))
    return moves


def adam(lr, beta):
    """The same by hand: bias-corrected moments of 4, 0 with a second decay of 0.999."""
    second = math.sqrt(0.999 * 0.001 * 16 / (1 - 0.999**2))
    return approx([lr, lr * 4 * beta / (1 + beta) / second], rel=0.01)


def loss(settings, bench):
    """Loss of five voxels, two of background, two of class 1, one of class 2, each with p = 0.8, 0.1, 0.1."""
    classes = torch.tensor([0, 0, 1, 1, 2]).view(1, 1, 5, 1, 1)
    logits = torch.tensor([[0.8, 0.1, 0.1]] * 5).T.reshape(1, 3, 5, 1, 1).log()
    return float(build_loss(settings.tsk_set.loss, 3)(logits, classes))


EASY, HARD = -math.log(0.8), -math.log(0.1)
"""Cross-entropy of a background voxel, and of one of class 1 or 2."""
CE, WEIGHTED = approx((2 * EASY + 3 * HARD) / 5), approx((2 * EASY + 4 * HARD + 5 * HARD) / 11)
FOCAL = approx((2 * 0.2**2 * EASY + 3 * 0.9**2 * HARD) / 5)
DICE = approx(1 - (2 * 0.2 / (0.5 + 2) + 2 * 0.1 / (0.5 + 1)) / 2)
GENERALISED_DICE = approx(1 - 2 * (0.2 / 4 + 0.1) / ((0.5 + 2) / 4 + (0.5 + 1)))
TVERSKY = approx(1 - (0.2 / (0.2 + 0.15 + 0.9) + 0.1 / (0.1 + 0.2 + 0.45)) / 2)


def batch_size(settings, bench):
    loader = build_training_loader([bench.blobs], settings, bench.table, Path("unused"))
    return len(next(iter(loader))["image"])


def computes_on(settings, bench):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return str(device_of(settings)), [str(warning.message) for warning in caught]


def loaded_cases(settings, bench):
    cases = tuple(Case(f"S{n}", (Path("x"),), Path("y")) for n in range(6))
    splits = dict.fromkeys(("train", "val", "test", "debug"), cases)
    task = replace(bench.task, cases=splits)
    return tuple(len(limited(task, split, settings)) for split in splits)


def outputs(settings, bench):
    """Classes that the network tells apart."""
    table = bench.task.label_table(settings)
    return network_of(settings, table, (1.0, 1.0, 1.0)).head.conv.conv.out_channels


# ---------------------------------------------------------------- the tables


@dataclass(frozen=True)
class Effect:
    """A key's values, each with what is observed under it."""

    key: str
    look: Callable[[Settings, Bench], Any]
    values: list[tuple[Any, Any]]
    more: dict[str, Any] = field(default_factory=dict)
    """What else the settings say."""


SCHEDULE = "tsk_set.optim.lr_scheduler"
NO_WARMUP = {"tsk_set.warmming_up_epoch": 0, "tsk_set.optim.lr": 1.0, "tsk_set.epoch": 5}
STEP = {
    **NO_WARMUP,
    f"{SCHEDULE}.type": "custom",
    f"{SCHEDULE}.custom.step_size": 2,
    f"{SCHEDULE}.custom.gamma": 0.5,
}
BALANCED = {f"{TRANSFORM}.transform_seq": ["my_balanced_random_crop"]}
PLATEAU = {
    "tsk_set.optim.lr_scheduler.type": "plateau",
    "tsk_set.optim.lr": 1.0,
    f"{SCHEDULE}.plateau.patience": 0,
}
NO_GPU = "tsk_set.gpu_id is 7, but there is no such GPU: computing on the CPU"

# One key a line, however long.
# fmt: off
EFFECTS = [
    Effect("dataset.max_num_for_loading", loaded_cases, [([-1, -1, -1, -1], (6, 6, 6, 6)), ([4, 3, 2, 1], (4, 3, 2, 1))]),
    Effect("dataset.img_after_resize", loaded_shape, [([-1, -1, -1], (16, 32, 32)), ([48, 16, 32], (32, 16, 48)), ([20, 16, 16], (16, 16, 32))]),
    Effect("dataset.normalize_via_percentage_clip", intensities, [(1, approx([-1, 1])), (0.8, approx([-1, 1.37])), (80, approx([-1, 1.37]))]),
    Effect("dataset.normalize_via_range_clip", intensities, [([-1, -1], approx([-1.73, 1.73])), ([1000, 3000], approx([-1, 1]))]),
    Effect(f"{SEG}.patch_size", patch_shape, [([16, 16, 16], (16, 16, 16)), ([8, 16, 32], (32, 16, 8))], {"tsk_set.network.num_stages": None}),
    Effect(f"{SEG}.interested_label_list", classes_of_blobs, [([-1], (1, 2, 0)), ([0, 7], (0, 1, 0)), ([7, 1], (1, 2, 0))]),
    Effect(f"{SEG}.use_whole_img_as_input", patch_shape, [(False, (16, 16, 16)), (True, (48, 48, 48))]),
    Effect(f"{SEG}.use_whole_img_as_input", window_calls, [(False, (25, (16, 16, 16))), (True, (1, (48, 48, 16)))]),
    Effect(f"{SEG}.num_crop_per_class_per_train_img", centres_of, [(-1, "many"), (1, 3), (2, 6)], {**BALANCED, **PLAIN}),
    Effect(f"{SEG}.partition.overlap_size", window_calls, [([0, 0, 0], (9, (16, 16, 16))), ([0, 4, 0], (15, (16, 16, 16)))]),
    Effect(f"{SEG}.partition.padding_mode", padding, [("constant", "floor"), ("reflect", "reflect"), ("edge", "edge"), ("wrap", "wrap")]),
    Effect(f"{TRANSFORM}.transform_seq", even_classes, [(["my_balanced_random_crop"], "even"), (["balanced_random_crop"], "even"), (["my_random_crop"], "foreground by size"), (["flicker_crop"], "foreground by size")]),
    Effect(f"{TRANSFORM}.transform_seq", augmentation_of, [(["my_random_crop"], (False, False)), (["random_rigid_transform"], (True, True)), (["bspline_transform"], (True, True)), (["gaussian_blur"], (False, True)), ([], (False, False))], WHOLE),
    Effect(f"{TRANSFORM}.my_bal_rand_crop.scale_ratio", least_share_of_class, [(0.0, 0.33), (0.5, 0.67)]),
    Effect(f"{TRANSFORM}.my_bal_rand_crop.bg_th_ratio", has_foreground, [(0.0, True), (1.0, False)]),
    Effect(f"{TRANSFORM}.bal_rand_crop.sample_threshold", least_share_of_class, [([0, 0], 0.33), ([0, 0.01], 0.67)]),
    Effect(f"{CROP}.scale_ratio", least_foreground, [(0.0, 0.08), (0.2, 0.31), (0.5, 0.62)]),
    Effect(f"{CROP}.crop_bg_ratio", background_share, [(0.1, approx(0.1, abs=0.07)), (0.8, approx(0.8, abs=0.1))]),
    Effect(f"{TRANSFORM}.flicker_crop.adopt_bg_ratio", background_share, [(0.1, approx(0.1, abs=0.07)), (0.8, approx(0.8, abs=0.1))]),
    Effect(f"{RIGID}.transition", shifts, [([0, 0, 6], approx([6, 0, 0], abs=1.2)), ([6, 0, 0], approx([0, 0, 6], abs=1.2))], MOVES),
    Effect(f"{RIGID}.rotation", turns, [([30, 0, 0], approx([0, 0, 30], abs=6)), ([0, 0, 12], approx([12, 0, 0], abs=3))], {**MOVES, f"{RIGID}.transition": [0, 0, 0]}),
    Effect(f"{RIGID}.rigid_ratio", moved_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{RIGID}.rigid_mode", what_moves, [("both", (True, True, True)), ("img", (True, False, False)), ("image", (True, False, False)), ("seg", (False, True, False)), ("label", (False, True, False))], MOVES),
    Effect(f"{SPLINE}.mesh_size", kinks, [([1, 1, 4], (6, 0, 0)), ([2, 1, 1], (0, 0, 2))], BENDS),
    Effect(f"{SPLINE}.bspline_order", kinks, [(1, (2, 2, 2)), (3, (10, 10, 10))], BENDS),
    Effect(f"{SPLINE}.deform_scale", displacement, [(1.0, approx(1, rel=0.15)), (4.0, approx(4, rel=0.15))], {**BENDS, f"{SPLINE}.mesh_size": [3, 3, 3]}),
    Effect(f"{SPLINE}.deform_ratio", moved_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{SPLINE}.interpolator", curvature_kept, [("BSpline", True), ("Linear", False)], BENDS),
    Effect(f"{BLUR}.gaussian_var", blurred, [(1.0, approx(1, rel=0.15)), (4.0, approx(4, rel=0.15))], WHOLE),
    Effect(f"{BLUR}.blur_ratio", changed_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], WHOLE),
    Effect(f"{BILATERAL}.bilateral_ratio", changed_share, [(0.0, 0), (0.3, approx(0.3, abs=0.12)), (1.0, 1)], {**WHOLE, f"{BILATERAL}.range_sigma": 9.0, f"{BILATERAL}.domain_sigma": 0.4}),
    Effect(f"{BILATERAL}.domain_sigma", edge_after, [(0.2, "kept"), (1.0, "smoothed")], {**WHOLE, f"{BILATERAL}.range_sigma": 9.0}),
    Effect(f"{BILATERAL}.range_sigma", edge_after, [(0.06, "kept"), (9.0, "smoothed")], {**WHOLE, f"{BILATERAL}.domain_sigma": 1.0}),
    Effect(f"{TRANSFORM}.default.using_bspline_deform", augmentation_of, [(False, (False, False)), (True, (True, True))], WHOLE),
    Effect(f"{TRANSFORM}.default.deform_scale", is_wide, [(1.0, False), (12.0, True)], WHOLE),
    Effect("tsk_set.gpu_ids", computes_on, [(-1, ("cpu", [])), (7, ("cpu", [NO_GPU])), ([7], ("cpu", [NO_GPU]))]),
    Effect("tsk_set.batch_sz", batch_size, [(3, 3), ([4, 1, 1, 1], 4)]),
    Effect("tsk_set.n_in_channel", channels_in, [(1, 1), (6, 6)]),
    Effect("tsk_set.optim.optim_type", first_steps, [("adam", adam(0.1, 0.9)), ("sgd", approx([0.4 * 1.99, 0.4 * 0.99**2], rel=0.01))], {"tsk_set.optim.lr": 0.1}),
    Effect("tsk_set.optim.lr", first_steps, [(0.1, adam(0.1, 0.9)), (0.03, adam(0.03, 0.9))]),
    Effect("tsk_set.optim.adam.beta", first_steps, [(0.9, adam(0.1, 0.9)), (0.5, adam(0.1, 0.5))], {"tsk_set.optim.lr": 0.1}),
    Effect(f"{SCHEDULE}.type", rates, [("custom", [1, 1, 0.5, 0.5, 0.25]), ("plateau", [1, 1, 1, 1, 1])], STEP),
    Effect(f"{SCHEDULE}.custom.step_size", rates, [(1, [1, 0.5, 0.25, 0.125, 0.0625]), (3, [1, 1, 1, 0.5, 0.5])], STEP),
    Effect(f"{SCHEDULE}.custom.gamma", rates, [(0.5, [1, 1, 0.5, 0.5, 0.25]), (0.1, [1, 1, 0.1, 0.1, 0.01])], STEP),
    Effect("tsk_set.warmming_up_epoch", rates, [(0, [1, 1, 1, 1, 1]), (2, [0.1, 0.55, 1, 1, 1])], {**STEP, f"{SCHEDULE}.custom.step_size": 50}),
    Effect(f"{SCHEDULE}.plateau.patience", plateau, [(0, [1, 1, 1, 1, 1, 0.5, 0.25, 0.125]), (1, [1, 1, 1, 1, 1, 1, 0.5, 0.5])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.factor", plateau, [(0.1, [1, 1, 1, 1, 1, 0.1, 0.01, 0.001])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.threshold", plateau, [(0.1, [1, 1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125])], PLATEAU),
    Effect(f"{SCHEDULE}.plateau.min_lr", plateau, [(0.3, [1, 1, 1, 1, 1, 0.5, 0.3, 0.3])], PLATEAU),
    Effect("tsk_set.loss.type", loss, [("ce", CE), ("focal_loss", FOCAL), ("dice_loss", DICE), ("gdice_loss", GENERALISED_DICE), ("tdice_loss", TVERSKY)]),
    Effect("tsk_set.loss.ce.no_bg", loss, [(False, CE), (True, approx(HARD))], {"tsk_set.loss.type": "ce"}),
    Effect("tsk_set.loss.ce.class_weight", loss, [([1, 1, 1], CE), ([1, 2, 5], WEIGHTED)], {"tsk_set.loss.type": "ce"}),
    Effect("tsk_set.loss.ce.weighted", loss, [(False, CE), (True, WEIGHTED)], {"tsk_set.loss.type": "ce", "tsk_set.loss.ce.class_weight": [1, 2, 5]}),
    Effect("tsk_set.seg.class_num", outputs, [(3, 3), (-1, 3)]),
    Effect("tsk_set.seg.use_bn", norms, [(True, ["BatchNorm3d"]), (False, [])]),
]

NOTHING: list[tuple[str, Any]] = [
    ("dataset.spacing_to_refer", [1, 1, 1]),
    (f"{SEG}.partition.mode", "eval"),
    (f"{SEG}.partition.flicker_range", 3),
    (f"{TRANSFORM}.shared_info", {"label_list": [0, 1], "label_density": [0.9, 0.1], "img_size": [9, 9, 9]}),
    (f"{TRANSFORM}.patch_size", [128, 128, 32]),
    (f"{TRANSFORM}.default.deform_target", "global"),
    (f"{BLUR}.gaussian_width", 1),
    (f"{BLUR}.maximumError", 0.9),
    (f"{BILATERAL}.number_of_range_gaussian_samples", 50),
    ("tsk_set.output_taking_original_image_format", False),
    *((f"tsk_set.path.{name}", "x") for name in ("expr_path", "logdir", "check_point_path", "model_load_path", "record_path")),
    ("tsk_set.loss.ce.reduced", False),
    ("tsk_set.loss.ce.class_num", 57),
    ("tsk_set.loss.glncc.k_sz_set", [9]),
    ("tsk_set.seg.ensemble_during_the_test", True),
    *((f"tsk_set.seg.seg_ensemble.{name}", "x") for name in ("warped_pth", "warped_type", "inv_phi_pth", "inv_switcher", "num_max", "weight_for_orig_img", "nomralize_type")),
    ("tsk_set.print_val_detail", True),
    ("tsk_set.save_extra_running_resolution_3d_img", True),
    ("tsk_set.use_physical_coord", True),
    ("tsk_set.save_extra_3d_img", True),
    ("tsk_set.debug.warped_pth", "x"),
    ("tsk_set.debug.inv_phi_pth", "x"),
]
"""Keys that cannot mean anything here: named in one warning, and nothing else is different."""

REFUSED: list[tuple[str, Any, str]] = [
    ("dataset.task_type", "reg", 'task_type: "reg" is not "seg"'),
    ("tsk_set.model", "reg_net", '"reg_net" is not "seg_net"; registration stays with EasyReg'),
    ("tsk_set.method_name", "mermaid", '"mermaid" is not "seg_unet"'),
    (f"{CROP}.bg_label", 3, "bg_label: 3 is not 0; background is label value 0"),
    (f"{TRANSFORM}.flicker_crop.bg_label", 3, "bg_label: 3 is not 0; background is label value 0"),
    ("tsk_set.loss.type", "ncc", '"ncc" is not one of dice_ce, ce'),
]
"""Keys with one value that holds here anyway, and another that cannot be had."""
# fmt: on


ROWS = [
    pytest.param(effect, value, expected, id=f"{effect.key}-{value}-{effect.look.__name__}")
    for effect in EFFECTS
    for value, expected in effect.values
]


@pytest.mark.parametrize(("effect", "value", "expected"), ROWS)
def test_a_key_has_its_effect_where_it_acts(effect, value, expected, bench):
    with warnings.catch_warnings():
        warnings.simplefilter("error", MonaisegWarning)
        settings = settings_with(effect.key, value, effect.more)

    assert effect.look(settings, bench) == expected


@pytest.mark.parametrize(
    "effect", [e for e in EFFECTS if len(e.values) > 1], ids=lambda e: f"{e.key}-{e.look.__name__}"
)
def test_the_table_tells_a_keys_values_apart(effect):
    expected = [repr(what) for _, what in effect.values]
    assert len(set(expected)) > 1 or effect.key == "tsk_set.seg.class_num"


@pytest.mark.parametrize(("key", "value"), NOTHING, ids=[key for key, _ in NOTHING])
def test_a_key_that_cannot_mean_anything_is_named_and_changes_nothing(key, value):
    section = key.removeprefix(f"{TRANSFORM}.").split(".")[0]
    more = {f"{TRANSFORM}.transform_seq": [NAMES[section]]} if section in NAMES else {}
    more |= {f"{TRANSFORM}.transform_seq": []} if section == "default" else {}

    with pytest.warns(MonaisegWarning) as caught:
        settings = settings_with(key, value, more)

    (named,) = [str(warning.message) for warning in caught]
    assert any(f"{'.'.join(key.split('.')[:depth])}: " in named for depth in range(2, 6))
    without = {**SMALL, **OURS_OFF, **more}
    if section == "gaussian_blur":
        del without[f"{SEG}.augmentation.smoothing.probability"]
    if section == "default":
        without[f"{TRANSFORM}.default.using_bspline_deform"] = True
    assert settings == settings_from_dict(document(without))


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[key for key, *_ in REFUSED])
def test_a_value_that_cannot_be_had_is_refused(key, value, message):
    with pytest.raises(SettingsError) as caught:
        settings_with(key, value)
    assert message in str(caught.value)


def test_a_number_of_classes_that_is_not_the_datas_is_refused_with_the_right_one(bench):
    with pytest.raises(
        SettingsError, match="57 is not the number of labels with background; use 3, or -1"
    ):
        bench.task.label_table(settings_with("tsk_set.seg.class_num", 57))


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4]])
def test_more_or_fewer_class_weights_than_classes_are_refused_by_the_label_table(bench, weights):
    settings = settings_with("tsk_set.loss.ce.class_weight", weights)
    with pytest.raises(SettingsError, match=f"class_weight: {len(weights)} weights for 3 classes"):
        bench.task.label_table(settings)


# ---------------------------------------------------------------- what a training leaves behind

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

    def weights(training: Training) -> dict[str, torch.Tensor]:
        return {k: v.detach().clone() for k, v in training.network.named_parameters()}

    def noting(training: Training) -> None:
        seen.start = weights(training)
        training.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda _: (
                seen.rates.append(training.optimizer.param_groups[0]["lr"]),
                seen.weights.append(weights(training)),
            ),
        )
        run(training)

    def committing(folder: Path, saved: Any) -> Path:
        seen.commits.append(saved.epoch)
        return commit(folder, saved)

    run, commit = Training.run, checkpoints.commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "run", noting)
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
    assert "goes on in epoch 4, as load_model_but_train_from_epoch says (reset_train_epoch)" in log
    assert "learning rate 0.002, of continue_train_lr 0.002" in log
    assert f"best mean Dice so far {model.best.value:.4f}, of epoch {model.best.epoch}" in log


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


def test_every_key_of_easyreg_stands_in_a_table():
    tables = {
        *(effect.key for effect in EFFECTS),
        *(row[0] for row in (*NOTHING, *REFUSED, *LOOP)),
        "tsk_set.train",  # has a test of its own
    }
    assert tables == set(KEYS)
