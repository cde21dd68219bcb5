"""Loaders: batches that repeat bit for bit, caches that notice new files, and workers that do not die unnoticed."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_obj import get_track_meta

from monaiseg.data.cases import Case
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.data.volumes import read_volume, write_image
from monaiseg.errors import DataError, MonaisegWarning, OutOfMemoryError, StorageError
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.training import cache, loaders
from monaiseg.training.cache import cached_cases
from monaiseg.training.loaders import (
    CaseLoader,
    build_case_loader,
    build_training_loader,
    worker_fault,
)
from monaiseg.training.sampling import EpochSampler, SeededDataset, derive
from monaiseg.transforms import reader
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import training_chain

TABLE = LabelTable.from_values([1, 4])
FOUR = ("a", "b", "c", "d")
HARSH = {
    name: {"probability": 0.5}
    for name in ("rotation", "scaling", "noise", "smoothing", "bias_field", "contrast", "gamma")
} | {"flip": {"left_right": 0.5}}


def settings_of(where="memory", seg: Any = None, cache: Any = None, **tsk_set: Any) -> Settings:
    """Patches of 16 x 16 x 16 with much augmentation, six steps of two."""
    seg = {"patch_size": [16, 16, 16], "augmentation": HARSH, **(seg or {})}
    dataset = {"seg": seg, "cache": {"where": where, **(cache or {})}}
    tsk_set = {"num_workers": 0, "batch_size": 2, "max_batch_num_per_epoch": [6, -1, -1], **tsk_set}
    return settings_from_dict({"dataset": dataset, "tsk_set": tsk_set})


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> tuple[Case, ...]:
    """Four phantoms of about 20 x 20 x 20. Read only."""
    folder = tmp_path_factory.mktemp("shared")
    return tuple(written(folder, name, seed) for seed, name in enumerate(FOUR))


@pytest.fixture
def cases(tmp_path) -> tuple[Case, ...]:
    """The same; the test's own."""
    return tuple(written(tmp_path, name, seed) for seed, name in enumerate(FOUR))


def written(folder: Path, name: str, seed: int, shape=(20, 22, 18)) -> Case:
    files = write_phantom(folder, name, make_phantom(shape, label_values=(1, 4), seed=seed))
    return Case(name, (files[0],), files[1])


def bits(batches) -> list[tuple[Any, ...]]:
    return [
        (b["image"].numpy().tobytes(), b["label"].numpy().tobytes(), b["case_id"]) for b in batches
    ]


def epoch(loader: CaseLoader, number: int = 1, skip: int = 0) -> list[tuple[Any, ...]]:
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.epoch, loader.sampler.skip = number, skip
    return bits(loader)


# ---------------------------------------------------------------- draws


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


# ---------------------------------------------------------------- the same bits


@pytest.fixture(scope="module")
def two_epochs(shared, tmp_path_factory) -> list[Any]:
    """Two epochs of batches, made without workers."""
    loader = build_training_loader(shared, settings_of(), TABLE, tmp_path_factory.mktemp("none"))
    return [epoch(loader, 1), epoch(loader, 2)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_workers_give_the_same_bits(shared, tmp_path, two_epochs, workers, where):
    loader = build_training_loader(shared, settings_of(where, num_workers=workers), TABLE, tmp_path)
    assert epoch(loader, 1) == two_epochs[0]
    assert epoch(loader, 2) == two_epochs[1]  # by the same processes
    assert epoch(loader, 1) == two_epochs[0]
    assert two_epochs[0] != two_epochs[1]


def test_prefetching_changes_nothing(shared, tmp_path, two_epochs):
    chosen = settings_of()
    prepared = cached_cases(shared, chosen, TABLE, tmp_path, for_training=True)
    loader = CaseLoader(
        SeededDataset(prepared.items, CaseChain(training_chain(chosen, TABLE)), 0),
        prepared,
        batch_size=2,
        sampler=EpochSampler(4, 12, 0),
        num_workers=2,
        prefetch_factor=5,
    )
    assert epoch(loader) == two_epochs[0]


def test_where_cases_wait_changes_nothing(shared, tmp_path, two_epochs):
    for where in ("disk", "disk", "none"):  # written, found again
        loader = build_training_loader(shared, settings_of(where), TABLE, tmp_path)
        assert epoch(loader) == two_epochs[0], where


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(shared, tmp_path, two_epochs, workers):
    loader = build_training_loader(shared, settings_of(num_workers=workers), TABLE, tmp_path)
    assert epoch(loader, 1, skip=2 * 4) == two_epochs[0][4:]
    assert epoch(loader, 2) == two_epochs[1]


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


# ---------------------------------------------------------------- batches


def test_a_batch_is_plain_tensors_and_case_ids(shared, tmp_path):
    loader = build_training_loader(shared, settings_of(), TABLE, tmp_path)
    batch = next(iter(loader))

    assert len(loader) == 6
    assert type(batch["image"]) is torch.Tensor
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 1, 16, 16, 16), torch.float32)
    assert (batch["label"].shape, batch["label"].dtype) == ((2, 1, 16, 16, 16), torch.uint8)
    assert set(batch["case_id"]) <= set(FOUR)


def test_an_epoch_without_a_limit_has_as_many_steps_as_cases(shared, tmp_path):
    chosen = settings_of(max_batch_num_per_epoch=[-1, -1, -1])
    loader = build_training_loader(shared, chosen, TABLE, tmp_path)
    drawn = Counter(case_id for batch in loader for case_id in batch["case_id"])
    assert len(loader) == 4
    assert drawn == dict.fromkeys(FOUR, 2)


def test_crops_of_an_image_follow_one_another_and_differ(shared, tmp_path):
    loader = build_training_loader(shared, settings_of(seg={"crops_per_image": 2}), TABLE, tmp_path)
    for batch in loader:
        assert len(set(batch["case_id"])) == 1
        assert not torch.equal(batch["image"][0], batch["image"][1])


def test_an_uncached_case_is_read_once_for_all_its_crops(shared, tmp_path, monkeypatch):
    reads = []

    def counted(path):
        reads.append(path)
        return read_volume(path)

    monkeypatch.setattr(reader, "read_volume", counted)
    chosen = settings_of("none", seg={"crops_per_image": 4})
    list(build_training_loader(shared, chosen, TABLE, tmp_path))
    assert len(reads) == 3  # for twelve patches


def test_whole_images_of_one_shape_make_a_batch_and_others_are_refused(cases, tmp_path):
    odd = written(tmp_path, "odd", 9, shape=(33, 20, 20))
    whole = {"use_whole_img_as_input": True}
    loader = build_training_loader(cases, settings_of(seg=whole), TABLE, tmp_path)
    assert next(iter(loader))["image"].shape == (2, 1, 32, 32, 32)

    mixed = build_training_loader((cases[0], odd), settings_of(seg=whole), TABLE, tmp_path)
    with pytest.raises(DataError, match="cases '.*' and '.*' .* shapes .*48.* one batch; set dataset.img_after_resize"):  # fmt: skip
        list(mixed)
    alone = settings_of(seg=whole, batch_size=1)
    assert len(list(build_training_loader((cases[0], odd), alone, TABLE, tmp_path))) == 6


@pytest.mark.parametrize("where", ["memory", "disk", "none"])
def test_validation_sees_whole_volumes_in_order(shared, tmp_path, where):
    loader = build_case_loader(shared, settings_of(where, num_workers=2), TABLE, tmp_path)
    batches = list(loader)

    assert [batch["case_id"] for batch in batches] == [[name] for name in FOUR]
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (1, 1, 32, 32, 32)
        assert batch["affine"].shape == (1, 4, 4)
        assert batch["label"].unique().tolist() == [0, 1, 2]
    assert bits(loader) == bits(batches)


# ---------------------------------------------------------------- caches


def entries(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def prepare(cases, folder: Path, where="disk", for_training=True, **settings: Any):
    chosen = settings_of(where, **settings)
    return cached_cases(cases, chosen, TABLE, folder / "cache", for_training=for_training)


def test_entries_are_found_again(shared, tmp_path):
    prepare(shared, tmp_path)
    once = entries(tmp_path / "cache")
    prepare(shared, tmp_path)

    assert entries(tmp_path / "cache") == once
    assert len(once) == 4
    assert {path.stat().st_mode & 0o77 for path in (tmp_path / "cache").iterdir()} == {0}


def test_a_replaced_file_gives_the_new_voxels(cases, tmp_path):
    before = prepare(cases, tmp_path).items[0]["image"].clone()
    made = make_phantom((20, 22, 18), label_values=(1, 4), seed=77)
    stamp = cases[0].images[0].stat()
    write_image(cases[0].images[0], made.image, made.grid)
    os.utime(cases[0].images[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert not torch.equal(prepare(cases, tmp_path).items[0]["image"], before)
    assert len(entries(tmp_path / "cache")) == 5


def test_other_settings_get_other_entries_and_the_same_content_the_same(shared, tmp_path):
    prepare(shared, tmp_path)
    prepare(shared, tmp_path, for_training=False)
    prepare(shared, tmp_path, seg={"patch_size": [32, 16, 16]})
    assert len(entries(tmp_path / "cache")) == 12

    renamed = [Case(f"other_{case.id}", case.images, case.label) for case in shared]
    assert prepare(renamed, tmp_path).items[0]["case_id"] == "other_a"
    assert len(entries(tmp_path / "cache")) == 12


def test_an_entry_with_a_turned_bit_is_made_anew_aloud(shared, tmp_path):
    good = [item["image"].clone() for item in prepare(shared, tmp_path).items]
    path = min((tmp_path / "cache").glob("*/image.npy"))
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)

    with pytest.warns(MonaisegWarning, match=f"{path.parent}: is damaged and made anew"):
        prepared = prepare(shared, tmp_path)

    assert all(
        torch.equal(item["image"], it) for item, it in zip(prepared.items, good, strict=True)
    )
    assert len(entries(tmp_path / "cache")) == 4


def test_memory_that_runs_out_while_preparing_is_said(shared, tmp_path, monkeypatch):
    def starved(*_, **__):
        raise MemoryError

    monkeypatch.setattr(cache, "CacheDataset", starved)
    with pytest.raises(OutOfMemoryError, match=r"memory ran out; set dataset.cache.where to disk"):
        prepare(shared, tmp_path, where="memory")


@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_damaged_entry_is_named(shared, tmp_path, damage):
    prepared = prepare(shared[:1], tmp_path)
    for path in (tmp_path / "cache").glob("*/*.npy"):
        path.write_bytes(path.read_bytes()[:100]) if damage == "truncated" else path.unlink()

    with pytest.raises(DataError, match=r"case 'a': its cache .*cache.* (remove|resume)"):
        prepared.items[0]


def test_a_full_disk_is_named_and_nothing_half_written_stays(shared, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left.*needs .* free; make room, or set dataset.cache"):  # fmt: skip
        prepare(shared, tmp_path)
    assert entries(tmp_path / "cache") == {}


def test_a_disk_without_room_is_not_filled(shared, tmp_path, monkeypatch):
    prepare(shared[:3], tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    prepare(shared, tmp_path)  # one more entry has room
    with pytest.raises(StorageError, match="needs 1 MiB, 0 MiB are free"):
        prepare(shared, tmp_path, for_training=False)
    assert len(entries(tmp_path / "cache")) == 4


def test_a_folder_that_cannot_be_made_is_named(shared, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="cache: the cache cannot be written"):
        prepare(shared, tmp_path)


def test_two_trainings_may_fill_one_cache(shared, tmp_path, monkeypatch):
    rename = Path.rename

    def second(self, target):  # the other one has just finished this entry
        (target / "other").mkdir(parents=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second)
    prepare(shared[:1], tmp_path)
    assert len(entries(tmp_path / "cache")) == 1


def test_leftovers_of_killed_trainings_are_removed_when_they_are_old(shared, tmp_path):
    old, new = (tmp_path / "cache" / f".monaiseg-{name}.tmp" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, time.time() - 2 * cache.LEFTOVER_SECONDS))

    prepare(shared[:1], tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_what_is_too_large_for_the_memory_goes_to_disk_and_is_said(shared, tmp_path):
    small, large = ({"memory_gb": share} for share in (1e-4, 1.0))
    on_disk, in_memory = (prepare(shared, tmp_path, "auto", cache=c) for c in (small, large))

    assert "4 prepared cases take 1 MiB, and they may have 0 MiB of memory: kept in" in on_disk.note
    assert "take 1 MiB, and they may have 1.0 GiB of memory: kept there" in in_memory.note
    assert on_disk.memory_bytes == 0
    stored = sum(
        value.nbytes
        for index in range(4)
        for value in in_memory.items[index].values()
        if isinstance(value, torch.Tensor)
    )
    assert in_memory.memory_bytes == pytest.approx(stored, rel=0.01)
    assert "read anew" in prepare(shared, tmp_path, "none").note


def test_memory_that_others_took_counts():
    assert cache._memory_allowance(1.0, 2**29) == 2**29
    assert cache._memory_allowance(1.0, 2**31) == 0


# ---------------------------------------------------------------- when something goes wrong


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_breaks_in_a_worker_is_named_with_its_fault_alone(cases, tmp_path, workers):
    loader = build_training_loader(cases, settings_of("none", num_workers=workers), TABLE, tmp_path)
    broken = cases[2].images[0]
    broken.write_bytes(broken.read_bytes()[:-20])

    with pytest.raises(DataError) as caught:
        list(loader)

    assert str(caught.value).startswith(f"case 'c': {broken}: ")
    assert "Traceback" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize("where", ["memory", "disk", "none"])
def test_a_case_that_vanished_is_named_at_once(cases, tmp_path, where):
    cases[1].images[0].unlink()
    with pytest.raises(DataError, match=r"case 'b': .*b.nii.gz: is not there"):
        build_training_loader(cases, settings_of(where), TABLE, tmp_path)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("a mistake of ours")
        self.method = lambda: None


@pytest.mark.parametrize("workers", [0, 2])
def test_our_own_mistake_in_a_worker_names_the_cases_of_its_batch(shared, tmp_path, workers):
    def broken(item):
        raise UnpicklableError

    chosen = settings_of()
    prepared = cached_cases(shared, chosen, TABLE, tmp_path, for_training=True)
    loader = CaseLoader(
        SeededDataset(prepared.items, CaseChain([broken]), 0),
        prepared,
        batch_size=2,
        sampler=EpochSampler(4, 8, 0),
        num_workers=workers,
    )
    first = [prepared.ids[index] for _, _, index in list(loader.sampler)[:2]]
    with pytest.raises(RuntimeError, match=f"cases {first[0]!r}, {first[1]!r}: ") as caught:
        list(loader)
    assert "a mistake of ours" in str(caught.value.__cause__)


class Fatal(torch.utils.data.Dataset[Any]):
    """Items that end the process that asks for them, or keep it for ever."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __getitem__(self, index: int) -> Any:
        if self.how == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kills", r"worker process \(pid.* \d+\).*; if memory ran out, lower .*"),
        ("hangs", "a worker process has not delivered for 1 seconds; check .*"),
    ],
)
def test_a_dead_or_hanging_worker_is_named_and_not_waited_for(
    shared, tmp_path, monkeypatch, how, words
):
    monkeypatch.setattr(loaders, "WORKER_TIMEOUT_SECONDS", 1 if how == "hangs" else 600)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    prepared = cached_cases(shared, settings_of("none"), TABLE, tmp_path, for_training=True)
    loader = CaseLoader(Fatal(how), prepared, batch_size=1, num_workers=1)

    with pytest.raises(DataError, match=f"{words}; in work: cases 'a', 'b'"):
        list(loader)

    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    worker.join(300)
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(shared, tmp_path, two_epochs, name):
    loader = build_training_loader(shared, settings_of(num_workers=1), TABLE, tmp_path)
    batches = iter(loader)
    first = next(batches)
    os.kill(loader._iterator._workers[0].pid, getattr(signal, name))  # type: ignore[union-attr]
    assert bits([first, *batches]) == two_epochs[0]


def test_other_faults_are_not_taken_for_a_workers():
    assert worker_fault(RuntimeError("shapes do not match")) is None
    text = "DataLoader worker (pid 7) is killed by signal: Killed. "
    assert str(worker_fault(RuntimeError(text))).startswith("worker process (pid 7) is killed by signal: Killed; ")  # fmt: skip
