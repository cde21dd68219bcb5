"""TensorBoard: losses, scores and pictures."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monaiseg.data.labels import LabelTable
from monaiseg.errors import MonaisegWarning
from monaiseg.training.handlers.gradient_clipping import GradientClipping
from monaiseg.training.handlers.tensorboard import CasePicture, TensorBoardLog, charts, picture_of
from plain_trainer import batch, one_weight, plain_trainer

TABLE = LabelTable.from_values([1, 21, 22], {21: "left hippocampus", 22: "right hippocampus"})


def scalars(folder):
    """Tag -> [(step, value)]."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def scored(engine, *scores):
    """The engine with scores after each epoch, as a validation leaves them."""
    left = list(scores)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(left.pop(0))
    )
    return engine


def test_losses_rate_and_seconds_are_written(tmp_path):
    plain_trainer([TensorBoardLog(tmp_path, every=3)]).run()

    written = scalars(tmp_path)
    assert [step for step, _ in written["loss/train"]] == [3, 6]
    assert written["learning_rate"] == [(3, pytest.approx(0.01)), (6, pytest.approx(0.01))]
    assert written["seconds_per_iteration"][0][1] > 0


def test_entries_are_means_since_the_last_one(tmp_path):
    """The weight rises 0, 1/4, 1/2, 3/4; the loss falls."""
    one_weight([batch(1)] * 4, lr=0.25, train_handlers=[TensorBoardLog(tmp_path, every=2)]).run()

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
    engine = one_weight([batch(1)] * 2, epochs=2)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: pass_by(2.0))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: pass_by(30.0))
    TensorBoardLog(tmp_path, every=4).attach(engine)

    engine.run()

    ((_, seconds),) = scalars(tmp_path)["seconds_per_iteration"]
    assert seconds == 2.0


def test_scores_go_under_their_names_and_what_is_undefined_stays_out(tmp_path):
    scores = {
        "loss": 0.5, "dice/mean": 0.5, "dice/left hippocampus": 0.25, "dice/right hippocampus": math.nan,
        "dice_debug/mean": 0.75,
    }  # fmt: skip
    engine = scored(one_weight(), scores)
    names = ["left hippocampus", "right hippocampus"]
    TensorBoardLog(tmp_path, every=9, labels=names).attach(engine)

    engine.run()

    assert scalars(tmp_path) == {
        "dice/mean": [(2, 0.5)],
        "dice_of_labels/left hippocampus": [(2, 0.25)],
        "dice_debug/mean": [(2, 0.75)],
    }


def test_a_resumed_training_takes_back_what_the_killed_one_wrote_after_its_commit(tmp_path):
    for done, epochs in ((0, 4), (2, 5)):
        engine = one_weight([batch(1)], epochs=epochs)
        engine.state.iteration = engine.state.epoch = done
        scored(engine, *({"dice/mean": 10 * done + epoch} for epoch in range(done + 1, epochs + 1)))
        TensorBoardLog(tmp_path).attach(engine)
        engine.run()

    assert scalars(tmp_path)["dice/mean"] == [(1, 1), (2, 2), (3, 23), (4, 24), (5, 25)]


def test_a_picture_is_written_under_its_case(tmp_path):
    board, engine = TensorBoardLog(tmp_path), one_weight()
    board.attach(engine)
    picture = np.zeros((8, 20, 3), dtype=np.uint8)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: board.picture("cases/S01", picture, step=5)
    )

    engine.run()

    (picture,) = EventAccumulator(str(tmp_path)).Reload().Images("cases/S01")
    assert (picture.step, picture.height, picture.width) == (5, 8, 20)


def validation_state():
    """A case of 6 x 6 x 3 voxels of 1 x 1 x 2 mm: a box in the reference that the prediction lacks."""
    label = torch.zeros(1, 1, 6, 6, 3, dtype=torch.uint8)
    label[..., :3, :, 1] = 2
    batch = {"case_id": ["S01"], "affine": torch.diag(torch.tensor([1.0, 1, 2, 1]))[None]}
    output = {"image": torch.rand(1, 2, 6, 6, 3), "label": label, "pred": torch.zeros_like(label)}
    return SimpleNamespace(output=output, batch=batch)


def test_the_picture_of_a_validation_has_the_colours_of_the_label_table():
    state = validation_state()
    picture = picture_of(state, TABLE).astype(int)
    state.output["pred"] = state.output["label"]
    agreeing = picture_of(state, TABLE).astype(int)

    def coloured(pixels):
        return int((np.ptp(pixels, axis=-1) > 60).sum())

    assert coloured(picture) > 100
    assert coloured(agreeing) > 1.5 * coloured(picture)  # now the row of the prediction as well


def test_the_same_few_cases_are_drawn_at_each_validation(tmp_path):
    evaluator = Engine(lambda _engine, _batch: validation_state().output)
    board, trainer = TensorBoardLog(tmp_path), one_weight(epochs=3)
    CasePicture(board, TABLE, evaluator, every=1).attach(trainer)
    board.attach(trainer)

    cases = [validation_state().batch | {"case_id": [name]} for name in ("S01", "S02", "S03")]
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(cases))

    trainer.run()

    images = EventAccumulator(str(tmp_path)).Reload().Tags()["images"]
    assert images == ["cases/S01", "cases/S02"]


def test_the_norm_of_the_gradient_is_that_before_clipping(tmp_path):
    """The loss of a weight w on labels of 1 is 1 - w: its gradient is -1."""
    handlers = [GradientClipping(0.25), TensorBoardLog(tmp_path)]
    one_weight([batch(1)] * 2, lr=0.1, train_handlers=handlers).run()

    assert scalars(tmp_path)["gradient_norm"] == [(1, pytest.approx(1)), (2, pytest.approx(1))]


def test_without_clipping_the_norm_is_that_of_the_last_gradient(tmp_path):
    one_weight([batch(1)] * 2, lr=0.1, train_handlers=[TensorBoardLog(tmp_path)]).run()

    assert scalars(tmp_path)["gradient_norm"] == [(1, pytest.approx(1)), (2, pytest.approx(1))]


def test_57_labels_are_8_charts_that_hold_each_of_them_once():
    names = [f"label {n}" for n in range(1, 58)]

    layout = charts(names)["Dice of labels"]

    assert len(layout) == 8
    patterns = [pattern for _, chart in layout.values() for pattern in chart]
    for name in names:
        assert sum(bool(re.match(p, f"dice_of_labels/{name}")) for p in patterns) == 1


def test_a_training_that_is_stopped_has_no_final_scores(tmp_path):
    engine = scored(one_weight(epochs=2), {"dice/mean": 0.5})
    TensorBoardLog(tmp_path, choices={"lr": 0.5}).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, engine.terminate)

    engine.run()

    events = EventAccumulator(str(tmp_path)).Reload()
    assert "dice/mean" in events.Tags()["scalars"]
    with pytest.raises(KeyError):
        events.PluginTagToContent("hparams")


def test_settings_are_a_text_and_choices_have_the_final_scores(tmp_path):
    engine = scored(one_weight(epochs=2), {"dice/mean": 0.5}, {"dice/mean": 0.75})
    board = TensorBoardLog(tmp_path, settings='{"seed": 7}', choices={"lr": 0.5, "loss": "dice_ce"})
    board.attach(engine)

    engine.run()

    events = EventAccumulator(str(tmp_path)).Reload()
    (text,) = events.Tensors("settings/text_summary")
    assert b'{"seed": 7}' in text.tensor_proto.string_val[0]
    plugin = events.PluginTagToContent("hparams")
    assert set(plugin) == {
        "_hparams_/experiment",
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert b"dice_ce" in plugin["_hparams_/session_start_info"]
    assert b"dice/mean" in plugin["_hparams_/experiment"]


def test_a_board_on_a_full_disk_is_one_warning_and_the_training_ends_well(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    engine = one_weight([batch(1)] * 3, train_handlers=[TensorBoardLog(tmp_path / "file")])

    with pytest.warns(MonaisegWarning, match="TensorBoard events cannot be written") as told:
        engine.run()

    assert len(told) == 1
    assert engine.state.iteration == 3


def test_a_disk_that_fills_up_under_the_board_is_one_warning(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    engine = one_weight([batch(1)] * 3, train_handlers=[TensorBoardLog(tmp_path)])
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=1),
        lambda: monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full),
    )

    with pytest.warns(MonaisegWarning, match="No space left on device") as told:
        engine.run()

    assert len(told) == 1
