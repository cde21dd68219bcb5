"""Probes: what is measured, and what is said where nothing can be."""

from __future__ import annotations

import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from monaiseg.errors import SettingsError
from monaiseg.planning import measuring, probes
from monaiseg.planning.layout import layout
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option
from monaiseg.planning.questions import MeasuringProcess
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from plans import GIB, GPU, RULES, even, machine, on_gpu


def _starved() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


def small() -> Settings:
    """The settings of the smallest step."""
    option = Option("folded", 16, (16, 16, 16), 1)
    return layout(option, even((16, 16, 16)), Limits(1, 1, 1), RULES)


def ask() -> None:
    with MeasuringProcess() as process:
        process.run([(small(), 2)], None, (1.0, 1.0, 1.0), cores=1)


def _broken() -> None:
    raise RuntimeError("shapes differ")


def test_memory_that_runs_out_in_a_probe_leaves_the_option_out():
    assert probes._apart(_starved) is None
    with pytest.raises(RuntimeError, match="shapes differ"):
        probes._apart(_broken)


def test_what_keeps_a_probe_from_measuring_is_said(monkeypatch):
    monkeypatch.setattr("monaiseg.planning.probes.sys.executable", shutil.which("false"))

    with pytest.raises(
        SettingsError, match=r"could not be measured: the process ended with exit code 1;"
    ):
        ask()


def test_without_a_gpu_to_measure_a_plan_for_one_wants_measurements(data_task):
    from monaiseg.planning.planner import plan

    with pytest.raises(SettingsError, match="--measurements"):
        plan(
            data_task.folder.parent,
            data_task.folder.name,
            minutes=10,
            memory_gb=4,
            gpu_memory_gb=8,
        )


def test_a_step_that_did_not_fit_a_gpu_is_not_planned_again(monkeypatch):
    monkeypatch.setattr("monaiseg.planning.measuring.free_memory", lambda: GIB)  # of the computer
    scans = even((120, 120, 120))
    option = Option("standard", 32, (64, 64, 64), 2)

    failed = measuring._too_large(option, scans, GPU, on_gpu(machine(scans)))

    assert failed.step_bytes > GPU.gpu_memory_gb * GIB


def test_the_step_of_more_classes_than_a_byte_holds_is_measured():
    settings = layout(
        Option("folded", 16, (16, 16, 16), 1), even((16, 16, 16)), Limits(1, 1, 1), RULES
    )

    measured = probes._step_costs(dump_settings(settings), 300, (1.0, 1.0, 1.0), 1, "cpu")

    assert measured["num_classes"] == 300
    assert measured["step_seconds"] > 0


def test_a_measuring_process_that_the_system_kills_is_said(monkeypatch, tmp_path):
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr("monaiseg.planning.probes.sys.executable", str(killed))

    with pytest.raises(SettingsError, match="the system killed .* memory runs out"):
        ask()


def test_where_not_even_the_smallest_step_fits_it_is_said_with_its_size():
    data = machine(even((60, 60, 60))).data
    process = SimpleNamespace(run=lambda steps, *_, **__: ([None] * len(steps), data))

    with pytest.raises(
        SettingsError, match=r"a step with 4 patches .* and 16 channels, the smallest"
    ):
        measuring.measure(even((60, 60, 60)), Limits(60, 2, 8), RULES, process)


def test_one_process_answers_several_questions_and_starts_once():
    settings = small()
    seen = []
    with MeasuringProcess() as process:
        ((first,), data), ((second,), none) = (
            process.run(
                [(settings, 2)], asked, (1.0, 1.0, 1.0), cores=1, on_probe=lambda: seen.append(1)
            )
            for asked in ((settings, (16, 16, 16), 2), None)
        )
        again, begun = process._process.pid, time.monotonic()

    assert first.parameters == second.parameters
    assert none is None
    assert data.start_seconds > 0.5  # torch is imported once
    assert len(seen) == 3  # the data, and two steps
    assert again == process._process.pid
    assert time.monotonic() - begun < 5


def test_a_gpu_measures_all_steps_in_one_process_and_gives_its_memory_back(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))

    assert probes._in_place(_starved) is None
    assert probes._in_place(dict, {"a": 1}) == {"a": 1}
    with pytest.raises(RuntimeError, match="shapes differ"):
        probes._in_place(_broken)
    assert len(freed) == 3
