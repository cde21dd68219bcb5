"""Exact resume: checkpoints from which a killed run continues to the same weights, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monaiseg.files import check_room
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import distributed
from monaiseg.training.checkpoint import Best, Checkpoint
from monaiseg.training.handlers.steps import (
    RunEvents,
    allow,
    is_broken_off,
    last_step_of,
    weights_change,
)
from monaiseg.training.state import RunState


class ExactResume:
    """Commits the state of a run, and lets a trainer continue from that state.

    MONAI's `CheckpointSaver` and `CheckpointLoader` start an interrupted epoch again with other draws (see
    tests/crash), and leave a partial file if they are killed while writing. Also attach `SeededSteps`, so that
    everything random depends on the step alone.

        state = restored(newest(folder), network, optimizer)         # or restored(None, ...) for a new run
        SupervisedTrainer(..., train_handlers=[SeededSteps(0), ExactResume(folder, state)]).run()

    Attach it after all handlers whose changes in a step or epoch a checkpoint should include. If several processes
    train together, the first one writes.

    Args:
        folder: folder of the checkpoints.
        state: state of the run; a restored one if the run is resumed.
        description: fields of `Checkpoint` that do not change, such as settings and labels.
        every_epochs: number of epochs from one commit to the next. The last epoch, and one that is the best so far,
            are always committed.
        every_steps: number of steps from one commit to the next inside an epoch. None: no commits inside an epoch.
        keep_every: number of epochs from one checkpoint that is kept permanently to the next. 0: none is kept.
    """

    def __init__(
        self,
        folder: Path,
        state: RunState,
        description: Mapping[str, Any] | None = None,
        *,
        every_epochs: int = 1,
        every_steps: int | None = None,
        keep_every: int = 0,
    ) -> None:
        self.folder, self.state, self.description = folder, state, description or {}
        self.every_epochs, self.every_steps, self.keep_every = every_epochs, every_steps, keep_every
        self._committed = (-1, False)

    def attach(self, engine: Any) -> None:
        """Set the engine to the step of the state, and commit from then on."""
        allow(engine)
        self._place(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.TERMINATE, self._stop)
        self._engine = engine

    def save_best(self, value: float) -> Best:
        """Save the weights as the best so far, with their score."""
        best = None
        if distributed.is_first():
            best = asdict(checkpoints.save_best(self.folder, self._checkpoint(closed=True), value))
        self.state.best = Best(**distributed.from_first(best))
        return self.state.best

    def commit(self, engine: Engine, *, closed: bool = False) -> None:
        """Write a checkpoint; `closed` says whether the epoch is complete."""
        self.state.epoch_closed = closed
        engine.fire_event(RunEvents.COMMITTING)
        saved = self._checkpoint(closed=closed)
        self._committed, self.state.is_new = (saved.step, closed), False
        if distributed.is_first():
            checkpoints.commit(self.folder, saved)

    def _checkpoint(self, *, closed: bool) -> Checkpoint:
        engine, state = self._engine, self.state
        state.step, state.epoch = engine.state.iteration, engine.state.epoch
        if engine.scaler is not None:
            state.scaler = engine.scaler.state_dict()
        return state.checkpoint(self.description, epoch_closed=closed)

    # ------------------------------------------------------------ resuming

    def _place(self, engine: Any) -> None:
        """Set the engine to the step of the state.

        An epoch that still has to be closed is not counted yet: ignite would start an engine at its end from scratch.
        """
        state, length = self.state, engine.state.epoch_length
        if state.epochs is not None and state.budget is None:
            engine.state.max_epochs = state.epochs
        engine.state.iteration, engine.state.epoch = state.step, state.step // length
        self._is_open = not state.epoch_closed and self._is_end(engine)
        if self._is_open:
            engine.state.epoch = math.ceil(state.step / length) - 1

    def _is_end(self, engine: Engine) -> bool:
        """Whether the step is the last of its epoch or of the run."""
        step = engine.state.iteration
        return step % engine.state.epoch_length == 0 or step >= last_step_of(engine)  # type: ignore[operator]

    def _start(self, engine: Any) -> None:
        self._place(engine)  # again, so that a second call of run() on a complete run does nothing
        if engine.scaler is not None and self.state.scaler is not None:
            engine.scaler.load_state_dict(dict(self.state.scaler))
        skip = engine.state.iteration % engine.state.epoch_length
        _leave_out(engine, skip)
        if distributed.is_first():
            self._check_room()
        if self.state.is_new:  # a folder that cannot be written shows before the first step
            self.commit(engine, closed=True)
        if self._is_open:
            self._is_open = False
            engine.state.epoch += 1
            engine.fire_event(Events.EPOCH_COMPLETED)

    # ------------------------------------------------------------ commits

    def _open(self) -> None:
        self.state.epoch_closed = False

    def _end_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        if step % engine.state.epoch_length == 0 or not weights_change(engine):  # type: ignore[operator]  # set by now
            return
        before = step - getattr(engine, "accumulation_steps", 1)
        # The commit may have been due at one of the steps whose gradients were accumulated in this one.
        if self.every_steps is not None and step // self.every_steps > before // self.every_steps:
            self.commit(engine)

    def _end_epoch(self, engine: Engine) -> None:
        if is_broken_off(engine):
            return
        epoch = engine.state.epoch
        self.state.epoch_closed = True
        if self.keep_every and epoch % self.keep_every == 0 and distributed.is_first():
            checkpoints.keep(self.folder, self._checkpoint(closed=True))
        if self._is_due(engine):
            engine.fire_event(RunEvents.CLOSED)
            self.commit(engine, closed=True)

    def _is_due(self, engine: Engine) -> bool:
        last = last_step_of(engine)
        is_last = engine.state.iteration >= last or not math.isfinite(last)
        is_best = self.state.best is not None and self.state.best.epoch == engine.state.epoch
        return is_last or is_best or engine.state.epoch % self.every_epochs == 0

    def _stop(self, engine: Engine) -> None:
        """Commit when the run is asked to stop, unless this step is already committed."""
        place = (engine.state.iteration, self.state.epoch_closed)
        if place != self._committed and weights_change(engine):
            self.commit(engine, closed=self.state.epoch_closed)

    def _check_room(self) -> None:
        """Check before the first step that the disk has room for all files that will exist at the same time."""
        state = self.state
        weights = sum(value.nbytes for value in state.network.state_dict().values())
        moments = 1 if "momentum" in state.optimizer.defaults else 2
        generation = weights * (1 + moments + (state.average is not None))
        needed = (3 if state.is_new else 1) * generation + (
            2 if state.best is None else 1
        ) * weights
        check_room(self.folder, needed, "checkpoints")


class _FromTheMiddle:
    """A loader that skips batches in its first pass. It still draws them, so that the rest is drawn as before."""

    def __init__(self, loader: Any, done: int) -> None:
        self.loader, self.done = loader, done

    def __iter__(self) -> Iterator[Any]:
        batches: Iterator[Any] = iter(self.loader)
        done, self.done = self.done, 0
        for _ in range(done):
            next(batches)
        return batches


def _leave_out(engine: Any, done: int) -> None:
    """Skip the first `done` batches of the next pass over the data. monaiseg's sampler does not even draw them."""
    sampler: Any = getattr(engine.state.dataloader, "sampler", None)
    if hasattr(sampler, "skip"):
        sampler.skip = done * sampler.batch_size
    elif done:
        engine.state.dataloader = _FromTheMiddle(engine.state.dataloader, done)
