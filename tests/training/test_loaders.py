"""Loaders: the same batches by any number of workers, which do not die unnoticed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from typing import Any

import pytest
import torch

from batches import FOUR, TABLE, bits, epoch, settings_of, written
from monaiseg.data.volumes import read_volume
from monaiseg.errors import DataError, SettingsError
from monaiseg.settings.reading import changed
from monaiseg.training import loaders
from monaiseg.training.cache import cached_cases
from monaiseg.training.loaders import (
    CaseLoader,
    build_case_loader,
    build_training_loader,
    check_shared_memory,
    worker_fault,
)
from monaiseg.training.sampling import EpochSampler, SeededDataset
from monaiseg.transforms import reader
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import training_chain


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

    def counted(path, *args, **kwargs):
        reads.append(path)
        return read_volume(path, *args, **kwargs)

    monkeypatch.setattr(reader, "read_volume", counted)
    chosen = settings_of("none", seg={"crops_per_image": 4})
    list(build_training_loader(shared, chosen, TABLE, tmp_path))
    assert len(reads) == 3  # for twelve patches


def test_whole_images_of_one_shape_make_a_batch_and_others_are_refused(own_cases, tmp_path):
    odd = written(tmp_path, "odd", 9, shape=(33, 20, 20))
    whole = {"use_whole_img_as_input": True}
    loader = build_training_loader(own_cases, settings_of(seg=whole), TABLE, tmp_path)
    assert next(iter(loader))["image"].shape == (2, 1, 32, 32, 32)

    mixed = build_training_loader((own_cases[0], odd), settings_of(seg=whole), TABLE, tmp_path)
    with pytest.raises(DataError, match="cases '.*' and '.*' .* shapes .*48.* one batch; set dataset.img_after_resize"):  # fmt: skip
        list(mixed)
    alone = settings_of(seg=whole, batch_size=1)
    assert len(list(build_training_loader((own_cases[0], odd), alone, TABLE, tmp_path))) == 6


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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_breaks_in_a_worker_is_named_with_its_fault_alone(own_cases, tmp_path, workers):
    loader = build_training_loader(
        own_cases, settings_of("none", num_workers=workers), TABLE, tmp_path
    )
    broken = own_cases[2].images[0]
    broken.write_bytes(broken.read_bytes()[:-20])

    with pytest.raises(DataError) as caught:
        list(loader)

    assert str(caught.value).startswith(f"case 'c': {broken}: ")
    assert "Traceback" not in str(caught.value)
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize("where", ["memory", "disk", "none"])
def test_a_case_that_vanished_is_named_at_once(own_cases, tmp_path, where):
    own_cases[1].images[0].unlink()
    with pytest.raises(DataError, match=r"case 'b': .*b.nii.gz: is not there"):
        build_training_loader(own_cases, settings_of(where), TABLE, tmp_path)


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
        ("hangs", "a worker process has returned nothing for 1 seconds; check .*"),
    ],
)
def test_a_dead_or_hanging_worker_is_named_and_not_waited_for(
    shared, tmp_path, monkeypatch, how, words
):
    monkeypatch.setattr(loaders, "WORKER_TIMEOUT_SECONDS", 1 if how == "hangs" else 600)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    prepared = cached_cases(shared, settings_of("none"), TABLE, tmp_path, for_training=True)
    loader = CaseLoader(Fatal(how), prepared, batch_size=1, num_workers=1)

    with pytest.raises(DataError, match=f"{words}; it was preparing cases 'a', 'b'"):
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


def test_shared_memory_that_is_too_small_for_the_workers_is_told_before_the_first_step(
    shared, tmp_path, monkeypatch
):
    """64 MiB is what a container has unless it is told otherwise; a worker without room dies of a bus error."""
    monkeypatch.setattr("monaiseg.training.loaders.free_shared_memory", lambda: 64 << 20)
    fits = settings_of("none", num_workers=1)
    large = changed(
        fits,
        {"dataset.seg.patch_size": [96, 96, 96], "tsk_set.batch_size": 4, "tsk_set.num_workers": 4},
    )

    check_shared_memory(fits, TABLE)
    check_shared_memory(changed(large, {"tsk_set.num_workers": 0}), TABLE)
    with pytest.raises(
        SettingsError, match=r"135 MiB of shared memory, but /dev/shm has only 64 MiB .*shm-size"
    ):
        check_shared_memory(large, TABLE)
