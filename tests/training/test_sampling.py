"""Sampling: every case in its turn, and patches that repeat bit for bit."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_obj import get_track_meta

from batches import TABLE, epoch, settings_of, written
from monaiseg.training.cache import cached_cases
from monaiseg.training.loaders import (
    build_case_loader,
    build_training_loader,
)
from monaiseg.training.sampling import EpochSampler, SeededDataset, derive
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import training_chain


def test_derived_numbers_never_change():
    assert derive(0, "order", 1) == 8677279991123922410
    assert derive(0, "order", 1) != derive(0, "order", 2) != derive("0", "order", 2)
    assert 0 <= derive("x") < 2**63


@given(
    num_cases=st.integers(1, 7),
    draws=st.integers(1, 20),
    per_case=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_every_case_is_drawn_once_before_any_is_drawn_again(num_cases, draws, per_case, seed):
    sampler = EpochSampler(num_cases, draws, seed, per_case)
    epochs = [list(sampler.keys(number)) for number in (1, 2, 3)]

    assert [[position for _, position, _ in keys] for keys in epochs] == [list(range(draws))] * 3
    drawn = [index for keys in epochs for _, _, index in keys]
    for start in range(0, len(drawn), num_cases * per_case):
        turn = drawn[start : start + num_cases * per_case]
        assert max(Counter(turn).values()) <= per_case
    assert all(len(set(drawn[i : i + per_case])) == 1 for i in range(0, len(drawn), per_case))


@given(skip=st.integers(0, 12), number=st.integers(1, 5))
def test_skip_leaves_the_tail_of_that_pass_and_of_no_other(skip, number):
    sampler = EpochSampler(5, 12, seed=3)
    sampler.epoch = number
    whole = list(sampler)

    sampler.skip = skip
    assert list(sampler) == whole[skip:]
    assert list(sampler) == whole
    assert len(sampler) == 12


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(index for _, _, index in EpochSampler(8, 8, seed).keys(number))
        for seed in (0, 1)
        for number in (1, 2, 3)
    }
    assert len(orders) == 6


def test_threads_change_nothing(tmp_path):
    # 64 x 64 x 64: torch shares a sum among threads from 32768 voxels on, and then rounds it otherwise
    case = written(tmp_path, "large", 0, shape=(64, 64, 64))
    always = {name: {"probability": 1.0} for name in ("contrast", "gamma", "smoothing")}
    chosen = settings_of(seg={"patch_size": [64, 64, 64], "augmentation": always})
    threads = torch.get_num_threads()
    try:
        seen = []
        for number in (1, 3):
            torch.set_num_threads(number)
            loader = build_training_loader((case,), chosen, TABLE, tmp_path)
            seen.append(epoch(loader))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert seen[0] == seen[1]


def test_another_seed_gives_other_batches(shared, tmp_path, two_epochs):
    loader = build_training_loader(shared, settings_of(seed=1), TABLE, tmp_path)
    assert epoch(loader) != two_epochs[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_are_left_alone(shared, tmp_path, workers):
    def states():
        legacy: Any = np.random.get_state()  # noqa: NPY002
        streams = random.getstate(), legacy[1].tobytes(), legacy[2], torch.get_rng_state().tolist()
        return streams, get_track_meta(), torch.get_num_threads()

    before = states()
    loader = build_training_loader(shared, settings_of(num_workers=workers), TABLE, tmp_path)
    list(loader)
    list(build_case_loader(shared[:1], settings_of(), TABLE, tmp_path))
    assert states() == before


def test_a_transform_that_uses_global_random_states_repeats_too(shared, tmp_path):
    def noisy(item):
        noise = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return {**item, "image": item["image"] + noise}

    chosen = settings_of()
    prepared = cached_cases(shared, chosen, TABLE, tmp_path, for_training=True)
    draws: Any = SeededDataset(
        prepared.items, CaseChain([*training_chain(chosen, TABLE), noisy]), 0
    )
    first = draws[1, 5, 2]["image"]
    random.seed(9)
    torch.rand(3)
    assert torch.equal(draws[1, 5, 2]["image"], first)
    assert not torch.equal(draws[1, 6, 2]["image"], first)


def test_a_case_is_cut_anew_at_every_position_of_every_epoch(shared, tmp_path):
    chosen = settings_of()
    prepared = cached_cases(shared, chosen, TABLE, tmp_path, for_training=True)
    draws: Any = SeededDataset(prepared.items, CaseChain(training_chain(chosen, TABLE)), 0)
    keys = [(epoch, position, 0) for epoch in (1, 2) for position in (0, 1)]
    assert len({draws[key]["image"].numpy().tobytes() for key in keys}) == 4
