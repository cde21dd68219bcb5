"""Handlers, on MONAI's own trainer with a network of one weight or two."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines.evaluator import SupervisedEvaluator
from monai.engines.trainer import SupervisedTrainer
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError, MonaisegWarning, NumericsError
from monaiseg.training.averaging import ModelAverage
from monaiseg.training.handlers.batches import case_ids, in_words
from monaiseg.training.handlers.dice import DiceOfLabels
from monaiseg.training.handlers.history import HistoryCsv
from monaiseg.training.handlers.label_filter import LabelFilter
from monaiseg.training.handlers.nan_guard import NanGuard
from monaiseg.training.handlers.progress import ProgressDisplay
from monaiseg.training.handlers.stop import StopOnSignal
from monaiseg.training.handlers.tensorboard import TensorBoardLog, picture_of

TABLE = LabelTable.from_values([1, 21, 22], {21: "left hippocampus", 22: "right hippocampus"})


def batch(label=0, case="S01"):
    return {
        "image": torch.ones(1, 1, 2, 2, 2),
        "label": torch.full((1, 1, 2, 2, 2), label, dtype=torch.uint8),
        "case_id": [case],
    }


def trainer(batches=None, epochs=1, loss=None, lr=0.5):
    """Learns the mean of its label maps with a 1 x 1 x 1 convolution."""
    network = torch.nn.Conv3d(1, 1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=batches or [batch(1), batch(1, "S02")],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=loss or (lambda pred, label: (pred - label).abs().mean()),
        decollate=False,
    )


def scalars(folder):
    """Tag -> [(step, value)]."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# ---------------------------------------------------------------- labels, losses


def test_class_indices_pass_unchanged():
    given = batch(3)
    engine = trainer([given])
    LabelFilter(TABLE).attach(engine)

    engine.run()

    assert engine.state.output["label"] is given["label"]


@pytest.mark.parametrize("index", [4, 255])
def test_a_class_index_that_the_network_lacks_is_refused_with_its_case(index):
    engine = trainer([batch(0), batch(index, "S07")])
    LabelFilter(TABLE).attach(engine)

    with pytest.raises(
        DataError, match=rf"step 2, cases S07: class indices {index} to {index}, .* 0 to 3"
    ):
        engine.run()


def test_a_negative_class_index_is_refused():
    engine = trainer([batch(0) | {"label": torch.full((1, 1, 2, 2, 2), -1)}])
    LabelFilter(TABLE).attach(engine)

    with pytest.raises(DataError, match="class indices -1 to -1"):
        engine.run()


def test_label_values_become_class_indices_and_the_loaders_batch_stays():
    given = batch(22)
    engine = trainer([given])
    LabelFilter(TABLE, filtered=False).attach(engine)

    engine.run()

    assert engine.state.output["label"].unique().tolist() == [3]
    assert given["label"].unique().tolist() == [22]


def test_label_values_that_the_table_does_not_name_are_refused_with_their_case():
    engine = trainer([batch(7, "S07")])
    LabelFilter(TABLE, filtered=False).attach(engine)

    with pytest.raises(DataError, match=r"cases S07: values 7 \(8 voxels\) that the label table"):
        engine.run()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_before_the_weights_change(tmp_path, value):
    (tmp_path / "step-000000001.json").touch()
    factors = iter([1.0, value])
    engine = trainer(loss=lambda pred, label: (pred - label).abs().mean() * next(factors), lr=0.25)
    NanGuard(tmp_path).attach(engine)

    with pytest.raises(
        NumericsError,
        match=rf"step 2: the loss is {value} on cases S02 at learning rate 0.25; .*step-000000001\.safetensors is as good",
    ):
        engine.run()
    assert engine.network.weight.item() == 0.25


def test_without_a_commit_the_message_says_so(tmp_path):
    engine = trainer(loss=lambda pred, label: (pred - label).sum() * math.nan)
    NanGuard(tmp_path).attach(engine)

    with pytest.raises(NumericsError, match="nothing is committed yet"):
        engine.run()


def test_cases_are_named_once_each():
    assert case_ids({"case_id": ["b", "a", "b"]}) == ["b", "a"]
    assert in_words({"case_id": "S01"}) == "cases S01"
    assert in_words({}) == "cases unknown"


# ---------------------------------------------------------------- scores and averages


def validated(*cases):
    """MONAI's evaluator over cases of (reference, prediction), each four voxels; its network predicts its image."""
    batches = [
        {
            "image": torch.tensor(prediction).view(1, 1, 2, 2, 1),
            "label": torch.tensor(reference).view(1, 1, 2, 2, 1),
        }
        for reference, prediction in cases
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=torch.nn.Identity(),
        key_val_metric={"dice": DiceOfLabels(4)},
        decollate=False,
    )
    evaluator.run()
    return evaluator


def test_dice_is_the_mean_over_labels_of_their_means_over_cases():
    """Label 1: one of its two voxels found, then both; label 2: missed, then absent; label 3: absent in both."""
    evaluator = validated(([1, 1, 2, 0], [1, 0, 0, 0]), ([1, 1, 0, 0], [1, 1, 0, 0]))

    first, second, third = evaluator.state.metric_details["dice"]
    assert first == pytest.approx((2 / 3 + 1) / 2)
    assert second == 0
    assert math.isnan(third)
    assert evaluator.state.metrics["dice"] == pytest.approx((5 / 6 + 0) / 2)


def test_a_second_validation_starts_from_no_case():
    evaluator = validated(([1, 1, 1, 1], [1, 1, 0, 0]))
    assert evaluator.state.metrics["dice"] == pytest.approx(2 / 3)

    evaluator.data_loader[0]["image"].fill_(1)
    evaluator.run()

    assert evaluator.state.metrics["dice"] == 1


def averaged(average):
    weights = average.state_dict()
    assert weights is not None
    return weights


def weight_of(average):
    return averaged(average)["weight"].item()


def test_the_average_follows_the_weights_slowly_and_at_the_start_quickly():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = ModelAverage(network, decay=0.5)

    torch.nn.init.ones_(network.weight)
    average.update(1)
    assert weight_of(average) == pytest.approx(1 - 2 / 11)
    average.update(1000)
    assert weight_of(average) == pytest.approx(1 - 2 / 11 / 2)


def test_the_average_is_in_the_network_for_a_block_only():
    convolution = torch.nn.Conv3d(1, 1, 1)
    network = torch.nn.Sequential(convolution, torch.nn.BatchNorm3d(1))
    average = ModelAverage(network, decay=0.9)
    network(torch.rand(2, 1, 2, 2, 2))
    torch.nn.init.constant_(convolution.weight, 3.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average.update(5)

    with contextlib.suppress(KeyboardInterrupt), average.swapped_in():
        inside = {name: value.clone() for name, value in network.state_dict().items()}
        raise KeyboardInterrupt

    assert all(torch.equal(value, averaged(average)[name]) for name, value in inside.items())
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_average_goes_on_exactly_from_what_was_saved():
    network = torch.nn.Linear(2, 2)
    steady, broken = ModelAverage(network, 0.9), ModelAverage(network, 0.9)
    for step in range(1, 7):
        torch.nn.init.constant_(network.weight, step)
        steady.update(step)
        broken.update(step)
        saved = {name: value.clone() for name, value in averaged(broken).items()}
        broken = ModelAverage(network, 0.9)
        broken.load_state_dict(saved)

    assert torch.equal(averaged(steady)["weight"], averaged(broken)["weight"])


def test_an_average_begun_on_loaded_weights_begins_with_them():
    network = torch.nn.Linear(1, 1)
    average = ModelAverage(network, 0.9)
    torch.nn.init.constant_(network.weight, 7.0)

    average.load_state_dict(None)

    assert weight_of(average) == 7.0


def test_no_averaging_keeps_nothing():
    average = ModelAverage(torch.nn.Linear(1, 1), decay=0)

    average.update(1)
    average.load_state_dict(None)
    with average.swapped_in():
        assert average.state_dict() is None


# ---------------------------------------------------------------- history


def test_the_history_is_one_row_an_epoch_with_the_columns_of_all(tmp_path):
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "dice/left, outer": math.nan}]

    HistoryCsv(tmp_path / "history.csv").write(rows)

    with (tmp_path / "history.csv").open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "0.5", "dice/left, outer": ""},
            {"epoch": "2", "loss": "0.25", "dice/left, outer": "nan"},
        ]


def test_a_resumed_history_has_no_row_twice(tmp_path):
    history = HistoryCsv(tmp_path / "history.csv")
    history.write([{"epoch": 1}, {"epoch": 2}])
    history.write([{"epoch": 1}])  # killed, resumed from the commit of epoch 1

    assert history.path.read_text() == "epoch\n1\n"


def test_a_history_on_a_full_disk_is_one_warning_and_whole_again_later(tmp_path):
    history = HistoryCsv(tmp_path / "not there yet" / "history.csv")

    def three_epochs():
        for epoch in range(3):
            history.write([{"epoch": epoch}])

    with pytest.warns(
        MonaisegWarning, match=r"history\.csv: cannot be written.*Training goes on"
    ) as told:
        three_epochs()
    assert len(told) == 1
    history.path.parent.mkdir()
    history.write([{"epoch": 1}, {"epoch": 2}])
    assert history.path.read_text() == "epoch\n1\n2\n"


# ---------------------------------------------------------------- TensorBoard


def test_tensorboard_gets_loss_rate_and_seconds_as_means_since_the_last_entry(tmp_path):
    engine = trainer([batch(1)] * 4, lr=0.25)  # the weight rises 0, 1/4, 1/2, 3/4; the loss falls
    with TensorBoardLog(tmp_path) as board:
        board.attach(engine, every=2)
        engine.run()

    written = scalars(tmp_path)
    assert written["loss/train"] == [(2, pytest.approx((1 + 0.75) / 2)), (4, pytest.approx(0.375))]
    assert written["learning_rate"] == [(2, 0.25), (4, 0.25)]
    assert [step for step, _ in written["seconds_per_iteration"]] == [2, 4]


def test_the_time_of_a_validation_is_no_step_time(tmp_path, monkeypatch):
    now = 0.0

    def pass_by(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(
        "monaiseg.training.handlers.tensorboard.time", SimpleNamespace(perf_counter=lambda: now)
    )
    engine = trainer([batch(1)] * 2, epochs=2)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: pass_by(2.0))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: pass_by(30.0))
    with TensorBoardLog(tmp_path) as board:
        board.attach(engine, every=4)
        engine.run()

    ((_, seconds),) = scalars(tmp_path)["seconds_per_iteration"]
    assert seconds == 2.0


def test_scores_go_under_the_names_of_their_labels_and_what_is_undefined_stays_out(tmp_path):
    row = {
        "epoch": 1, "step": 20, "loss": 0.5, "dice/mean": 0.5, "dice/left hippocampus": 0.25,
        "dice/right hippocampus": math.nan, "dice_debug/mean": 0.75,
    }  # fmt: skip
    with TensorBoardLog(tmp_path) as board:
        board.epoch(row)

    assert scalars(tmp_path) == {
        "dice/mean": [(20, 0.5)],
        "dice/left hippocampus": [(20, 0.25)],
        "dice_debug/mean": [(20, 0.75)],
    }


def test_a_resumed_training_takes_back_what_the_killed_one_wrote_after_its_commit(tmp_path):
    for first, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        board = TensorBoardLog(tmp_path)
        board.stand_at(first)
        with board:
            for step in steps:
                board.epoch({"step": step, "dice/mean": step + first})

    assert scalars(tmp_path)["dice/mean"] == [(1, 1), (2, 2), (3, 5), (4, 6), (5, 7)]


def test_a_picture_is_written_under_its_case(tmp_path):
    with TensorBoardLog(tmp_path) as board:
        board.slices("S01", np.zeros((8, 20, 3), dtype=np.uint8), step=5)

    (picture,) = EventAccumulator(str(tmp_path)).Reload().Images("slices/S01")
    assert (picture.step, picture.height, picture.width) == (5, 8, 20)


def test_the_picture_of_a_validation_shows_image_reference_and_prediction():
    label = torch.zeros(1, 1, 6, 6, 3, dtype=torch.uint8)
    label[..., :3, :, 1] = 2
    pred = torch.zeros_like(label)
    state = SimpleNamespace(
        output={"image": torch.rand(1, 2, 6, 6, 3), "label": label, "pred": pred}
    )

    picture = picture_of(state, TABLE)

    assert picture.shape == (6, 6 * 3 + 2 * 4, 3)
    assert not np.array_equal(picture[:, 10:16], picture[:, 20:26])
    assert np.array_equal(picture[:, :6], picture[:, 20:26])


def test_a_board_on_a_full_disk_is_one_warning_and_the_training_ends_well(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    engine = trainer([batch(1)] * 3)
    board = TensorBoardLog(tmp_path / "file")
    board.attach(engine, every=1)

    def run():
        with board:
            engine.run()
            board.epoch({"step": 3, "dice/mean": 1.0})

    with pytest.warns(MonaisegWarning, match="TensorBoard events cannot be written") as told:
        run()
    assert len(told) == 1
    assert engine.state.iteration == 3


def test_a_disk_that_fills_up_under_the_board_is_one_warning(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    board = TensorBoardLog(tmp_path)

    def run():
        with board:
            board.epoch({"step": 1, "dice/mean": 1.0})
            monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
            for step in (2, 3):
                board.epoch({"step": step, "dice/mean": 1.0})

    with pytest.warns(MonaisegWarning, match="No space left on device") as told:
        run()
    assert len(told) == 1


# ---------------------------------------------------------------- the display


def display(*, terminal):
    return ProgressDisplay(Console(file=io.StringIO(), force_terminal=terminal, width=120))


def trained_with(shown, epochs=2):
    engine = trainer([batch(1)] * 4, epochs=epochs)
    shown.attach(engine)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: shown.epoch(
            {"epoch": engine.state.epoch, "step": engine.state.iteration, "loss": 0.125}
            | ({"dice/mean": 0.5} if engine.state.epoch == 2 else {})
        ),
    )
    with shown.shown():
        engine.run()
    return shown.console.file.getvalue()


def test_without_a_terminal_there_is_one_plain_line_an_epoch():
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
    clock = iter([100.0, 130.0, 160.0, 160.0])
    monkeypatch.setattr(
        "monaiseg.training.handlers.progress.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    engine = SimpleNamespace(
        state=SimpleNamespace(
            max_epochs=2, epoch_length=10, iteration=10, epoch=2, output={"loss": torch.tensor(1.0)}
        )
    )
    shown = display(terminal=False)

    shown._start(engine)
    for engine.state.iteration in (11, 12):
        shown._follow(engine)
    shown.epoch({"epoch": 2, "step": 12, "loss": 1.0})

    assert shown.console.file.getvalue() == "epoch 2 of 2, loss 1.0000, 4:00 left\n"


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_and_does_not_break_in(number, capfd):
    signal.signal(number, signal.SIG_DFL)  # also under nohup, which has SIGHUP ignored
    before = signal.getsignal(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopOnSignal()

    with stop.listening():
        asked = [stop.requested]
        os.kill(os.getpid(), number)
        asked.append(stop.requested)

    assert asked == [False, True]
    assert stop.signal == number

    assert "stopping after this step" in capfd.readouterr().err
    if number != signal.SIGINT:
        assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
    stop = StopOnSignal()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted_twice():
        with stop.listening():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        stop = StopOnSignal()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_listened_to():
    seen = []

    def work():
        with StopOnSignal().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def twenty_steps(tell, number):
    """The first step lasts until it is asked to stop; then it finishes its step and says so."""
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    stop = StopOnSignal()
    with stop.listening():
        for step in range(20):
            tell(b"started %d\n" % step)
            while not stop.requested:
                time.sleep(0.01)
            tell(b"ended %d\n" % step)
            if stop.requested:
                break
    tell(b"committed\n")
    os._exit(128 + (stop.signal or 0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_signalled_finishes_its_step_and_commits(number):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        twenty_steps(lambda word: os.write(writing, word), number)
    os.close(writing)
    with open(reading) as told:  # noqa: PTH123 - a pipe
        assert told.readline() == "started 0\n"
        os.kill(child, number)
        rest = told.read().splitlines()

    assert rest == ["ended 0", "committed"]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
