"""Training by several processes: the same draws, equal weights everywhere, one folder, one stop, one result."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monaiseg.data.data_tasks import DataTask
from monaiseg.errors import CheckpointError
from monaiseg.settings.reading import changed
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.run import train
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.sampling import EpochSampler

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]

LEAVING = """
import sys, torch
from pathlib import Path
from torch import distributed as groups, nn
from monaiseg.training import distributed

def say(when):
    names = {path.read_text() for path in Path("/proc/self/task").glob("*/comm")}
    sys.stdout.write(f"{when} {'gloo' if any('gloo' in name for name in names) else 'none'}\\n")

for number in range(30):
    store = groups.FileStore(f"{sys.argv[1]}/{number}", 2)
    groups.init_process_group("gloo", store=store, rank=int(sys.argv[2]), world_size=2)
    network = distributed.shared(nn.Linear(64, 64), torch.device("cpu"))
    for _ in range(3):
        network(torch.ones(2, 64)).sum().backward()
    assert distributed.means([distributed.rank()]) == [0.5]
    distributed.exchanged({"a": 1})
    counted = torch.tensor([distributed.rank()])
    distributed.take_from_first([counted])
    assert counted.item() == 0
    if number == 0:
        say("joined:")
    distributed.leave()
say("left:")
"""


def command(task: DataTask, name: str, settings: Settings, *options: str) -> list[str]:
    """What a user types after `torchrun`."""
    root = task.folder.parent
    file = root / f"{name}.json"
    file.write_text(dump_settings(settings))
    place = ["-o", str(root), "-dtn", task.folder.name, "-tn", name]
    return ["-m", "monaiseg", "train", "-ts", str(file), *place, *options]


def started(words: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def start_two(task: DataTask, name: str, settings: Settings, *options: str) -> subprocess.Popen:
    """Two processes on one computer, by torchrun."""
    together = ["--standalone", "--nproc_per_node", "2"]
    return started([*TORCHRUN, *together, *command(task, name, settings, *options)])


def train_by_two(task: DataTask, name: str, settings: Settings, *options: str) -> str:
    process = start_two(task, name, settings, *options)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


@pytest.mark.skipif(sys.platform != "linux", reason="threads are named in /proc")
def test_nothing_of_the_group_is_left_and_nothing_waits_for_ever(tmp_path):
    """A thread that is still at work when Python ends aborts the process; one that is waited for may want its lock."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVING, str(tmp_path), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=900)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], outputs
    assert all("joined: gloo" in output and "left: none" in output for output in outputs), outputs


@pytest.fixture
def short(settings: Settings) -> Settings:
    """Two epochs in float32, with augmentation; the loss sums over the batch.

    By SGD: Adam takes steps of one length along gradients that are wrong by a factor, or nothing but rounding.
    """
    return changed(
        settings,
        {
            "tsk_set.epochs": 2,
            "tsk_set.val_period": 1,
            "tsk_set.amp": False,
            "tsk_set.loss.batch_dice": True,
            "tsk_set.optim.optim_type": "sgd",
            "tsk_set.optim.sgd.momentum": 0.9,
            "dataset.seg.augmentation.enabled": True,
        },
    )


def assert_same_training(two: Path, one: Path) -> None:
    """Sums are taken in another order, so the weights differ in their last digits only."""
    found, wanted = checkpoints.newest(two), checkpoints.newest(one)
    for name, weights in wanted.network.items():
        torch.testing.assert_close(found.network[name], weights, rtol=0, atol=1e-4)
    losses = [row["loss"] for row in wanted.history]
    assert [row["loss"] for row in found.history] == pytest.approx(losses, rel=1e-4)
    assert found.best.value == pytest.approx(wanted.best.value, abs=0.01)


def test_ranks_share_every_batch_and_draw_what_one_process_draws():
    def keys(rank: int, num_ranks: int, skip: int = 0) -> list[tuple[int, int, int]]:
        sampler = EpochSampler(3, 12, seed=0, batch_size=4, rank=rank, num_ranks=num_ranks)
        assert len(sampler) == 12 // num_ranks
        return list(sampler.keys(epoch=2, skip=skip))

    alone, first, second = keys(0, 1), keys(0, 2), keys(1, 2)

    batches = [alone[start : start + 4] for start in range(0, 12, 4)]
    assert [first[n : n + 2] + second[n : n + 2] for n in range(0, 6, 2)] == batches
    assert keys(1, 2, skip=4) == second[2:]


def train_alone(task: DataTask, name: str, settings: Settings, **options: object) -> Path:
    return train(
        settings,
        output_root_path=task.folder.parent,
        data_task_name=task.folder.name,
        task_name=name,
        **options,
    ).run_folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        {"type": "dice_ce"},
        {"type": "gdice"},
        {"type": "ce", "ce": {"class_weight": [0.1, 1.0, 5.0], "include_background": False}},
    ],
    ids=lambda loss: loss["type"],
)
def test_two_processes_train_what_one_trains(loss, short, data_task):
    chosen = changed(short, {f"tsk_set.loss.{key}": value for key, value in loss.items()})
    said = train_by_two(data_task, "two", chosen)
    one = train_alone(data_task, "one", chosen)

    assert_same_training(data_task.folder / "two", one)
    assert said.count(" per epoch") == said.count("best mean Dice") == 1
    assert "2 processes" in said
    with pytest.raises(CheckpointError, match="world size: 2 then, 1 now"):
        train_alone(data_task, "two", chosen, resume=True)


ENDS, ADDRESSES = ("monaiseg0", "monaiseg1"), ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def nodes() -> Iterator[list[list[str]]]:
    """Commands that run another one on either of two computers, each with a network of its own and a cable between."""
    names = [f"monaiseg-{os.getpid()}-{letter}" for letter in "ab"]
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
            if made.returncode:
                pytest.skip("no networks of one's own can be made here")
        cable = "ip link add name {0} netns {2} type veth peer name {1} netns {3}".format(
            *ENDS, *names
        )
        subprocess.run(cable.split(), check=True)
        for name, end, address in zip(names, ENDS, ADDRESSES, strict=True):
            for words in (
                f"addr add {address}/24 dev {end}",
                f"link set {end} up",
                "link set lo up",
            ):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield [["ip", "netns", "exec", name] for name in names]
    except FileNotFoundError:
        pytest.skip("there is no program `ip` here")
    finally:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_computers_train_what_one_trains(nodes, short, data_task):
    """Two network namespaces stand for two computers, which see the same disk."""
    words = command(data_task, "two", short)
    meeting = ["--nnodes", "2", "--nproc_per_node", "1"]
    meeting += ["--master_addr", ADDRESSES[0], "--master_port", "29507"]
    processes = [
        started(
            [*node, *TORCHRUN, *meeting, "--node_rank", str(number), *words],
            GLOO_SOCKET_IFNAME=ENDS[number],
        )
        for number, node in enumerate(nodes)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    assert " per epoch" in outputs[0]
    assert " per epoch" not in outputs[1]
    assert_same_training(data_task.folder / "two", train_alone(data_task, "one", short))


@pytest.mark.slow
def test_a_folder_that_is_taken_is_named_once_and_blames_no_process_of_the_same_training(
    short, data_task
):
    with RunFolder.of(data_task.folder, "taken").opened(resume=False):
        process = start_two(data_task, "taken", short)
        output, _ = process.communicate(timeout=200)

    assert process.returncode != 0
    assert output.count("is training here") == 1
    assert f"process {os.getpid()} on" in output


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_resume_to_the_same_weights(short, data_task):
    long = changed(short, {"tsk_set.epochs": 4, "tsk_set.max_batch_num_per_epoch": [8, -1, -1]})
    train_by_two(data_task, "whole", long)
    process = start_two(data_task, "stopped", long)
    history = data_task.folder / "stopped" / "history.csv"
    while process.poll() is None and not history.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)

    assert checkpoints.newest(data_task.folder / "stopped").step < 32
    train_by_two(data_task, "stopped", long, "--resume")

    whole, resumed = (checkpoints.newest(data_task.folder / n) for n in ("whole", "stopped"))
    assert all(torch.equal(whole.network[name], value) for name, value in resumed.network.items())
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


@pytest.mark.slow
def test_the_fault_of_one_process_ends_all(short, data_task):
    """The second process alone draws from this case in the first step."""
    (case,) = data_task.cases["val"]
    Path(case.images[0]).write_bytes(b"damaged")

    process = start_two(data_task, "faulty", changed(short, {"dataset.cache.where": "none"}))
    output, _ = process.communicate(timeout=900)

    assert process.returncode != 0
    assert case.id in output
