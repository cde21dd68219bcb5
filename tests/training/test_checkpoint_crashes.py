"""Checkpoints on a disk that fails, of a process that dies, and after a power cut: a generation can be loaded."""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import made, tensor_files, the_only_value
from monaiseg.errors import MonaisegWarning, StorageError
from monaiseg.training.checkpoint import commit, load_checkpoint, newest, save_best

# ---------------------------------------------------------------- a disk that fails, a process that dies

CALLS = ("open", "write", "fsync", "replace", "unlink")


def watch(patch, at):
    """Call `at(n)` before the n-th call of the system."""
    count = itertools.count(1)

    def watched(real):
        def call(*args, **kwargs):
            at(next(count))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(f"os.{name}", watched(getattr(os, name)))


def third_epoch(folder):
    """What a training writes at an epoch's end that beats the best so far."""
    best = save_best(folder, made(30), 0.9)
    commit(folder, made(30, best=best))


@pytest.fixture
def second_epoch(tmp_path):
    best = save_best(tmp_path, made(20), 0.5)
    for step in (10, 20):
        commit(tmp_path, made(step, best=best))
    return tmp_path


def check_whole(folder):
    """What `newest` and `load_checkpoint` give is one of the two states, best and all, and training goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last, best = newest(folder), load_checkpoint(folder)
    assert last.best is not None
    assert (last.step, last.best.epoch, best.step) in {(20, 2, 20), (30, 3, 30)}
    assert the_only_value(last) == last.step
    commit(folder, made(40, best=last.best))
    assert tensor_files(folder) == [
        f"best-epoch-000{last.best.epoch}.safetensors", f"step-0000000{last.step}.safetensors", "step-000000040.safetensors",
    ]  # fmt: skip


def num_calls(folder, monkeypatch):
    made_calls: list[int] = []
    with monkeypatch.context() as patch:
        watch(patch, made_calls.append)
        third_epoch(folder)
    return len(made_calls)


def test_a_commit_calls_the_system_a_known_number_of_times(second_epoch, monkeypatch):
    """Two files with their records, 7 calls each, twice; then record and file of a generation and of a best go."""
    assert num_calls(second_epoch, monkeypatch) == 4 * 7 + 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("nth", range(1, 33))
def test_whichever_call_fails_a_generation_can_be_loaded(second_epoch, monkeypatch, nth, code):
    def fail(call):
        if call == nth:
            raise OSError(code, os.strerror(code))

    swallowed = (
        nth % 7 == 0 and nth <= 28
    )  # removing the temporary file that has been renamed already
    with monkeypatch.context() as patch:
        watch(patch, fail)
        if swallowed:
            third_epoch(second_epoch)
        else:
            with pytest.raises(StorageError, match=str(second_epoch)):
                third_epoch(second_epoch)

    assert not list(second_epoch.glob(".monaiseg-*"))
    check_whole(second_epoch)


@pytest.mark.parametrize("nth", range(1, 33))
def test_killed_before_whichever_call_a_generation_can_be_loaded(second_epoch, nth):
    child = os.fork()
    if child == 0:
        watch(pytest.MonkeyPatch(), lambda call: os._exit(9) if call == nth else None)
        third_epoch(second_epoch)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    check_whole(second_epoch)


def power_cuts(folder, action, monkeypatch):
    """Every state of the folder that a power cut may leave: a mapping of names to contents for each.

    What was synced is there. A rename, a removal or a new name since the folder's last sync may or may not be; so may
    content since the file's last sync, or half of it.
    """
    disk = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    files, written, synced, states = {}, {}, {}, []
    pending: list[Any] = []

    def note():
        for kept in itertools.product((True, False), repeat=len(pending)):
            state = dict(disk)
            for (kind, *places), there in zip(pending, kept, strict=True):
                if there and kind == "unlink":
                    state.pop(places[0], None)
                elif there:
                    state[places[1]] = places[2]()
            states.append(state)

    real = {name: getattr(os, name) for name in CALLS}

    def opened(path, flags, mode=0o777):
        descriptor = real["open"](path, flags, mode)
        files[descriptor] = Path(path).name
        if flags & os.O_CREAT:
            written[Path(path).name] = b""
        return descriptor

    def wrote(descriptor, data):
        written[files[descriptor]] += bytes(data)
        return real["write"](descriptor, data)

    def fsynced(descriptor):
        name = files[descriptor]
        if name == folder.name:
            for kind, *places in pending:
                disk.pop(places[0], None)
                if kind == "replace":
                    disk[places[1]] = places[2]()
            pending.clear()
        else:
            synced[name] = written[name]
        real["fsync"](descriptor)
        note()

    def replaced(old, new):
        content = synced.get(
            Path(old).name, written[Path(old).name][: len(written[Path(old).name]) // 2]
        )
        pending.append(("replace", Path(old).name, Path(new).name, lambda: content))
        real["replace"](old, new)
        note()

    def unlinked(path):
        real["unlink"](path)
        pending.append(("unlink", Path(path).name))
        note()

    with monkeypatch.context() as patch:
        for name, fake in zip(CALLS, (opened, wrote, fsynced, replaced, unlinked), strict=True):
            patch.setattr(f"os.{name}", fake)
        action(folder)
    return states


def test_a_power_cut_at_any_moment_leaves_a_generation(second_epoch, tmp_path_factory, monkeypatch):
    states = power_cuts(second_epoch, third_epoch, monkeypatch)
    distinct = list({tuple(sorted(state.items())): state for state in states}.values())
    assert len(states) >= 40

    for state in distinct:
        folder = tmp_path_factory.mktemp("after")
        for name, content in state.items():
            (folder / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MonaisegWarning)
            last = newest(folder)
        assert last.best is not None
        assert (last.step, last.best.epoch) in {(20, 2), (30, 3)}
        assert load_checkpoint(folder).epoch == last.best.epoch
