"""The handlers of a training, and what is said of them."""

from __future__ import annotations

import re

import pytest
import torch

from monaiseg.settings.reading import changed
from monaiseg.training.recipe import Recipe
from monaiseg.training.run import build_training
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.wiring import handlers_in_words, train_handlers


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tsk_set.gradient_clip": 1.0, "tsk_set.weight_averaging": 0.9},
        {"tsk_set.budget_minutes": 1.0, "tsk_set.save_fig_on": False},
    ],
)
def test_the_handlers_that_are_told_are_those_that_act(settings, data_task, changes, monkeypatch):
    settings = changed(settings, changes)
    made = []
    monkeypatch.setattr(
        "monaiseg.training.run.train_handlers",
        lambda *given, **named: made.extend(train_handlers(*given, **named)) or made,
    )
    folder = RunFolder.of(data_task.folder, "told")
    with folder.opened(resume=False):
        build_training(Recipe.of(settings, data_task, torch.device("cpu")), folder)

    told = [re.match(r"\w+", line)[0] for line in handlers_in_words(settings)]
    assert told == [type(handler).__name__ for handler in made]
