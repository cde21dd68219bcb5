"""The folder of a training: one process at a time, nothing mixed, and known to be writable before the first step."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from monaiseg.errors import BusyError, CheckpointError, MonaisegWarning, SettingsError, StorageError
from monaiseg.settings.reading import load_settings
from monaiseg.training import run_folder
from monaiseg.training.run_folder import RunFolder

log = logging.getLogger("monaiseg")


@pytest.fixture
def run(tmp_path):
    return RunFolder.of(tmp_path, "first")


def opening(run, *, resume=False):
    """Open the folder and close it again."""
    with run.opened(resume=resume):
        pass


def in_child(action):
    """Run `action` in a forked process, which tells by one byte when it has come so far; its id and the pipe's end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        action(lambda: os.write(writing, b"."))
        os._exit(0)
    os.close(writing)
    return child, reading


def hold(run):
    def action(tell):
        with run.opened(resume=False):
            tell()
            time.sleep(60)

    child, reading = in_child(action)
    assert os.read(reading, 1) == b"."
    os.close(reading)
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_run_folder_is_made_with_its_parts(run, settings):
    with run.opened(resume=False) as folder:
        folder.write_settings(settings)

    assert sorted(os.listdir(run.path)) == [
        ".lock", "checkpoints", "cur_task_setting.json", "records",
    ]  # fmt: skip
    assert load_settings(run.settings_file) == settings


@pytest.mark.parametrize("name", ["../second", "a/b", "", ".", "$x", "-x"])
def test_a_task_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match="task name: .* is not a valid name"):
        RunFolder.of(tmp_path, name)


@pytest.mark.parametrize("name", ["train", "val", "test", "debug", "cache", "Train"])
def test_a_task_name_that_is_the_data_tasks_own_folder_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match="is used by the prepared dataset itself"):
        RunFolder.of(tmp_path, name)


def test_a_second_training_is_refused_at_once_with_who_and_since_when(run):
    child = hold(run)

    with pytest.raises(
        BusyError, match=rf"{run.path}: process {child} on .*, since 20\d\d-.* is training here"
    ):
        opening(run, resume=True)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it was not waited for
    kill(child)


def test_a_second_training_in_the_same_process_is_refused(run):
    with run.opened(resume=False), pytest.raises(BusyError, match=f"process {os.getpid()} on"):
        opening(run)


def test_a_holder_that_has_not_written_its_name_yet_is_waited_for(run):
    with run.opened(resume=False):
        lock = run.path / ".lock"
        name = lock.read_bytes()
        lock.write_bytes(b"")
        writing = threading.Timer(0.2, lock.write_bytes, [name])
        writing.start()
        with pytest.raises(BusyError, match=f"process {os.getpid()} on .* is training here"):
            opening(run)
        writing.join()


def test_a_holder_that_never_writes_its_name_is_another_process(run, monkeypatch):
    monkeypatch.setattr(run_folder, "_NAMING_SECONDS", 0.05)
    with run.opened(resume=False):
        (run.path / ".lock").write_bytes(b"")
        with pytest.raises(BusyError, match="another process is training here"):
            opening(run)


def test_the_lock_goes_with_its_process_however_that_ends(run):
    kill(hold(run))

    with run.opened(resume=False):
        holder = json.loads((run.path / ".lock").read_text())
    assert holder["pid"] == os.getpid()


def test_a_worker_that_outlives_its_trainer_does_not_keep_the_folder_locked(run):
    def train_with_worker(tell):
        os.setpgid(0, 0)
        with run.opened(resume=False):
            if os.fork() == 0:  # the worker
                tell()
                time.sleep(60)
                os._exit(0)
            time.sleep(60)

    child, reading = in_child(train_with_worker)
    assert os.read(reading, 1) == b"."
    kill(child)

    opening(run)
    os.killpg(child, signal.SIGKILL)
    os.close(reading)


def test_a_forked_worker_that_ends_leaves_the_lock_to_its_trainer(run):
    with run.opened(resume=False):
        child, reading = in_child(lambda _: None)
        os.waitpid(child, 0)
        os.close(reading)
        with pytest.raises(BusyError):
            opening(run)


def test_the_folder_is_free_after_the_block(run):
    for _ in range(2):
        opening(run)


def test_a_link_planted_as_the_lock_is_not_followed(run, tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    run.path.mkdir()
    (run.path / ".lock").symlink_to(tmp_path / "precious")

    with pytest.raises(StorageError, match="cannot be opened"):
        opening(run)
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_a_new_training_does_not_start_among_the_checkpoints_of_another(run):
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step-000000010.json").write_bytes(b"?")

    with pytest.raises(SettingsError, match="--resume .*, or choose another name"):
        opening(run)
    opening(run, resume=True)


def test_a_training_that_was_killed_before_its_first_commit_may_start_or_resume(run):
    run.checkpoints.mkdir(parents=True)
    for name in (
        "step-000000000.safetensors",
        "best-epoch-0003.safetensors",
        "best-epoch-0003.json",
    ):
        (run.checkpoints / name).write_bytes(b"?")

    assert not run.is_trained
    opening(run)
    opening(run, resume=True)


def test_a_training_whose_checkpoints_are_gone_does_not_start_over_by_itself(run):
    run.checkpoints.mkdir(parents=True)
    run.history.write_text("epoch\n1\n")

    with pytest.raises(CheckpointError, match="checkpoints of this run are gone; put them"):
        opening(run, resume=True)


def test_what_is_not_there_is_not_resumed_and_not_made(run):
    with pytest.raises(CheckpointError, match="there is no run to resume"):
        opening(run, resume=True)

    assert not run.path.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match=f"{tmp_path}/file/first: cannot be created"):
        opening(RunFolder.of(tmp_path / "file", "first"))


def test_a_disk_that_cannot_sync_is_known_before_the_first_step(run, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="checkpoints: cannot be written .Input/output error"):
        opening(run)


def test_the_umask_rules_the_modes(run):
    before = os.umask(0o077)
    try:
        with run.opened(resume=False):
            log.info("x")
    finally:
        os.umask(before)

    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(run.log_file.stat().st_mode) == 0o600


# ---------------------------------------------------------------- the log


def test_the_log_gets_each_line_once_and_goes_on_after_a_resume(run):
    level = log.level
    for word in ("first", "second"):
        with run.opened(resume=False):
            log.info("the %s run", word)
            log.debug("a detail")
        log.info("nobody hears")

    lines = run.log_file.read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "INFO the first run",
        "INFO the second run",
    ]
    assert log.level == level
    assert not log.handlers


def say_five_times():
    for _ in range(5):
        log.info("a line")


def test_a_log_on_a_full_disk_is_one_warning(run):
    run.path.mkdir()
    run.log_file.symlink_to("/dev/full")

    with (
        run.opened(resume=False),
        pytest.warns(MonaisegWarning, match=r"log\.txt: .* have gaps") as told,
    ):
        say_five_times()
    assert len(told) == 1


def test_a_log_that_cannot_be_opened_is_one_warning(run):
    run.log_file.mkdir(parents=True)

    with (
        run.opened(resume=False),
        pytest.warns(MonaisegWarning, match=r"log\.txt: .* have gaps") as told,
    ):
        say_five_times()
    assert len(told) == 1


def test_paths_are_those_that_the_guide_names():
    run = RunFolder(Path("work/lpba/first"))

    assert [
        run.settings_file.name, run.checkpoints.name, run.records.name, run.history.name, run.log_file.name,
    ] == ["cur_task_setting.json", "checkpoints", "records", "history.csv", "log.txt"]  # fmt: skip
