"""Checkpoints: two generations, damage that is always seen, and a model that is one file."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from checkpoint_files import (
    BEST,
    NETWORK,
    TABLE,
    made,
    names,
    tensor_files,
)
from monaiseg.data.labels import LabelTable
from monaiseg.errors import CheckpointError, MonaisegWarning, NumericsError
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.checkpoint import (
    adopt_best,
    check_weights,
    commit,
    keep,
    load_checkpoint,
    newest,
    save_best,
)

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
    assert back.optimizer == listed(whole.optimizer)
    assert (type(back.channels), type(back.spacing)) == (tuple, tuple)
    assert back.versions["torch"] == torch.__version__


def listed(value):
    """The value with lists for tuples, as JSON knows no other."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value


def test_the_record_says_what_is_committed(tmp_path):
    path = commit(tmp_path, made(10, best=BEST))

    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["file"], record["step"], record["epoch"]) == (path.name, 10, 1)
    assert record["size"] == path.stat().st_size
    assert record["best"] == asdict(BEST)


def test_a_reader_without_torch_finds_settings_labels_and_history_in_the_header(tmp_path):
    raw = commit(tmp_path, made(10)).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])

    header = json.loads(raw[8 : 8 + length])
    document = json.loads(header["__metadata__"]["monaiseg"])["state"]

    assert [label["name"] for label in document["labels"]] == ["background", "label 1", "label 4"]
    assert json.loads(document["settings"])["tsk_set"]
    assert document["history"] == [{"epoch": 1, "loss": 0.5, "dice/mean": {"$number": "nan"}}]
    assert document["network"]["0.bias"] == {"$tensor": "network.0.bias"}
    start, end = header["network.0.bias"]["data_offsets"]
    assert struct.unpack("<2f", raw[8 + length :][start:end]) == (10.0, 10.0)


def test_the_safetensors_library_reads_the_weights_as_its_documentation_says(tmp_path):
    save_best(tmp_path, made(10), 0.5)

    with safe_open(tmp_path / "best-epoch-0001.safetensors", "pt") as file:
        state = json.loads(file.metadata()["monaiseg"])["state"]
        weights = {key: file.get_tensor(it["$tensor"]) for key, it in state["network"].items()}

    NETWORK.load_state_dict(weights)
    assert [*weights] == [*NETWORK.state_dict()]


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


def test_weights_that_share_their_memory_come_back_each_on_its_own(tmp_path):
    whole = torch.arange(4.0)
    network = {"a": whole, "b": whole, "half": whole[:2], "none": whole[:0], "other": whole[:0]}

    back = load_checkpoint(commit(tmp_path, made(10, network=network))).network

    assert all(torch.equal(back[name], value) for name, value in network.items())
    assert len({back[name].data_ptr() for name in ("a", "b", "half")}) == 3


@pytest.mark.parametrize(
    "value",
    [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**63, 10**30, -1, True, None, "é\ud7ff\0"],
)
def test_plain_values_come_back_exactly(tmp_path, value):
    back = load_checkpoint(commit(tmp_path, made(10, scheduler={"a": [value]}))).scheduler

    assert repr(back) == repr({"a": [value]})


@pytest.mark.parametrize(
    "value", [Path("x"), {1, 2}, b"bytes", np.zeros(2), object(), 2j, torch.float32]
)
def test_what_strict_loading_would_refuse_is_not_written(tmp_path, value):
    with pytest.raises(TypeError, match=r"history\.0\.odd is a"):
        commit(tmp_path, made(10, history=[{"odd": value}]))

    assert names(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_committed(tmp_path, value):
    commit(tmp_path, made(10))
    broken = made(20).network | {"0.bias": torch.tensor([1.0, value])}

    with pytest.raises(NumericsError, match=r"step 20: network\.0\.bias has NaN or infinite"):
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

    assert tensor_files(tmp_path) == [
        "best-epoch-0003.safetensors",
        "epoch-0002.safetensors",
        "step-000000040.safetensors",
        "step-000000050.safetensors",
    ]
    assert all((tmp_path / name).with_suffix(".json").exists() for name in names(tmp_path))
    assert newest(tmp_path).step == 50
    assert load_checkpoint(tmp_path).epoch == 3


def test_the_best_is_light_and_knows_no_case(tmp_path):
    save_best(tmp_path, made(10, averaged={"a": torch.ones(2)}), 0.5)

    path = tmp_path / "best-epoch-0001.safetensors"
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
        "step-000000010.json", "step-000000010.safetensors", "step-000000020.json", "step-000000020.safetensors",
    ]  # fmt: skip


def test_leftovers_of_a_kill_are_cleared_away_and_the_users_files_are_not(tmp_path):
    for name in (
        "step-000000005.safetensors",
        ".monaiseg-0f.tmp",
        "notes.txt",
        "model.safetensors",
    ):
        (tmp_path / name).write_bytes(b"?")

    commit(tmp_path, made(10))

    assert names(tmp_path) == [
        "model.safetensors",
        "notes.txt",
        "step-000000010.json",
        "step-000000010.safetensors",
    ]


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
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
            MonaisegWarning, match=r"(?s)step-000000020\..*older .*step-000000010\.safetensors"
        ):
            assert newest(tmp_path).step == 10


def test_training_on_after_damage_keeps_two_good_generations(tmp_path):
    commit(tmp_path, made(10))
    damaged = commit(tmp_path, made(20))
    damaged.write_bytes(b"?")

    commit(tmp_path, made(30))
    assert names(tmp_path)[1::2] == ["step-000000010.safetensors", "step-000000030.safetensors"]

    (tmp_path / "step-000000030.safetensors").write_bytes(b"?")
    commit(tmp_path, made(15))
    assert names(tmp_path)[1::2] == ["step-000000010.safetensors", "step-000000015.safetensors"]


def test_where_nothing_can_be_used_nothing_is_started_over(tmp_path):
    for path in [commit(tmp_path, made(step)) for step in (10, 20)]:
        path.write_bytes(b"?")

    with pytest.raises(
        CheckpointError, match=r"(?s)step-000000020.*step-000000010.*no usable checkpoint is left"
    ):
        newest(tmp_path)


@pytest.mark.filterwarnings("error::monaiseg.errors.MonaisegWarning")
@pytest.mark.parametrize("suffix", [".postprocessing.json", ".mirroring.json"])
def test_a_file_about_a_commit_is_no_commit_and_goes_with_it(suffix, tmp_path):
    beside = commit(tmp_path, made(10)).with_suffix(suffix)
    beside.write_text("{}")

    assert newest(tmp_path).step == 10
    commit(tmp_path, made(20))
    assert beside.exists()
    commit(tmp_path, made(30))
    assert not beside.exists()
    assert newest(tmp_path).step == 30


@pytest.mark.parametrize("load", [newest, load_checkpoint])
def test_a_folder_without_commits_is_refused(tmp_path, load):
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        load(tmp_path)


# ---------------------------------------------------------------- what a user is handed


def test_a_file_a_run_folder_and_its_checkpoints_folder_are_taken(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    best = save_best(folder, made(10), 0.5)
    commit(folder, made(20, best=best))
    alone = tmp_path / "lpba 40.safetensors"
    alone.write_bytes((folder / best.file).read_bytes())

    assert load_checkpoint(tmp_path / "run").step == 10
    assert load_checkpoint(folder).step == 10
    assert load_checkpoint(str(alone)).step == 10
    assert load_checkpoint(folder / "step-000000020.safetensors").step == 20
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
        CheckpointError,
        match=r"best-epoch-0001\.safetensors.*step-000000020\.safetensors to use the last",
    ):
        load_checkpoint(tmp_path)
    with pytest.warns(MonaisegWarning, match="the next validation will be the best"):
        assert newest(tmp_path).best is None


def test_a_training_without_a_step_does_not_predict_with_what_it_was_born_with(tmp_path):
    commit(tmp_path, made(0, epoch=0, history=()))

    with pytest.raises(CheckpointError, match="has not saved a checkpoint yet; wait for the first"):
        load_checkpoint(tmp_path)
    assert newest(tmp_path).step == 0


def test_a_training_that_moves_on_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    commit(tmp_path, made(10, best=save_best(tmp_path, made(10), 0.5)))
    load = checkpoints._load

    def slow(path, *rest):
        if path.name == "best-epoch-0001.safetensors" and path.exists():
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
    assert adopt_best(ours, load_checkpoint(theirs / "step-000000020.safetensors")) is None
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((ours / best.file).read_bytes())
    assert adopt_best(ours, load_checkpoint(alone)) is None


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file"),
        (b"", "does not start as a .safetensors file"),
        (b"settings", "does not start as a .safetensors file"),
        (b'{"tsk_set": {}}', "does not start as a .safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_told_with_its_path(tmp_path, content, found):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CheckpointError, match=rf"{path}: .*{found}"):
        load_checkpoint(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")

    with pytest.raises(CheckpointError, match="is not a regular file; give a .safetensors file"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_path_with_a_nul_is_no_file():
    with pytest.raises(CheckpointError, match="give a .safetensors file"):
        load_checkpoint("a\0b.safetensors")


# ---------------------------------------------------------------- does it fit, and is it the same training?


def test_weights_of_another_network_are_told_by_their_first_keys(tmp_path):
    expected = {f"layer{i}.weight": torch.zeros(2, i + 1) for i in range(8)}
    weights = {f"layer{i}.weight": torch.zeros(3, i + 1) for i in range(7)} | {
        "old": torch.zeros(1)
    }

    with pytest.raises(CheckpointError) as raised:
        check_weights(weights, expected, tmp_path / "a.safetensors")

    message = str(raised.value)
    assert message.startswith(
        f"{tmp_path}/a.safetensors: its weights do not fit the network: layer7.weight is missing; old is"
    )
    assert "layer0.weight is float32 (3, 1), but float32 (2, 1) in the network" in message
    assert message.count(";") == 6
    assert "and 4 more" in message


def test_weights_that_fit_pass():
    check_weights(NETWORK.state_dict(), NETWORK.state_dict())
