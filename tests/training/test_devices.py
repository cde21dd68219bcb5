"""Devices: what is asked for is there, and is the one that is seeded."""

from __future__ import annotations

import os

import pytest
import torch

from monaiseg.errors import SettingsError
from monaiseg.settings.reading import changed
from monaiseg.settings.settings import Settings
from monaiseg.training import devices
from monaiseg.training.devices import choose_device


def test_a_gpu_that_is_chosen_becomes_the_current_one(monkeypatch):
    """Seeds and pinned memory are those of the current GPU, which is the first unless somebody says otherwise."""
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    assert [str(choose_device(wanted)) for wanted in (1, None, -1, "cpu")] == [
        "cuda:1",
        "cuda:0",
        "cpu",
        "cpu",
    ]
    assert current == [torch.device("cuda:1"), torch.device("cuda:0")]
    with pytest.raises(SettingsError, match="GPUs 0 to 1"):
        choose_device(2)


@pytest.fixture
def one_gpu(monkeypatch):
    """torch sees a GPU of 80 GiB of which other programs have taken 30."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (50 * 2**30, 80 * 2**30))


def test_a_gpu_is_said_with_its_name_and_its_free_memory(one_gpu):
    assert devices.device_in_words(choose_device()) == "cuda:0 (NVIDIA A100, 50.0 GiB free)"
    assert devices.device_in_words(choose_device(-1)) == "cpu"


PLANNED = {"tsk_set.gpu_id": 0, "tsk_set.budget_minutes": 20, "tsk_set.data_task_name": "scans"}


def test_a_plan_for_a_gpu_is_refused_without_one_with_the_command_that_plans_anew():
    planned = changed(Settings(), PLANNED | {"tsk_set.output_root_path": "work"})
    anew = "`monaiseg plan work/scans --minutes 20 --force`"

    with pytest.raises(SettingsError, match=f"no GPU on this computer; plan anew with {anew}"):
        devices.check_planned_device(planned)
    devices.check_planned_device(planned, -1)  # --device cpu
    devices.check_planned_device(changed(planned, {"tsk_set.budget_minutes": None}))  # EasyReg's


def test_a_plan_for_a_gpu_is_taken_where_it_is(one_gpu):
    devices.check_planned_device(changed(Settings(), PLANNED))


def test_a_gpu_that_a_plan_leaves_unused_is_named(one_gpu):
    planned = changed(Settings(), PLANNED | {"tsk_set.gpu_id": -1})

    assert devices.gpu_to_plan_for(planned, torch.device("cpu")) == "NVIDIA A100"
    assert devices.gpu_to_plan_for(Settings(), torch.device("cpu")) is None
    assert devices.gpu_to_plan_for(planned, torch.device("cuda:0")) is None


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gpu_computes_exactly_if_the_settings_say_so_and_a_cpu_always_does(monkeypatch, wanted):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for module, name in (
        (torch.backends.cudnn, "deterministic"),
        (torch.backends.cudnn, "benchmark"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back at the end

    devices.compute_exactly(torch.device("cpu"), wanted=wanted)
    assert asked == []
    devices.compute_exactly(torch.device("cuda:0"), wanted=wanted)

    assert asked == [wanted]
    assert torch.backends.cudnn.deterministic is wanted
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
