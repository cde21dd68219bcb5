"""The chains: what a settings file expands to."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from monai.transforms.compose import Compose

from cached_items import (
    EVERYTHING,
    PAIRS,
    QUIET,
    TABLE,
    blob_on,
    cached,
    digest,
    patch_of,
    patches,
    position_image,
    settings_of,
    written,
)
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import phantom_grid
from monaiseg.errors import DataError
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    cached_chain,
    chain_digest,
    load_chain,
    training_chain,
)
from monaiseg.transforms.items import case_item


def test_a_value_that_the_table_does_not_name_is_refused_unless_labels_were_chosen(tmp_path):
    label = np.zeros((16, 16, 16), np.uint8)
    label[:2], label[2:5] = 1, 7
    case = written(tmp_path, label.astype(np.float32), label)
    chosen = settings_of(seg={"interested_label_list": [1, 2]})

    with pytest.raises(DataError, match=r"case 'case': label values 7 \(768 voxels\) are not in"):
        CaseChain(load_chain(settings_of(), TABLE))(case_item(case))
    item = CaseChain(load_chain(chosen, TABLE))(case_item(case))
    assert np.bincount(item["label"].numpy().ravel()).tolist() == [14 * 256, 2 * 256]


def test_our_own_mistakes_stay_what_they_are():
    def broken(item):
        return item["nothing"]

    with pytest.raises(RuntimeError) as caught:
        CaseChain([broken])({"case_id": "case"})
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("most", "dtype"), [(3, torch.uint8), (300, torch.int16)])
def test_class_indices_take_the_smallest_type(tmp_path, most, dtype):
    label = np.arange(16**3).reshape(16, 16, 16).astype(np.int16) % (most + 1)
    case = written(tmp_path, label.astype(np.float32), label)
    table = LabelTable.from_values(range(1, most + 1))

    for chosen in (settings_of(), settings_of(img_after_resize=[32, 32, 32])):
        item = cached_chain(chosen, table, for_training=False)(case_item(case))
        assert item["label"].dtype == dtype
        assert int(item["label"].max()) == most


def test_what_is_cached_is_plain(tmp_path):
    grid = phantom_grid((18, 17, 16), (1.0, 2.0, 3.0), "PIR")
    image, label = blob_on(grid)
    case = written(tmp_path, image, label, grid)

    item = cached_chain(settings_of(), TABLE, for_training=True)(case_item(case))

    assert {type(value) for value in item.values()} == {torch.Tensor, str}
    assert item["image"].is_contiguous()
    assert item["label"].is_contiguous()
    assert item["floor"] == item["image"].min()
    assert Grid.of((1, 1, 1), item["affine"]).spacing == pytest.approx((3.0, 1.0, 2.0))


def test_the_chains_digest_changes_with_what_changes_the_chain():
    plain = chain_digest(settings_of(), TABLE, for_training=False)
    others = [
        chain_digest(settings_of(), TABLE, for_training=True),
        chain_digest(settings_of(), LabelTable.from_values([1, 3]), for_training=False),
        chain_digest(settings_of((32, 16, 16)), TABLE, for_training=False),
        chain_digest(settings_of(spacing=[1.0, 1.0, 2.0]), TABLE, for_training=False),
        chain_digest(settings_of(img_after_resize=[32, 32, 32]), TABLE, for_training=False),
        chain_digest(settings_of(intensity={"method": "none"}), TABLE, for_training=False),
        chain_digest(settings_of(seg={"interested_label_list": [1]}), TABLE, for_training=False),
    ]
    same = chain_digest(settings_of(seg={"crops_per_image": 4}), TABLE, for_training=False)

    assert same == plain
    assert len({plain, *others}) == 8


def test_what_easyreg_lists_runs_after_the_cut():
    names = ["random_rigid_transform", "bspline_transform", "bilateral_filter"]
    chosen = settings_of(seg={"augmentation": {}, "transform": {"transform_seq": names}})
    chain = [type(transform).__name__ for transform in training_chain(chosen, TABLE)]
    assert chain[2:6] == ["RandRotateZoomd", "RandRigidd", "RandDeformd", "RandBilaterald"]

    item = cached(position_image(), num_groups=2)
    for patch in patches(item, chosen, 3):
        assert patch["image"].shape == (1, 16, 16, 16)


def test_only_what_can_happen_is_in_the_chain():
    def names(augmentation):
        return [type(t).__name__ for t in training_chain(settings_of(seg={"augmentation": augmentation}), PAIRS)]  # fmt: skip

    turned = ["SplitCentresd", "RandCropByClassesWithMargind", "RandRotateZoomd"]
    assert names({"enabled": False}) == ["SplitCentresd", "RandCropByPosNegLabeld"]
    assert names({name: {"probability": 0.0} for name in QUIET}) == turned
    assert names({"flip": {"left_right": 0.1}}) == [
        *turned,
        "RandMirrord",
        "RandCoilFieldd",
        "RandScaleIntensityFixedMeand",
        "RandAdjustContrastd",
        "RandGaussianSmoothd",
        "RandGaussianNoised",
    ]


def test_a_chain_seeded_again_has_the_streams_that_monai_makes_anew():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 24, 24)), rng.integers(0, 4, size=(24, 24, 24)), num_groups=2)  # fmt: skip
    chain = CaseChain(training_chain(settings_of(seg=EVERYTHING), PAIRS))
    chain.set_random_state(seed=0)

    for seed in (1, 2**62 + 1):
        anew = Compose(training_chain(settings_of(seg=EVERYTHING), PAIRS))
        expected = patch_of(anew.set_random_state(seed=seed), dict(item))
        assert digest(patch_of(chain.set_random_state(seed=seed), dict(item))) == digest(expected)


def test_a_seed_repeats_a_patch_whatever_the_global_random_states_are():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(24, 24, 24)), rng.integers(0, 4, size=(24, 24, 24)), num_groups=2)  # fmt: skip
    chosen = settings_of(seg=EVERYTHING)

    def drawn(noise: int):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        torch.manual_seed(noise)
        return [digest(patch) for patch in patches(item, chosen, 6, PAIRS)]

    assert drawn(1) == drawn(2)
    assert len(set(drawn(1))) == 6


def test_the_cached_volume_is_never_written_to():
    rng = np.random.default_rng(0)
    item = cached(rng.normal(size=(16, 16, 16)), rng.integers(0, 4, size=(16, 16, 16)), num_groups=2)  # fmt: skip
    before = digest(item)

    upright = {name: {"probability": 0.0} for name in ("rotation", "scaling")}
    whole = {"use_whole_img_as_input": True}
    for change in (EVERYTHING["augmentation"], EVERYTHING["augmentation"] | upright):
        for shape in ({}, whole):
            chosen = settings_of(seg={"augmentation": change, **shape})
            assert len({digest(patch) for patch in patches(item, chosen, 10, PAIRS)}) == 10

    assert digest(item) == before


def test_intensities_change_and_labels_do_not():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, size=(16, 16, 16))
    item = cached(rng.normal(size=label.shape), label, num_groups=2)
    for name in QUIET:
        quiet = {other: {"probability": 0.0} for other in (*QUIET, "rotation", "scaling")}
        chosen = settings_of(seg={"augmentation": quiet | {name: {"probability": 1.0}}})
        (patch,) = patches(item, chosen, 1, PAIRS)
        assert not torch.equal(patch["image"], item["image"]), name
        assert patch["image"].dtype == torch.float32
        assert np.isfinite(patch["image"]).all()
        assert torch.equal(patch["label"], item["label"]), name
