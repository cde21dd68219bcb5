"""Budgets: a training ends on time with everything in it, and by recorded decisions when it is resumed."""

from __future__ import annotations

import functools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Events

from monaiseg.data.data_tasks import DataTask
from monaiseg.errors import SettingsError
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.budget import Budget, Pace, Rhythm
from monaiseg.training.handlers.learning_rate import Course
from monaiseg.training.handlers.seeded_steps import SeededSteps
from monaiseg.training.handlers.validation import Validation
from monaiseg.training.run import train

seconds = st.floats(0.01, 100)
rhythms = st.builds(
    Rhythm,
    steps_per_epoch=st.integers(1, 20),
    val_period=st.integers(1, 5),
    at_the_end=st.sampled_from([0, 2, 4]),
)
paces = st.builds(Pace, step=seconds, validation=seconds, closing=st.floats(0, 1))


def played(rhythm: Rhythm, pace: Pace, done: int, last: int) -> float:
    """Seconds from step `done`, whose epoch's end is over, to the end: step by step."""
    spent = 0.0
    for step in range(done + 1, last + 1):
        spent += pace.step
        if step % rhythm.steps_per_epoch == 0 and step != last:
            spent += pace.closing
            if (step // rhythm.steps_per_epoch) % rhythm.val_period == 0:
                spent += pace.validation
    return spent + 1.25 * pace.validation * rhythm.at_the_end + pace.ending


@given(rhythm=rhythms, pace=paces, done=st.integers(0, 60), more=st.integers(1, 60))
def test_the_time_to_the_end_is_that_of_every_step_and_every_epochs_end(rhythm, pace, done, more):
    closed = done // rhythm.steps_per_epoch

    predicted = rhythm.seconds(pace, done, done + more, closed)

    assert predicted == pytest.approx(played(rhythm, pace, done, done + more))


@given(rhythm=rhythms, pace=paces, done=st.integers(0, 60), left=st.floats(0, 2000))
def test_the_last_step_is_the_latest_that_ends_on_time(rhythm, pace, done, left):
    closed = done // rhythm.steps_per_epoch

    last = rhythm.last_step(pace, done, left, closed)

    assert last > done
    assert rhythm.seconds(pace, done, last + 1, closed) > left
    assert last == done + 1 or rhythm.seconds(pace, done, last, closed) <= left


@given(
    ends=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    warmup=st.integers(0, 30),
)
def test_however_often_the_end_is_decided_progress_never_jumps_and_is_whole_at_the_end(
    ends, warmup
):
    course, done = Course(warmup, math.inf, start=warmup), 0
    assert course.progress(10**6) == 0
    for further in ends:
        decided = course.ending(done, done + further)
        assert decided.progress(done) == pytest.approx(course.progress(done))
        course, done = decided, done + max(further // 2, 1)
        assert 0 <= course.progress(done) <= 1
    assert course.warmup_steps >= course.last_step or course.progress(int(course.last_step)) == 1


# ---------------------------------------------------------------- real trainings, by a clock that is told the time


class Clock:
    """Seconds that pass by the steps and validations that a training does, not by the computer they are done on.

    From `slower_from` on everything takes `times` as long.
    """

    def __init__(
        self,
        step: float,
        validation: float,
        start_up: float = 0.0,
        slower_from: float = math.inf,
        times: float = 2.0,
    ) -> None:
        self.step, self.validation, self.now = step, validation, start_up
        self.slower_from, self.times = slower_from, times

    def __call__(self) -> float:
        return self.now

    def stepped(self) -> None:
        self._pass(self.step)

    def validated(self) -> None:
        self._pass(self.validation)

    def _pass(self, seconds: float) -> None:
        self.now += seconds if self.now < self.slower_from else self.times * seconds


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it."""


@pytest.fixture
def play(settings: Settings, data_task: DataTask, monkeypatch: pytest.MonkeyPatch):
    """Trains under a budget by a clock: `play(name, clock, minutes, kill_at=None, resume=False, **tsk_set)`."""

    def run(name, clock, minutes, *, kill_at=None, resume=False, **tsk):
        document = json.loads(dump_settings(settings))
        document["tsk_set"] |= {"budget_minutes": minutes, "val_period": 2, "checkpoint_period": 2}
        document["tsk_set"] |= {"weight_averaging": 0.9, "max_batch_num_per_epoch": [-1, -1, 0]}
        document["tsk_set"] |= tsk
        document["dataset"]["seg"]["partition"] = {"overlap": 0.0}

        def step(_, engine):
            clock.stepped()
            if engine.state.iteration == kill_at:
                raise Killed

        def validate(self, engine, name, evaluator, original=Validation._look_at_cases):
            if name == "val":
                clock.validated()
            original(self, engine, name, evaluator)

        def attach(self, engine, original=SeededSteps.attach):
            original(self, engine)
            engine.add_event_handler(Events.ITERATION_COMPLETED, functools.partial(step, self))

        with monkeypatch.context() as patch:
            patch.setattr("monaiseg.training.resume.Budget", functools.partial(Budget, clock=clock))
            patch.setattr(SeededSteps, "attach", attach)
            patch.setattr(Validation, "_look_at_cases", validate)
            result = train(
                settings_from_dict(document),
                output_root_path=data_task.folder.parent,
                data_task_name=data_task.folder.name,
                task_name=name,
                started=0.0,
                resume=resume,
            )
        return result, checkpoints.newest(result.run_folder)

    return run


def weights(saved: checkpoints.Checkpoint) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in saved.weights.items()}


def test_a_budget_ends_with_a_validation_and_the_best_saved_just_in_time(play):
    clock = Clock(step=2.0, validation=5.0, start_up=7.0)

    result, saved = play("timed", clock, minutes=1)

    # 7 s of start-up, steps of 2 s, three an epoch, 5 s of validation after every second epoch and the last step:
    # 17 steps take 7 + 34 + 10 = 51 s, and 1.25 x 5 + 2 = 8.25 s are kept for the end. An 18th would be too late.
    assert (saved.step, clock.now) == (17, 56.0)
    assert saved.epoch_closed
    assert "dice/mean" in saved.history[-1]
    assert result.best is not None
    assert not result.interrupted


def test_an_end_inside_an_epoch_is_validated_and_cannot_be_resumed_past(play):
    clock = Clock(step=2.0, validation=5.0)

    _, saved = play("inside", clock, minutes=0.5)

    assert saved.step % 3 != 0
    assert "dice/mean" in saved.history[-1]
    again, after = play("inside", Clock(2.0, 5.0), minutes=0.5, resume=True)
    assert (after.step, again.interrupted) == (saved.step, False)


def test_a_budget_that_start_up_has_spent_still_leaves_a_validated_model(play):
    result, saved = play("late", Clock(step=2.0, validation=5.0, start_up=100.0), minutes=1)

    assert saved.step == 1
    assert result.best is not None


def test_steps_that_become_slower_end_the_training_earlier_and_still_on_time(play):
    steady, slowing = Clock(2.0, 5.0), Clock(2.0, 5.0, slower_from=60.0)

    _, whole = play("steady", steady, minutes=3)
    _, cut = play("slowing", slowing, minutes=3)

    assert cut.step < whole.step
    assert 0.9 * 180 < steady.now <= 180
    assert 0.9 * 180 < slowing.now <= 180


def test_the_rate_has_fallen_to_nothing_when_time_is_up(play):
    _, saved = play("annealed", Clock(2.0, 5.0), minutes=1, warmup_epochs=0.0)
    rates = [row["learning_rate"] for row in saved.history]

    assert rates[0] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("kill_at", [2, 11, 17])
def test_killed_and_resumed_by_the_same_clock_the_weights_are_the_same(play, kill_at):
    _, whole = play("whole", Clock(2.0, 5.0), minutes=1)
    with pytest.raises(Killed):
        play("killed", Clock(2.0, 5.0), minutes=1, kill_at=kill_at, checkpoint_steps=1)

    _, resumed = play("killed", Clock(2.0, 5.0), minutes=1, resume=True)

    assert resumed.step == whole.step
    assert weights(resumed) == weights(whole)
    assert resumed.history == whole.history


def test_a_resumed_training_goes_on_by_the_recorded_decision_until_the_next_one(play, data_task):
    with pytest.raises(Killed):
        play("moved", Clock(2.0, 5.0), minutes=1, kill_at=9, checkpoint_steps=1)
    before = checkpoints.newest(data_task.folder / "moved")
    with pytest.raises(Killed):  # on a computer of half the speed
        play("moved", Clock(4.0, 9.0), minutes=1, kill_at=12, checkpoint_steps=1, resume=True)
    between = checkpoints.newest(data_task.folder / "moved")
    _, after = play("moved", Clock(4.0, 9.0), minutes=1, resume=True)

    assert (before.step, between.step) == (8, 11)
    assert between.scheduler["course"] == before.scheduler["course"]
    assert after.scheduler["course"]["last_step"] < before.scheduler["course"]["last_step"]
    assert 12 <= after.step < before.scheduler["course"]["last_step"]


def test_extending_a_training_that_the_clock_ends_is_refused(play, settings, data_task):
    document = json.loads(dump_settings(settings))
    document["tsk_set"]["budget_minutes"] = 1
    with pytest.raises(SettingsError, match="adds epochs"):
        train(
            settings_from_dict(document),
            output_root_path=data_task.folder.parent,
            data_task_name=data_task.folder.name,
            task_name="more",
            resume=True,
            extend=1,
        )


@pytest.mark.parametrize("relief", [130, 255])
def test_minutes_that_a_busy_computer_seemed_to_take_are_used_once_it_is_quiet(play, relief):
    """Steps of 8 s at first, and of 1 s after the relief: the first decision would end the run after 36 steps."""

    class Relieved(Clock):
        def stepped(self) -> None:
            self.now += 8.0 if self.now < relief else 1.0

    clock = Relieved(step=8.0, validation=1.0)

    epochs = {"max_batch_num_per_epoch": [10, -1, 0], "val_period": 1000, "checkpoint_period": 1000}
    _, saved = play(f"relieved_{relief}", clock, minutes=5, **epochs)

    assert saved.step > relief // 8 + 30
    assert 0.97 * 300 <= clock.now <= 300


def test_a_validation_that_other_programs_make_slower_still_ends_on_time(play):
    """They begin after the last validation but the final one, which then takes 20 s in place of 5."""
    clock = Clock(step=1.0, validation=5.0, slower_from=200.0, times=4.0)

    epochs = {"max_batch_num_per_epoch": [20, -1, 0], "val_period": 4, "checkpoint_period": 4}
    _, saved = play("busy", clock, minutes=5, **epochs)

    assert saved.step > 200
    assert 0.9 * 300 <= clock.now <= 300
