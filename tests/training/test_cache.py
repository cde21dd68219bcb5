"""The cache: it notices new files, damage and full disks."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from batches import TABLE, settings_of
from monaiseg.data.cases import Case
from monaiseg.data.phantoms import make_phantom
from monaiseg.data.volumes import write_image
from monaiseg.errors import DataError, MonaisegWarning, OutOfMemoryError, StorageError
from monaiseg.training import cache
from monaiseg.training.cache import cached_cases


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


def test_a_replaced_file_gives_the_new_voxels(own_cases, tmp_path):
    before = prepare(own_cases, tmp_path).items[0]["image"].clone()
    made = make_phantom((20, 22, 18), label_values=(1, 4), seed=77)
    stamp = own_cases[0].images[0].stat()
    write_image(own_cases[0].images[0], made.image, made.grid)
    os.utime(own_cases[0].images[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert not torch.equal(prepare(own_cases, tmp_path).items[0]["image"], before)
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

    with pytest.warns(MonaisegWarning, match=f"{path.parent}: is damaged, and is built again"):
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
    with pytest.raises(StorageError, match="No space left.*needs .* free; free some space, or set dataset.cache"):  # fmt: skip
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

    assert (
        "4 cached cases would take 1 MiB; 0 MiB of memory may be used for them: cached in"
        in on_disk.note
    )
    assert "take 1 MiB; 1.0 GiB of memory may be used for them: cached in memory" in in_memory.note
    assert on_disk.memory_bytes == 0
    stored = sum(
        value.nbytes
        for index in range(4)
        for value in in_memory.items[index].values()
        if isinstance(value, torch.Tensor)
    )
    assert in_memory.memory_bytes == pytest.approx(stored, rel=0.01)
    assert "read again each time" in prepare(shared, tmp_path, "none").note


def test_memory_that_others_took_counts():
    assert cache.memory_allowance(1.0, 2**29) == 2**29
    assert cache.memory_allowance(1.0, 2**31) == 0
