"""Bytes on disk: wholly there or not there at all, whatever call of the operating system gives way."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from monaiseg import files
from monaiseg.errors import SettingsError, StorageError
from monaiseg.files import check_room, probe_writable, remove, sha256_of, valid_name, write_atomic

CALLS = ("open", "write", "fsync", "replace", "unlink")


def fail_at(monkeypatch, nth, code):
    """Make the n-th of the module's calls of the system, counted from 1, raise; returns the list of calls made."""
    made = []

    def watched(name, real):
        def call(*args, **kwargs):
            made.append(name)
            if len(made) == nth:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(f"os.{name}", watched(name, getattr(os, name)))
    return made


def test_a_file_is_written_whole_and_nothing_lies_beside_it(tmp_path):
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")

    assert (tmp_path / "a").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_written_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    made = fail_at(monkeypatch, nth=0, code=0)

    write_atomic(tmp_path / "a", b"one")

    assert made[:6] == ["open", "write", "fsync", "replace", "open", "fsync"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("nth", range(1, 7))
def test_whichever_call_fails_the_file_is_the_old_or_the_new(tmp_path, monkeypatch, nth, code):
    (tmp_path / "a").write_bytes(b"old")

    with monkeypatch.context() as faulty:
        fail_at(faulty, nth, code)
        with pytest.raises(StorageError, match="/a: cannot be written"):
            write_atomic(tmp_path / "a", b"new")

    assert (tmp_path / "a").read_bytes() == (b"old" if nth <= 4 else b"new")
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_told_with_path_needed_and_free_bytes(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2, errno.ENOSPC)

    with pytest.raises(
        StorageError, match=rf"{tmp_path}/a: .*needs 3 bytes, \d+ bytes are free; free some space"
    ):
        write_atomic(tmp_path / "a", b"new")


def test_a_write_that_takes_a_part_only_is_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr("os.write", lambda file, data: real(file, data[:2]))

    write_atomic(tmp_path / "a", b"12345")

    assert (tmp_path / "a").read_bytes() == b"12345"


def test_a_planted_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "a").symlink_to(tmp_path / "precious")

    write_atomic(tmp_path / "a", b"new")

    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (tmp_path / "a").is_symlink()


def test_a_link_planted_under_the_temporary_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "known")
    (tmp_path / "precious").write_bytes(b"mine")
    planted = files._temporary_in(tmp_path, "a")
    planted.symlink_to(tmp_path / "precious")

    with pytest.raises(StorageError, match="File exists"):
        write_atomic(tmp_path / "a", b"new")

    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a", b"one")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_folder_that_is_not_there_is_told_with_what_to_do(tmp_path):
    with pytest.raises(StorageError, match="create the folder first"):
        write_atomic(tmp_path / "nowhere" / "a", b"one")


def test_probing_a_folder_leaves_nothing_behind(tmp_path):
    probe_writable(tmp_path)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_folder_that_cannot_be_written_or_synced_is_known_by_probing(tmp_path, monkeypatch, nth):
    with monkeypatch.context() as faulty:
        fail_at(faulty, nth, errno.EROFS)
        with pytest.raises(StorageError, match="read-only"):
            probe_writable(tmp_path)

    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_with_both_numbers(tmp_path):
    check_room(tmp_path, 1000, "checkpoints")

    with pytest.raises(
        StorageError, match=rf"{tmp_path}: checkpoints need {10**18} bytes, but \d+ bytes"
    ):
        check_room(tmp_path, 10**18, "checkpoints")


def test_removing_what_is_not_there_is_no_fault(tmp_path):
    remove(tmp_path / "a")


def test_what_cannot_be_removed_is_told(tmp_path):
    with pytest.raises(StorageError, match="remove it by hand"):
        remove(tmp_path)


def test_bytes_and_their_file_have_one_digest(tmp_path):
    payload = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(payload)

    assert sha256_of(tmp_path / "a") == sha256_of(str(tmp_path / "a")) == sha256_of(payload)


@pytest.mark.parametrize(
    "name", ["a", "LPBA40", "run 2", "été", "脳", "v1.2_b-c", "9", "_x", "a" * 64]
)
def test_a_good_name_is_given_back(name):
    assert valid_name(name, "task name") == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "a\\b", "/a", ".hidden", "-x", " a", "a ", "a.", "a\n", "a\0b",
        "$x", "@x", "%x", "a$b", "a\tb", "a" * 65, "CON", "nul.txt", "com1", "😀", "a:b", "a*",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_or_reads_as_code_is_refused(name):
    with pytest.raises(
        SettingsError, match="task name: .* is not a valid name; use 1 to 64 letters"
    ):
        valid_name(name, "task name")
