"""Steps: the progress of a MONAI trainer in the terms of this package, and the events of a run.

A *step* is one batch, counted from 1 over the whole run: ignite's `state.iteration`. An epoch is *broken off* if its
validation did not finish; a resume validates it again, and until then the history does not include it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ignite.engine import Engine, EventEnum, Events


class RunEvents(EventEnum):
    """Events that handlers exchange, in addition to ignite's events."""

    VALIDATED = "validated"
    """All validation cases have been scored, and the scores are in `state.metrics`."""
    CLOSED = "closed"
    """An epoch is complete, and its checkpoint will be written next."""
    COMMITTING = "committing"
    """A checkpoint will be written next."""


_ends: WeakKeyDictionary[Engine, list[Callable[[], object]]] = WeakKeyDictionary()


def listen(engine: Engine, event: RunEvents, handler: Callable[..., object]) -> None:
    """Call `add_event_handler` for one of `RunEvents`, even if nothing fires it."""
    allow(engine)
    engine.add_event_handler(event, handler)


def allow(engine: Engine) -> None:
    """Register `RunEvents` with the engine, so that it can fire them."""
    if not engine.has_registered_events(RunEvents.VALIDATED):
        engine.register_events(*RunEvents)


def at_the_end(engine: Engine, action: Callable[[], object]) -> None:
    """Call `action` at the end of a run. If an exception ends the run, it is raised again afterwards."""
    if engine not in _ends:
        _ends[engine] = []
        engine.add_event_handler(Events.COMPLETED, lambda: _end(engine))
        engine.add_event_handler(Events.EXCEPTION_RAISED, _end_by_exception)
    _ends[engine].append(action)


def weights_change(engine: Any) -> bool:
    """Whether the current step changes the weights: in MONAI's trainer, the last step of a gradient accumulation."""
    every, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
    place = int(engine.state.iteration - 1) % length + 1
    return bool(place % every == 0 or place == length)


def last_step_of(engine: Engine) -> float:
    """The last step of the run; infinite until a time budget has decided it."""
    state: Any = engine.state
    decided: float | None = getattr(state, "last_step", None)
    return state.max_epochs * state.epoch_length if decided is None else decided


def scores_of(engine: Engine) -> dict[str, float]:
    """All numbers in `state.metrics` except the loss."""
    metrics = engine.state.metrics
    return {k: v for k, v in metrics.items() if k != "loss" and isinstance(v, int | float)}


def is_broken_off(engine: Engine) -> bool:
    """Whether a signal ended the validation of this epoch before all cases were scored."""
    return bool(getattr(engine.state, "broken_off", False))


def is_interrupted(engine: Engine) -> bool:
    """Whether a signal ended the run."""
    return is_broken_off(engine) or bool(getattr(engine.state, "stopped", False))


def _end(engine: Engine) -> None:
    for action in reversed(_ends[engine]):
        action()


def _end_by_exception(engine: Engine, error: BaseException) -> None:
    _end(engine)
    raise error
