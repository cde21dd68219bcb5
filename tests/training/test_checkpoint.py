"""Checkpoints: two generations whatever happens, damage that is always seen, and files that cannot run code."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pickle
import random
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monaiseg.data.labels import LabelTable
from monaiseg.errors import CheckpointError, MonaisegWarning, NumericsError, StorageError
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.checkpoint import (
    Best,
    Checkpoint,
    adopt_best,
    check_weights,
    commit,
    keep,
    load_checkpoint,
    newest,
    save_best,
)
from monaiseg.training.resume import difference, fingerprint

NETWORK = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
TABLE = LabelTable.from_values([1, 4])
BEST = Best(epoch=3, value=0.75, file="best-epoch-0003.pt", sha256="0" * 64)


def made(step=10, **changes):
    """A checkpoint whose every weight tells its step."""
    weights = {name: torch.full_like(value, step) for name, value in NETWORK.state_dict().items()}
    whole = Checkpoint(
        step=step,
        epoch=step // 10,
        epoch_closed=True,
        network=weights,
        settings=dump_settings(Settings()),
        labels=TABLE.to_records(),
        channels=("t1",),
        spacing=(1.0, 1.0, 1.2),
        topology={"kernels": [[3, 3, 3]], "strides": [[1, 1, 1]]},
        fingerprint={"threads": 1, "data": {"train/S01": "0f"}},
        optimizer=torch.optim.AdamW(NETWORK.parameters()).state_dict(),
        history=[{"epoch": 1, "loss": 0.5, "dice/mean": float("nan")}],
    )
    return replace(whole, **changes)


def names(folder):
    return sorted(os.listdir(folder))


def the_only_value(checkpoint):
    (value,) = {float(v) for tensor in checkpoint.network.values() for v in tensor.flatten()}
    return value


def as_file(state, path, **options):
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    path.write_bytes(buffer.getvalue())
    return path


def payload_of(checkpoint):
    """What stands in the file, to be broken by hand."""
    state = {
        one.name: getattr(checkpoint, one.name) for one in fields(checkpoint) if one.name != "path"
    }
    return {"schema_version": 1, **state}


def repacked(path, change, compression=zipfile.ZIP_STORED):
    """The file's zip written anew; `change(name, record)` gives the new record."""
    with zipfile.ZipFile(path) as source:
        records = {name: change(name, source.read(name)) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, record in records.items():
            target.writestr(name, record)
    return path


def seeded(seed):
    return random.Random(seed)


# ---------------------------------------------------------------- there and back


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    network = {name: torch.randn(value.shape) for name, value in NETWORK.state_dict().items()}
    half: dict[str, torch.Tensor] = {
        "a": torch.randn(3).to(torch.bfloat16),
        "none": torch.zeros(0),
        "n": torch.tensor(7),
    }
    whole = made(10, network=network, averaged=half, best=BEST, scheduler={"last": -float("inf")})

    back = load_checkpoint(commit(tmp_path, whole))

    for name, value in network.items():
        assert torch.equal(back.network[name], value)
    assert back.averaged is not None
    assert all(torch.equal(back.averaged[name], value) for name, value in half.items())
    assert back.best == BEST
    assert (back.step, back.epoch, back.epoch_closed, back.spacing) == (
        10,
        1,
        True,
        (1.0, 1.0, 1.2),
    )
    assert back.settings == whole.settings
    assert LabelTable.from_records(back.labels) == TABLE
    assert back.scheduler == whole.scheduler
    assert str(back.history) == str(whole.history)
    assert back.optimizer == whole.optimizer
    assert back.versions["torch"] == torch.__version__


def test_every_field_has_its_kind_checked():
    assert {*checkpoints._FIELDS, "path"} == {one.name for one in fields(Checkpoint)}


def test_the_record_describes_the_file_to_a_reader_without_torch(tmp_path):
    path = commit(tmp_path, made(10))

    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["file"], record["step"], record["epoch"]) == ("step-000000010.pt", 10, 1)
    assert record["size"] == path.stat().st_size
    assert record["labels"] == ["background", "label 1", "label 4"]


def test_optimizer_and_network_go_on_from_what_was_loaded(tmp_path):
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    commit(tmp_path, made(10, network=network.state_dict(), optimizer=optimizer.state_dict()))

    back = newest(tmp_path)
    network.load_state_dict(back.network)
    fresh = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    fresh.load_state_dict(dict(back.optimizer or {}))

    assert fresh.param_groups[0]["lr"] == 0.1
    assert torch.equal(fresh.state[network.weight]["momentum_buffer"], torch.ones(1, 2))


def test_numbers_of_numpy_become_plain_and_views_become_whole(tmp_path):
    view = torch.arange(12.0).reshape(3, 4).t()[1:]
    whole = made(10, history=[{"epoch": np.int64(1), "loss": np.float32(0.5)}], network={"a": view})

    back = load_checkpoint(commit(tmp_path, whole))

    assert back.history == [{"epoch": 1, "loss": 0.5}]
    assert type(back.history[0]["epoch"]) is int
    assert torch.equal(back.network["a"], view)


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, b"bytes", np.zeros(2), object()])
def test_what_strict_loading_would_refuse_is_not_written(tmp_path, value):
    with pytest.raises(TypeError, match=r"history\.0\.odd is a"):
        commit(tmp_path, made(10, history=[{"odd": value}]))

    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_committed(tmp_path, value):
    commit(tmp_path, made(10))
    broken = made(20).network | {"0.bias": torch.tensor([1.0, value])}

    with pytest.raises(NumericsError, match=r"step 20: network\.0\.bias holds NaN or infinite"):
        commit(tmp_path, made(20, network=broken))

    assert newest(tmp_path).step == 10


def test_equal_checkpoints_have_equal_bytes(tmp_path):
    first = commit(tmp_path, made(10, best=BEST))
    payload = first.read_bytes()
    back = load_checkpoint(first)

    assert commit(tmp_path, replace(back, best=BEST)).read_bytes() == payload


def test_the_averaged_weights_are_those_to_predict_with():
    assert made(averaged={"a": torch.ones(1)}).weights.keys() == {"a"}
    assert made().weights.keys() == NETWORK.state_dict().keys()


# ---------------------------------------------------------------- generations


def test_two_generations_the_best_and_the_kept_ones_stay(tmp_path):
    for step in (10, 20, 30, 40, 50):
        best = save_best(tmp_path, made(step), 0.5) if step in (10, 30) else newest(tmp_path).best
        if step == 20:
            keep(tmp_path, made(step))
        commit(tmp_path, made(step, best=best))

    assert [name for name in names(tmp_path) if name.endswith(".pt")] == [
        "best-epoch-0003.pt",
        "epoch-0002.pt",
        "step-000000040.pt",
        "step-000000050.pt",
    ]
    assert all((tmp_path / name).with_suffix(".json").exists() for name in names(tmp_path))
    assert newest(tmp_path).step == 50
    assert load_checkpoint(tmp_path).epoch == 3


def test_the_best_is_light_and_knows_no_case(tmp_path):
    save_best(tmp_path, made(10, averaged={"a": torch.ones(2)}), 0.5)

    path = tmp_path / "best-epoch-0001.pt"
    best = load_checkpoint(path)

    assert best.network.keys() == {"a"}
    assert best.optimizer is best.averaged is None
    assert b"S01" not in path.read_bytes()


def test_a_best_that_no_commit_points_to_is_a_ghost(tmp_path):
    commit(tmp_path, made(10))
    save_best(tmp_path, made(20), 0.9)

    assert load_checkpoint(tmp_path).step == 10
    commit(tmp_path, made(20))
    assert names(tmp_path) == [
        "step-000000010.json", "step-000000010.pt", "step-000000020.json", "step-000000020.pt",
    ]  # fmt: skip


def test_leftovers_of_a_kill_are_cleared_away_and_the_users_files_are_not(tmp_path):
    for name in ("step-000000005.pt", ".monaiseg-0f.tmp", "notes.txt", "model.pt"):
        (tmp_path / name).write_bytes(b"?")

    commit(tmp_path, made(10))

    assert names(tmp_path) == ["model.pt", "notes.txt", "step-000000010.json", "step-000000010.pt"]


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize("harm", ["empty", "truncated", "missing", "garbage"])
def test_a_damaged_generation_is_named_and_the_older_one_taken(tmp_path, suffix, harm):
    commit(tmp_path, made(10))
    path = commit(tmp_path, made(20)).with_suffix(suffix)
    harms = {"empty": b"", "truncated": path.read_bytes()[:100], "garbage": b"\0" * 500}
    path.unlink() if harm == "missing" else path.write_bytes(harms[harm])

    if (harm, suffix) == ("missing", ".json"):  # never committed
        assert newest(tmp_path).step == 10
    else:
        with pytest.warns(
            MonaisegWarning, match=r"(?s)step-000000020\..*older .*step-000000010\.pt"
        ):
            assert newest(tmp_path).step == 10


def test_training_on_after_damage_keeps_two_good_generations(tmp_path):
    commit(tmp_path, made(10))
    damaged = commit(tmp_path, made(20))
    damaged.write_bytes(b"?")

    commit(tmp_path, made(30))
    assert names(tmp_path)[1::2] == ["step-000000010.pt", "step-000000030.pt"]

    (tmp_path / "step-000000030.pt").write_bytes(b"?")
    commit(tmp_path, made(15))
    assert names(tmp_path)[1::2] == ["step-000000010.pt", "step-000000015.pt"]


def test_where_nothing_can_be_used_nothing_is_started_over(tmp_path):
    for path in [commit(tmp_path, made(step)) for step in (10, 20)]:
        path.write_bytes(b"?")

    with pytest.raises(
        CheckpointError, match=r"(?s)step-000000020.*step-000000010.*no checkpoint is left"
    ):
        newest(tmp_path)


@pytest.mark.parametrize("load", [newest, load_checkpoint])
def test_a_folder_without_commits_is_refused(tmp_path, load):
    with pytest.raises(CheckpointError, match="holds no committed checkpoint"):
        load(tmp_path)


def test_two_hundred_flipped_bits_are_all_seen(tmp_path):
    commit(tmp_path, made(10))
    path = commit(tmp_path, made(20))
    good, draw = path.read_bytes(), seeded(0)

    for _ in range(200):
        broken, bit = bytearray(good), draw.randrange(8 * len(good))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.warns(MonaisegWarning, match="is damaged"):
            assert newest(tmp_path).step == 10


def test_flipped_bits_are_seen_or_harmless_in_a_file_without_its_record(tmp_path):
    path = tmp_path / "model.pt"
    good, draw = commit(tmp_path, made(20)).read_bytes(), seeded(1)
    refused = 0

    for _ in range(300):
        broken, bit = bytearray(good), draw.randrange(8 * len(good))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            back = load_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:
            assert the_only_value(back) == 20
            assert back.settings == made().settings

    assert refused > 200  # the others hit the zip's padding and dates


def test_flipped_bits_of_a_record_are_seen_or_harmless(tmp_path):
    commit(tmp_path, made(10))
    path = commit(tmp_path, made(20)).with_suffix(".json")
    good, draw = path.read_bytes(), seeded(2)

    for _ in range(100):
        broken, bit = bytearray(good), draw.randrange(8 * len(good))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MonaisegWarning)
            back = newest(tmp_path)
        assert the_only_value(back) == back.step


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
    assert [name for name in names(folder) if name.endswith(".pt")] == [
        f"best-epoch-000{last.best.epoch}.pt", f"step-0000000{last.step}.pt", "step-000000040.pt",
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


# ---------------------------------------------------------------- what a user is handed


def test_a_file_a_run_folder_and_its_checkpoints_folder_are_taken(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    best = save_best(folder, made(10), 0.5)
    commit(folder, made(20, best=best))
    alone = tmp_path / "lpba 40.pt"
    alone.write_bytes((folder / best.file).read_bytes())

    assert load_checkpoint(tmp_path / "run").step == 10
    assert load_checkpoint(folder).step == 10
    assert load_checkpoint(str(alone)).step == 10
    assert load_checkpoint(folder / "step-000000020.pt").step == 20
    assert newest(tmp_path / "run").step == 20


@pytest.mark.parametrize("harm", ["missing", "altered", "exchanged"])
def test_a_best_that_is_not_the_one_committed_is_refused_for_prediction_and_forgotten_in_training(
    tmp_path, harm
):
    best = save_best(tmp_path, made(10), 0.5)
    commit(tmp_path, made(20, best=best))
    path = tmp_path / best.file
    if harm == "missing":
        path.unlink()
    elif harm == "altered":
        path.write_bytes(path.read_bytes()[:-1])
    else:  # a good file with a good record, but of other weights
        save_best(tmp_path, replace(made(10), network=made(11).network), 0.5)

    with pytest.raises(
        CheckpointError, match=r"best-epoch-0001\.pt.*step-000000020\.pt to use the last"
    ):
        load_checkpoint(tmp_path)
    with pytest.warns(MonaisegWarning, match="the next validation counts as the best"):
        assert newest(tmp_path).best is None


def test_a_training_without_a_step_does_not_predict_with_what_it_was_born_with(tmp_path):
    commit(tmp_path, made(0, epoch=0, history=()))

    with pytest.raises(CheckpointError, match="has not committed a step yet; wait for the first"):
        load_checkpoint(tmp_path)
    assert newest(tmp_path).step == 0


def test_a_pointer_that_leads_out_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    pointer = asdict(BEST) | {"file": "../best-epoch-0003.pt"}

    with pytest.raises(CheckpointError, match="best is missing, unknown or of the wrong kind"):
        load_checkpoint(as_file(payload_of(made()) | {"best": pointer}, path))


def test_a_training_that_moves_on_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    commit(tmp_path, made(10, best=save_best(tmp_path, made(10), 0.5)))
    load = checkpoints._load

    def slow(path, *rest):
        if path.name == "best-epoch-0001.pt" and path.exists():
            commit(tmp_path, made(20, best=save_best(tmp_path, made(20), 0.6)))
        return load(path, *rest)

    monkeypatch.setattr(checkpoints, "_load", slow)
    assert load_checkpoint(tmp_path).step == 20


def test_another_trainings_best_is_taken_along(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(), theirs.mkdir()
    best = save_best(theirs, made(10), 0.5)
    commit(theirs, made(20, best=best))

    for source in (newest(theirs), load_checkpoint(theirs)):
        assert adopt_best(ours, source) == best
    commit(ours, made(30, best=best))
    assert load_checkpoint(ours).step == 10

    (theirs / best.file).unlink()
    assert adopt_best(ours, load_checkpoint(theirs / "step-000000020.pt")) is None
    alone = tmp_path / "alone.pt"
    alone.write_bytes((ours / best.file).read_bytes())
    assert adopt_best(ours, load_checkpoint(alone)) is None


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file"),
        (b"", "not a zip file"),
        (b"settings", "not a zip file"),
        (b"PK\5\6" + bytes(18), ""),
    ],
)
def test_what_is_no_checkpoint_is_told_with_its_path(tmp_path, content, found):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match=rf"{path}: .*{found}"):
        load_checkpoint(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.pt")

    with pytest.raises(CheckpointError, match="is not a regular file; give a .pt file"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_path_with_a_nul_is_no_file():
    with pytest.raises(CheckpointError, match="give a .pt file"):
        load_checkpoint("a\0b.pt")


def test_a_newer_format_is_told_with_both_versions(tmp_path):
    path = as_file(payload_of(made(best=None)) | {"schema_version": 2}, tmp_path / "a.pt")

    with pytest.raises(CheckpointError, match="schema_version 2 and this monaiseg reads 1"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "10"},
        {"step": True},
        {"step": -1},
        {"epoch_closed": 1},
        {"network": {}},
        {"network": {"a": 1.0}},
        {"averaged": {"a": [torch.ones(1)]}},
        {"settings": {}},
        {"labels": ["left"]},
        {"spacing": (1.0, 1.0)},
        {"spacing": (1.0, 1.0, -1.0)},
        {"spacing": (1.0, 1.0, float("nan"))},
        {"history": [1]},
        {"best": {"epoch": 1}},
        {"best": {"epoch": 1, "value": 1, "file": "best-epoch-0001.pt", "sha256": ""}},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind_is_named(tmp_path, change):
    path = as_file(payload_of(made()) | change, tmp_path / "a.pt")

    with pytest.raises(
        CheckpointError, match=rf"a\.pt: {next(iter(change))} is missing, unknown or"
    ):
        load_checkpoint(path)


def test_a_missing_field_is_named(tmp_path):
    state = payload_of(made())
    del state["labels"]

    with pytest.raises(CheckpointError, match="labels is missing"):
        load_checkpoint(as_file(state, tmp_path / "a.pt"))


def test_weights_of_another_library_are_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint of monaiseg"):
        load_checkpoint(as_file({"state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pt"))


# ---------------------------------------------------------------- planted files


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("switched_off", [False, True])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, monkeypatch, form, switched_off):
    if switched_off:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, canary = tmp_path / "a.pt", tmp_path / "canary"
    state = payload_of(made()) | {"settings": Canary(canary)}
    if form == "bare":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        as_file(state, path, _use_new_zipfile_serialization=form == "zip")

    with pytest.raises(CheckpointError, match="mkdir" if form == "zip" else "not a zip file"):
        load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_pickle_of_any_protocol_does_not_run(tmp_path, protocol):
    code = pickle.dumps(Canary(tmp_path / "canary"), protocol=protocol)
    path = commit(tmp_path, made(10))
    path.with_suffix(".json").unlink()

    with pytest.raises(CheckpointError, match="opcode|refers to"):
        load_checkpoint(
            repacked(path, lambda name, old: code if name.endswith("data.pkl") else old)
        )
    assert not (tmp_path / "canary").exists()


def test_a_compressed_bomb_is_refused_before_it_unfolds(tmp_path):
    path = as_file(payload_of(made(network={"a": torch.zeros(5_000_000)})), tmp_path / "a.pt")
    repacked(path, lambda _, old: old, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000

    with pytest.raises(CheckpointError, match="claim more than the"):
        load_checkpoint(path)


def test_a_compressed_record_is_refused_however_small(tmp_path):
    path = as_file(payload_of(made()), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, record in records.items():
            is_small = name == "archive/version"
            target.writestr(name, record, zipfile.ZIP_DEFLATED if is_small else zipfile.ZIP_STORED)

    with pytest.raises(CheckpointError, match="record 'archive/version' is compressed"):
        load_checkpoint(path)


def sparse():
    return torch.eye(3).to_sparse()


def compressed_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(3).to_sparse_csr()


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "plant",
    [
        lambda: torch.zeros(1).expand(10**6, 10**6),  # a terabyte in four bytes
        lambda: torch.zeros(100)[:10],
        lambda: torch.zeros(4, 4).t(),
        lambda: torch.zeros(4, dtype=torch.complex64),
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.nn.Parameter(torch.zeros(4)),
        lambda: torch.tensor([1.0, float("nan")]),
        lambda: torch.tensor([1.0, float("inf")]),
        sparse,
        compressed_rows,
        quantized,
        lambda: OrderedDict(a=1),
        lambda: {1, 2},
        lambda: b"bytes",
        lambda: 2j,
        lambda: {(1, 2): 3},
        lambda: np.float32(1),
        lambda: torch.float32,
        lambda: torch.device("cpu"),
    ],
)
def test_anything_but_plain_values_and_dense_finite_tensors_is_refused(tmp_path, plant):
    optimizer = {"state": {0: {"planted": plant()}}}
    path = as_file(payload_of(made(optimizer=optimizer)), tmp_path / "a.pt")

    with pytest.raises(CheckpointError, match=r"\((it refers to|optimizer\.state\.0\.planted) "):
        load_checkpoint(path)


def test_nan_weights_are_refused_by_name(tmp_path):
    network = {"a": torch.tensor([0.0, float("nan")])}
    path = as_file(payload_of(made(network=network)), tmp_path / "a.pt")

    with pytest.raises(CheckpointError, match=r"network\.a holds NaN or infinite numbers"):
        load_checkpoint(path)


def test_lists_that_hold_themselves_or_unfold_without_end_are_refused(tmp_path):
    ring: list[Any] = []
    ring.append(ring)
    laughs: list[Any] = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]

    for number, planted in enumerate((ring, laughs)):
        path = as_file(payload_of(made(scheduler={"x": planted})), tmp_path / f"{number}.pt")
        with pytest.raises(CheckpointError, match="stands in two places"):
            load_checkpoint(path)


def test_a_tensor_that_claims_more_than_its_record_is_refused(tmp_path):
    path = as_file(
        payload_of(made(network={"a": torch.arange(200.0)}, optimizer=None)), tmp_path / "a.pt"
    )
    repacked(path, lambda name, old: old[:40] if name == "archive/data/0" else old)

    with pytest.raises(CheckpointError, match="record size"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["archive/code/net.py", "archive/constants.pkl", "../x", "other/data.pkl"]
)
def test_a_record_that_has_no_place_is_refused(tmp_path, name):
    path = as_file(payload_of(made()), tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")

    with pytest.raises(CheckpointError, match="has no place in a checkpoint"):
        load_checkpoint(path)


def test_a_record_that_stands_twice_is_refused(tmp_path):
    path = as_file(payload_of(made()), tmp_path / "a.pt")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/version", b"3")

    with pytest.raises(CheckpointError, match="some twice or more than 10000"):
        load_checkpoint(path)


def test_random_harm_raises_nothing_but_our_own(tmp_path):
    path, draw = tmp_path / "a.pt", seeded(3)
    buffer = io.BytesIO()
    torch.save(payload_of(made(optimizer=None)), buffer)
    good = buffer.getvalue()

    for _ in range(300):
        broken = bytearray(good)
        for _ in range(draw.randrange(1, 6)):
            start = draw.choice(
                [draw.randrange(len(good)), draw.randrange(len(good) - 1500, len(good))]
            )
            broken[start : start + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
        path.write_bytes(broken)
        try:
            load_checkpoint(path)
        except CheckpointError:
            continue


# ---------------------------------------------------------------- does it fit, and is it the same training?


def test_weights_of_another_network_are_told_by_their_first_keys(tmp_path):
    expected = {f"layer{i}.weight": torch.zeros(2, i + 1) for i in range(8)}
    weights = {f"layer{i}.weight": torch.zeros(3, i + 1) for i in range(7)} | {
        "old": torch.zeros(1)
    }

    with pytest.raises(CheckpointError) as raised:
        check_weights(weights, expected, tmp_path / "a.pt")

    message = str(raised.value)
    assert message.startswith(
        f"{tmp_path}/a.pt: its weights do not fit the network: layer7.weight is missing; old is"
    )
    assert "layer0.weight is float32 (3, 1) and float32 (2, 1) in the network" in message
    assert message.count(";") == 6
    assert "and 4 more" in message


def test_weights_that_fit_pass():
    check_weights(NETWORK.state_dict(), NETWORK.state_dict())


def fingerprinted(document=None, data=None, **changes):
    settings = settings_from_dict(document or {})
    arguments = {"num_threads": 1} | changes
    return fingerprint(settings, data or {"train/S01": "0f"}, TABLE.digest(), **arguments)


def test_the_same_training_has_the_same_fingerprint_after_a_commit(tmp_path):
    commit(tmp_path, made(10, fingerprint=fingerprinted()))

    assert difference(newest(tmp_path).fingerprint, fingerprinted()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"document": {"tsk_set": {"optim": {"lr": 0.5}}}},
            "tsk_set.optim.lr: 0.001 then, 0.5 now",
        ),
        ({"document": {"tsk_set": {"seed": 7}}}, "tsk_set.seed: 0 then, 7 now"),
        ({"num_threads": 2}, "threads: 1 then, 2 now"),
        ({"world_size": 2}, "world size: 1 then, 2 now"),
        ({"device": "NVIDIA A100"}, "device: cpu then, NVIDIA A100 now"),
        ({"data": {"train/S01": "1f"}}, "cases changed: train/S01"),
        ({"data": {"train/S01": "0f", "val/S02": "2f"}}, "cases new: val/S02"),
        ({"data": {"train/S02": "0f"}}, "cases no longer there: train/S01"),
    ],
)
def test_what_has_changed_since_is_said_in_words(changed, words):
    default_rate = Settings().tsk_set.optim.lr
    expected = words.replace("0.001 then", f"{default_rate} then")

    assert expected in difference(fingerprinted(), fingerprinted(**changed))


def test_another_label_table_is_another_training():
    other = LabelTable.from_values([1, 5]).digest()

    assert difference(fingerprinted(), fingerprinted() | {"labels": other}) == [
        "label table: other values, names or partners than then"
    ]


def test_other_versions_are_a_difference():
    old = fingerprinted()
    old["versions"] = old["versions"] | {"torch": "2.10.0"}

    assert difference(old, fingerprinted()) == [f"torch: 2.10.0 then, {torch.__version__} now"]


def test_settings_without_an_effect_on_the_weights_are_no_difference():
    document = {
        "dataset": {"cache": {"where": "disk"}},
        "tsk_set": {
            "num_workers": 3,
            "task_name": "b",
            "save_fig_on": False,
            "checkpoint_period": 1,
        },
    }

    assert difference(fingerprinted(), fingerprinted(document)) == []
    assert set(type(Settings().tsk_set).model_fields) >= checkpoints._WITHOUT_EFFECT
