"""History: one row an epoch."""

from __future__ import annotations

import csv
import math

import pytest

from monaiseg.errors import MonaisegWarning
from monaiseg.training.handlers.history import History
from plain_trainer import one_weight, plain_trainer


def test_each_epoch_has_its_step_mean_loss_and_rate(tmp_path):
    plain_trainer([History(tmp_path / "history.csv")]).run()

    with (tmp_path / "history.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["epoch"], first["step"], second["step"]) == ("1", "3", "6")
    assert float(second["loss"]) < float(first["loss"])
    assert first["learning_rate"] == "0.01"


def test_the_loss_is_the_mean_of_the_epochs_steps(tmp_path):
    """The weight rises 0, 1/4 in the first epoch, 1/2, 3/4 in the second, on its way to 1."""
    history = History(tmp_path / "history.csv")

    one_weight(epochs=2, lr=0.25, train_handlers=[history]).run()

    assert [row["loss"] for row in history.rows] == [0.875, 0.375]


def test_the_columns_are_those_of_all_rows(tmp_path):
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "dice/left, outer": math.nan}]

    History(tmp_path / "history.csv", rows).write()

    with (tmp_path / "history.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "0.5", "dice/left, outer": ""},
            {"epoch": "2", "loss": "0.25", "dice/left, outer": "nan"},
        ]


def test_a_resumed_history_has_no_row_twice(tmp_path):
    path = tmp_path / "history.csv"
    History(path, [{"epoch": 1}, {"epoch": 2}]).write()

    History(path, [{"epoch": 1}]).attach(one_weight())  # killed, resumed from the commit of epoch 1

    assert path.read_text() == "epoch\n1\n"


def test_a_history_on_a_full_disk_is_one_warning_and_whole_again_later(tmp_path):
    history = History(tmp_path / "not there yet" / "history.csv")
    engine = one_weight(epochs=3, train_handlers=[history])

    with pytest.warns(
        MonaisegWarning, match=r"history\.csv: cannot be written.*Training continues"
    ) as told:
        engine.run()

    assert len(told) == 1
    history.path.parent.mkdir()
    history.write()
    assert len(history.path.read_text().splitlines()) == 4
