"""Training by several processes: the same draws, equal weights everywhere, one folder, one stop, one result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
from monaiseg.training.sampling import EpochSampler

PROGRAM = """
import json, sys
from pathlib import Path
from monaiseg.training import distributed
from monaiseg.training import newest
from monaiseg.settings import load_settings
from monaiseg.training import train
root, name, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
distributed.join()
result = train(load_settings(root / f"{name}.json"), output_root_path=root, data_task_name="phantoms", task_name=name, **options)
distributed.leave()
sys.exit(130 if result.interrupted else 0)
"""

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


def start_two(task: DataTask, name: str, settings: Settings, **options: object) -> subprocess.Popen:
    """Two processes on one computer, as torchrun starts them."""
    root = task.folder.parent
    (root / f"{name}.json").write_text(dump_settings(settings))
    (root / "program.py").write_text(PROGRAM)
    words = ["--standalone", "--nproc_per_node", "2", str(root / "program.py"), str(root), name]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def train_by_two(task: DataTask, name: str, settings: Settings, **options: object) -> str:
    process = start_two(task, name, settings, **options)
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
def separable(settings: Settings) -> Settings:
    """Two epochs in float32 whose loss is a mean over patches, so that a batch may be computed in parts."""
    return changed(
        settings,
        {
            "tsk_set.epochs": 2,
            "tsk_set.val_period": 1,
            "tsk_set.amp": False,
            "tsk_set.loss.type": "ce",
            "tsk_set.optim.lr": 0.001,
            "dataset.seg.augmentation.enabled": True,
        },
    )


def test_ranks_share_every_batch_and_draw_what_one_process_draws():
    def keys(rank: int, num_ranks: int, skip: int = 0) -> list[tuple[int, int, int]]:
        sampler = EpochSampler(3, 12, seed=0, batch_size=4, rank=rank, num_ranks=num_ranks)
        assert len(sampler) == 12 // num_ranks
        return list(sampler.keys(epoch=2, skip=skip))

    alone, first, second = keys(0, 1), keys(0, 2), keys(1, 2)

    batches = [alone[start : start + 4] for start in range(0, 12, 4)]
    assert [first[n : n + 2] + second[n : n + 2] for n in range(0, 6, 2)] == batches
    assert keys(1, 2, skip=4) == second[2:]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(separable, data_task):
    """Sums are taken in another order, so the weights differ in their last digits only."""
    train_by_two(data_task, "two", separable)
    alone = train(
        separable,
        output_root_path=data_task.folder.parent,
        data_task_name=data_task.folder.name,
        task_name="one",
    )

    two, one = (checkpoints.newest(data_task.folder / name) for name in ("two", "one"))
    for name, weights in one.network.items():
        torch.testing.assert_close(two.network[name], weights, rtol=1e-3, atol=1e-5)
    assert [row["loss"] for row in two.history] == pytest.approx(
        [row["loss"] for row in one.history], rel=1e-4
    )
    assert two.best.value == pytest.approx(alone.best.value, abs=0.01)

    with pytest.raises(CheckpointError, match="world size: 2 then, 1 now"):
        train(
            separable,
            output_root_path=data_task.folder.parent,
            data_task_name=data_task.folder.name,
            task_name="two",
            resume=True,
        )


@pytest.mark.slow
def test_two_processes_stop_at_one_step_and_resume_to_the_same_weights(separable, data_task):
    long = changed(separable, {"tsk_set.epochs": 4, "tsk_set.max_batch_num_per_epoch": [8, -1, -1]})
    train_by_two(data_task, "whole", long)
    process = start_two(data_task, "stopped", long)
    history = data_task.folder / "stopped" / "history.csv"
    while process.poll() is None and not history.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=900)

    assert checkpoints.newest(data_task.folder / "stopped").step < 32
    train_by_two(data_task, "stopped", long, resume=True)

    whole, resumed = (checkpoints.newest(data_task.folder / n) for n in ("whole", "stopped"))
    assert all(torch.equal(whole.network[name], value) for name, value in resumed.network.items())
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


@pytest.mark.slow
def test_the_fault_of_one_process_ends_all(separable, data_task):
    """The second process alone draws from this case in the first step."""
    (case,) = data_task.cases["val"]
    Path(case.images[0]).write_bytes(b"damaged")

    process = start_two(data_task, "faulty", changed(separable, {"dataset.cache.where": "none"}))
    output, _ = process.communicate(timeout=900)

    assert process.returncode != 0
    assert case.id in output
