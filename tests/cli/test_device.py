"""The device: chosen by itself, said in one line, and refused where a plan was for another."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from monaiseg.cli import app, options
from monaiseg.settings.reading import changed
from monaiseg.settings.writing import dump_settings


@pytest.fixture
def planned_for_a_gpu(settings, data_task):
    """Settings as `plan` writes them on a computer with a GPU: two epochs in half a minute."""
    file = data_task.folder / "settings.json"
    changes = {
        "tsk_set.gpu_id": 0,
        "tsk_set.budget_minutes": 0.5,
        "tsk_set.epochs": 2,
        "tsk_set.max_batch_num_per_epoch": [3, -1, 0],
        "dataset.seg.patch_size": [32, 32, 32],
    }
    file.write_text(dump_settings(changed(settings, changes)))
    return data_task.folder


def test_a_plan_for_a_gpu_is_refused_without_one(planned_for_a_gpu):
    words = ["train", str(planned_for_a_gpu), "--name", "first"]

    refused = CliRunner().invoke(app, words)

    assert refused.exit_code == 2
    assert f"monaiseg plan {planned_for_a_gpu} --minutes 0.5 --force" in refused.stderr
    assert not (planned_for_a_gpu / "first").exists()


def test_with_the_device_cpu_it_is_taken_with_an_estimate(planned_for_a_gpu):
    words = ["train", str(planned_for_a_gpu), "--name", "first", "--device", "cpu"]

    trained = CliRunner().invoke(app, words, catch_exceptions=False)

    assert trained.exit_code == 0, trained.output
    assert "their steps take about 0 minutes on this CPU" in trained.stderr
    assert (
        f"`monaiseg plan {planned_for_a_gpu} --minutes 0.5 --device cpu --force`" in trained.stderr
    )


def test_a_gpu_is_used_by_itself_and_said_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (50 * 2**30, 80 * 2**30))

    found = [str(options.device_named(*given)) for given in ((None, None), ("cuda:1", 1), ("cpu", None))]  # fmt: skip

    assert found == ["cuda:0", "cuda:1", "cpu"]
    assert capsys.readouterr().out.splitlines() == [
        f"computing on cuda:{n} (NVIDIA A100, 50.0 GiB free)" for n in (0, 1)
    ]
