"""Progress: what a run shows on the terminal."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

from ignite.engine import Events
from rich.console import Console

from monaiseg.training.handlers.progress import ProgressDisplay
from plain_trainer import batch, one_weight, plain_trainer


def display(*, terminal):
    return ProgressDisplay(Console(file=io.StringIO(), force_terminal=terminal, width=120))


def trained_with(shown, epochs=2):
    engine = one_weight([batch(1)] * 4, epochs=epochs)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: engine.state.metrics.update(
            {"loss": 0.125} | ({"dice/mean": 0.5} if engine.state.epoch == 2 else {})
        ),
    )
    shown.attach(engine)
    engine.run()
    return shown.console.file.getvalue()


def test_a_plain_trainer_has_one_line_an_epoch():
    shown = display(terminal=False)

    plain_trainer([shown]).run()

    first, second = shown.console.file.getvalue().splitlines()
    assert first.startswith("epoch 1 of 2, loss ")
    assert second.endswith("0:00 left")


def test_the_line_has_loss_and_dice():
    first, second = trained_with(display(terminal=False)).splitlines()

    assert first.startswith("epoch 1 of 2, loss 0.1250, 0:0")
    assert second == "epoch 2 of 2, loss 0.1250, Dice 0.5000, 0:00 left"


def test_a_terminal_has_a_live_line():
    shown = trained_with(display(terminal=True))

    assert "\x1b[" in shown
    assert "epoch 2 of 2, loss" in shown
    assert "Dice 0.5000" not in shown.split("epoch 2")[0]


def test_the_log_has_each_epoch_too(caplog):
    with caplog.at_level(logging.INFO, "monaiseg"):
        trained_with(display(terminal=True))

    assert [record.message[:12] for record in caplog.records] == ["epoch 1 of 2", "epoch 2 of 2"]


def test_time_left_follows_from_the_steps_of_this_process(monkeypatch):
    """Resumed at step 10 of 20, then two steps of 30 s each: eight are left, four minutes."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(
        "monaiseg.training.handlers.progress.time", SimpleNamespace(monotonic=lambda: now.time)
    )
    engine, shown = one_weight([batch(1)] * 10, epochs=2), display(terminal=False)
    engine.state.iteration, engine.state.epoch = 10, 1
    said = []

    def step():
        said.append(shown._sentence())

    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: setattr(now, "time", now.time + 30)
    )
    shown.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, step)
    engine.run()

    assert said[1] == "epoch 2 of 2, loss 0.5000, 4:00 left"


def test_a_long_epoch_and_a_long_validation_say_where_they_are(monkeypatch):
    """In a log file, where nothing else would be printed for minutes."""
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(
        "monaiseg.training.handlers.progress.time", SimpleNamespace(monotonic=lambda: now.time)
    )
    shown = display(terminal=False)
    engine, evaluator = one_weight([batch(1)] * 4, epochs=1), one_weight([batch(1)] * 3, epochs=1)
    shown.evaluators = (evaluator,)

    def look():
        now.time += 60.0
        shown._beat()
        shown._beat()

    shown.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), look)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda: evaluator.run())  # noqa: PLW0108
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=2), look)
    engine.run()

    lines = shown.console.file.getvalue().splitlines()
    assert lines[0].startswith("epoch 1 of 1, step 1, loss ")
    assert lines[1] == "validation: case 2 of 3"
    assert lines[2].startswith("epoch 1 of 1, loss ")


def test_the_panel_shows_loss_and_dice_as_curves_with_the_best():
    shown = display(terminal=True)
    shown._losses = [0.9, 0.5, 0.2]
    shown._scores = [(1, 0.25), (2, 0.75), (3, 0.5)]

    loss, dice = shown._curves()

    assert loss == "loss █▄▁ 0.2000"
    assert dice == "Dice ▁█▅ 0.5000, best 0.7500 in epoch 2"
