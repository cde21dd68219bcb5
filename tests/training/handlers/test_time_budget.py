"""Time budget: a plain trainer ends by the clock, with the last epoch's end on time."""

from __future__ import annotations

from ignite.engine import Events

from monaiseg.training.budget import Budget, Rhythm
from monaiseg.training.handlers.time_budget import TimeBudget
from plain_trainer import plain_trainer


def test_a_plain_trainer_ends_on_time_and_closes_its_last_epoch():
    """Steps of 2 s, 2 s for the exit: 29 end after 58 s, in the tenth epoch."""
    clock, closed = [0.0], []
    budget = Budget(1, Rhythm(steps_per_epoch=3, val_period=99), clock=lambda: clock[0])
    engine = plain_trainer([TimeBudget(budget)])
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: closed.append(engine.state.iteration))
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: clock.append(clock.pop() + 2.0))

    engine.run()

    assert engine.state.iteration == engine.state.last_step == 29
    assert closed[-2:] == [27, 29]
    assert clock[0] == 58.0
