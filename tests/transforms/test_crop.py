"""Cropping: where patches are cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.transforms.utility.dictionary import FgBgToIndicesd

from cached_items import QUIET, cached, patches, position_image, settings_of
from monaiseg.transforms import crop
from monaiseg.transforms.crop import FindCentresd


def test_patches_reach_the_borders_of_a_volume_that_is_little_larger():
    item = cached(position_image((20, 20, 20)), num_groups=2)
    seg = {"augmentation": {name: {"probability": 0.0} for name in (*QUIET, "scaling")}}
    seg["augmentation"]["rotation"] = {"probability": 1e-9}  # margins, and none is turned
    corners = {int(p["image"][0, 0, 0, 0]) for p in patches(item, settings_of(seg=seg), 200)}
    assert {corner % 100 for corner in corners} == {0, 1, 2, 3, 4}


def test_a_patch_that_is_not_turned_is_a_cut():
    volume = position_image()
    item = cached(volume, volume % 2, num_groups=2)

    for patch in patches(item, settings_of((16, 16, 32)), 20):
        corner = int(patch["image"][0, 0, 0, 0])
        x, y, z = corner % 100, corner // 100 % 100, corner // 10_000
        assert np.array_equal(patch["image"][0], volume[x : x + 16, y : y + 16, z : z + 32])
        assert np.array_equal(patch["label"][0], (volume % 2)[x : x + 16, y : y + 16, z : z + 32])


def test_foreground_and_background_are_centred_on_by_their_weights():
    label = np.zeros((48, 48, 48))
    label[20:28, 20:28, 20:28] = 1  # far from the border, so that a patch lies around its centre
    item = cached(position_image(label.shape), label, num_groups=2)
    chosen = settings_of(seg={"sampling": {"pos": 3.0, "neg": 1.0}})

    centred = [bool(patch["label"][0, 8, 8, 8]) for patch in patches(item, chosen, 400)]

    assert np.mean(centred) == pytest.approx(0.75, abs=0.06)


def test_balanced_sampling_takes_each_class_as_often_as_the_next():
    label = np.zeros((48, 48, 48))
    label[16:32, 16:32, 16:31] = 1
    label[20, 20, 31] = 2  # a single voxel
    item = cached(position_image(label.shape), label, num_groups=3)
    chosen = settings_of(seg={"sampling": {"method": "balanced"}})

    centres = [int(patch["label"][0, 8, 8, 8]) for patch in patches(item, chosen, 600)]

    assert np.bincount(centres) / 600 == pytest.approx([1 / 3] * 3, abs=0.06)


@pytest.mark.parametrize("sampling", [{"pos": 1.0, "neg": 0.0}, {"pos": 0.0, "neg": 1.0}])
@pytest.mark.parametrize("value", [0, 1])
def test_a_case_without_the_wanted_voxels_still_gives_patches(sampling, value):
    item = cached(position_image(), np.full((40, 44, 48), value), num_groups=2)
    chosen = settings_of(seg={"sampling": sampling})
    corners = {float(patch["image"][0, 0, 0, 0]) for patch in patches(item, chosen, 10)}
    assert len(corners) == 10


def test_uniform_sampling_reaches_every_corner():
    item = cached(position_image((17, 16, 18)))
    chosen = settings_of(seg={"sampling": {"method": "uniform"}})
    corners = {int(patch["image"][0, 0, 0, 0]) for patch in patches(item, chosen, 60)}
    assert corners == {x + 10_000 * z for x, z in itertools.product((0, 1), (0, 1, 2))}


def test_a_whole_image_is_one_patch():
    item = cached(position_image(), num_groups=2)
    chosen = settings_of(seg={"use_whole_img_as_input": True})
    (patch,) = patches(item, chosen, 1)
    assert torch.equal(patch["image"], item["image"])


def test_centres_are_those_of_monai():
    label = np.random.default_rng(0).integers(0, 3, size=(6, 7, 8))
    item = cached(label, label, num_groups=2)
    ends = item["centre_ends"].tolist()
    # > 0: of uint8 tensors MONAI 1.6.1 takes the bitwise complement, and calls every voxel background
    oracle = FgBgToIndicesd("label")({"label": item["label"] > 0})

    assert item["centres"].dtype == torch.int32
    assert item["centres"][: ends[0]].tolist() == oracle["label_bg_indices"].tolist()
    assert item["centres"][ends[0] : ends[1]].tolist() == oracle["label_fg_indices"].tolist()


def test_centres_of_a_large_group_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(crop, "MAX_CENTRES", 10)
    item = cached(np.zeros((6, 6, 6)), np.zeros((6, 6, 6)), num_groups=3)

    assert item["centre_ends"].tolist() == [10, 10, 10]  # and the empty groups stay empty
    assert item["centres"].tolist() == [10, 32, 54, 75, 97, 118, 140, 162, 183, 205]


def test_of_a_group_of_few_centres_they_are_not_all_at_its_edge():
    label = np.zeros((8, 8, 8))
    label[2:6, 2:6, 2:6] = 1
    item = FindCentresd(2, most=1)(cached(label, label))

    assert item["centre_ends"].tolist() == [1, 2]
    assert item["group_voxels"].tolist() == [448, 64]
    assert item["centres"].tolist() == [256, 4 * 64 + 2 * 8 + 2]  # the middle one of each group


BOX = np.zeros((48, 48, 48))
BOX[10:38, 10:38, 10:38] = 1
BOX[20:22, 20:22, 20:22] = 2
"""A cube of 28 voxels with a small one in it: a patch of 16 holds at most 19 % of the large one."""


@pytest.mark.parametrize("method", ["balanced", "pos_neg"])
def test_a_patch_holds_the_least_share_of_what_it_is_centred_on(method):
    least = {"least_class_share": 0.12, "least_patch_share": [0.5]}
    item = cached(BOX, BOX, num_groups=3 if method == "balanced" else 2)

    def groups(sampling):
        chosen = settings_of(seg={"augmentation": {"enabled": False}, "sampling": sampling})
        for patch in patches(item, chosen, 60):
            label = patch["label"]
            holds = ((label == 0).float().mean() >= 0.5, (label > 0).sum() >= 0.12 * 28**3)
            yield bool(any(holds) or (label == 2).any())

    assert all(groups({"method": method, **least}))
    assert not all(groups({"method": method}))


def test_a_share_that_no_patch_can_hold_ends_with_the_fullest():
    item = cached(BOX, BOX, num_groups=2)
    sampling = {"pos": 1, "neg": 0, "least_class_share": 1.0}
    chosen = settings_of(seg={"augmentation": {"enabled": False}, "sampling": sampling})
    held = [int((patch["label"] > 0).sum()) for patch in patches(item, chosen, 10)]
    assert min(held) > 0.8 * 16**3
