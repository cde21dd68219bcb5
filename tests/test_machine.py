"""The machine: what a process may use is the least of what the computer has and its containers allow."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import monaiseg
from children import in_child
from monaiseg import machine
from monaiseg.data import nifti

GIB = 2**30


@pytest.fixture
def container(monkeypatch, tmp_path):
    """Lays out control groups for a computer of 8 cores and 64 GiB, of which 48 are free."""
    memory = SimpleNamespace(total=64 * GIB, available=48 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: list(range(8)), raising=False)
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")

    def lay_out(membership: str, files: dict[str, object]) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")

    return lay_out


def test_without_a_container_all_of_the_computer_may_be_used(container):
    assert machine.usable_cores() == 8
    assert machine.memory_limit() == 64 * GIB
    assert machine.free_memory() == 48 * GIB


@pytest.mark.parametrize(
    ("words", "cores"), [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("", 8)]
)
def test_a_container_of_version_2_may_have_fewer_cores(container, words, cores):
    container("0::/\n", {"cpu.max": words})
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8), (150_000, 2), (10_000, 1)])
def test_a_container_of_version_1_may_have_fewer_cores(container, quota, cores):
    container(
        "4:memory:/\n2:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": 100_000},
    )
    assert machine.usable_cores() == cores


def test_files_that_were_read_before_are_free_memory(container):
    container(
        "0::/\n",
        {
            "memory.max": 8 * GIB,
            "memory.current": 6 * GIB,
            "memory.stat": f"anon 5\ninactive_file {GIB}",
        },
    )
    assert machine.memory_limit() == 8 * GIB
    assert machine.free_memory() == 3 * GIB


def test_a_container_of_version_1_has_what_its_limit_leaves(container):
    container(
        "4:memory:/\n",
        {
            "memory/memory.limit_in_bytes": 8 * GIB,
            "memory/memory.usage_in_bytes": 6 * GIB,
            "memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}",
        },
    )
    assert machine.memory_limit() == 8 * GIB
    assert machine.free_memory() == 3 * GIB


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_a_group_without_a_limit_limits_nothing(container, limit):
    container("0::/\n", {"memory.max": limit, "memory.current": 6 * GIB, "memory.stat": ""})
    assert machine.memory_limit() == 64 * GIB
    assert machine.free_memory() == 48 * GIB


def test_the_narrowest_of_nested_groups_counts(container):
    """A job of a cluster: the user's slice allows 16 GiB and 4 cores, the job 32 GiB and 2 cores."""
    container(
        "0::/user/job/step\n",
        {
            "user/memory.max": 16 * GIB,
            "user/memory.current": 10 * GIB,
            "user/memory.stat": "",
            "user/cpu.max": "400000 100000",
            "user/job/memory.max": 32 * GIB,
            "user/job/memory.current": 4 * GIB,
            "user/job/memory.stat": "",
            "user/job/cpu.max": "200000 100000",
        },
    )
    assert machine.memory_limit() == 16 * GIB
    assert machine.free_memory() == 6 * GIB
    assert machine.usable_cores() == 2


@pytest.mark.parametrize("path", ["/docker/0f3a", "/../../elsewhere"])
def test_a_container_that_is_told_the_hosts_path_finds_its_own_at_the_root(container, path):
    container(
        f"0::{path}\n",
        {"memory.max": 4 * GIB, "memory.current": 5 * GIB, "memory.stat": "", "cpu.max": "1 1"},
    )
    assert machine.memory_limit() == 4 * GIB
    assert machine.free_memory() == 0
    assert machine.usable_cores() == 1


def test_limits_of_another_group_do_not_count(container):
    container("0::/mine\n", {"other/memory.max": GIB, "other/memory.current": 0})
    assert machine.memory_limit() == 64 * GIB


def test_threads_that_read_are_no_more_than_the_cores_of_the_container(container):
    assert (machine.reading_threads(), machine.reading_threads(most=16)) == (4, 8)
    container("0::/\n", {"cpu.max": "100000 100000"})
    assert machine.reading_threads() == 1


def test_a_volume_may_take_half_of_what_the_container_may(container):
    container("0::/\n", {"memory.max": 8 * GIB, "memory.current": 0, "memory.stat": ""})
    assert nifti.default_cap_bytes() == 4 * GIB


def test_a_process_knows_its_memory():
    block = bytearray(os.urandom(1 << 16) * 256)  # 16 MiB, all of it touched

    assert len(block) < machine.process_memory() <= machine.peak_process_memory()
    assert machine.process_memory() < 2**40


def test_nothing_else_asks_the_system_for_cores_or_memory():
    asks = re.compile(
        r"sysconf|sched_getaffinity|cpu_count|cpu_affinity|meminfo|getrusage|virtual_memory|cgroup|import psutil"
    )
    package = Path(monaiseg.__file__).parent
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if asks.search(path.read_text(encoding="utf-8"))
    }

    assert asking == {"machine.py"}


def test_a_limit_of_the_address_space_is_a_limit_of_memory():
    """`ulimit -v`, as cluster jobs have it; the child is born with what this process has."""
    found = in_child(machine.free_memory, memory_bytes=64 << 20).result

    assert 0 < found <= 64 << 20
