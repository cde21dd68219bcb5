"""Devices: what is asked for is there, and is the one that is seeded."""

from __future__ import annotations

import pytest
import torch

from monaiseg.errors import SettingsError
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
