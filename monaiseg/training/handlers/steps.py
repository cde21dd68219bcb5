"""Steps: where a MONAI trainer stands, in the words of this package, and what its run tells its handlers.

A *step* is one batch, counted from 1 through the whole run: ignite's `state.iteration`. An epoch is *broken off* where
its validation was not finished; it is then taken up again by a resume, and is in no history.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ignite.engine import Engine, EventEnum, Events


class RunEvents(EventEnum):
    """What handlers tell one another, beside ignite's events."""

    VALIDATED = "validated"
    """All validation cases are scored, and the scores are in `state.metrics`."""
    CLOSED = "closed"
    """The end of an epoch is over, and a checkpoint of it will be written."""
    COMMITTING = "committing"
    """A checkpoint is about to be written."""


_ends: WeakKeyDictionary[Engine, list[Callable[[], object]]] = WeakKeyDictionary()


def listen(engine: Engine, event: RunEvents, handler: Callable[..., object]) -> None:
    """`add_event_handler` for one of `RunEvents`, whether or not anything fires it."""
    allow(engine)
    engine.add_event_handler(event, handler)


def allow(engine: Engine) -> None:
    """Let the engine fire `RunEvents`."""
    if not engine.has_registered_events(RunEvents.VALIDATED):
        engine.register_events(*RunEvents)


def at_the_end(engine: Engine, action: Callable[[], object]) -> None:
    """Call `action` when a run is over, also when an exception ends it, which then goes on."""
    if engine not in _ends:
        _ends[engine] = []
        engine.add_event_handler(Events.COMPLETED, lambda: _end(engine))
        engine.add_event_handler(Events.EXCEPTION_RAISED, _end_by_exception)
    _ends[engine].append(action)


def weights_change(engine: Any) -> bool:
    """Whether the step in work ends an accumulation of gradients, by the rule of MONAI's trainer."""
    every, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
    place = int(engine.state.iteration - 1) % length + 1
    return bool(place % every == 0 or place == length)


def last_step_of(engine: Engine) -> float:
    """The step that the run ends with; infinite until a time budget has decided it."""
    state: Any = engine.state
    decided: float | None = getattr(state, "last_step", None)
    return state.max_epochs * state.epoch_length if decided is None else decided


def scores_of(engine: Engine) -> dict[str, float]:
    """The numbers in `state.metrics`, but for the loss."""
    metrics = engine.state.metrics
    return {k: v for k, v in metrics.items() if k != "loss" and isinstance(v, int | float)}


def is_broken_off(engine: Engine) -> bool:
    """Whether a signal has ended the validation of this epoch before all cases were scored."""
    return bool(getattr(engine.state, "broken_off", False))


def is_interrupted(engine: Engine) -> bool:
    """Whether a signal has ended the run."""
    return is_broken_off(engine) or bool(getattr(engine.state, "stopped", False))


def _end(engine: Engine) -> None:
    for action in reversed(_ends[engine]):
        action()


def _end_by_exception(engine: Engine, error: BaseException) -> None:
    _end(engine)
    raise error
