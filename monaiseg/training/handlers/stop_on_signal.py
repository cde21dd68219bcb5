"""Stop on signal: ends a run after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from monaiseg.training import distributed
from monaiseg.training.handlers.steps import at_the_end, weights_change


class StopOnSignal:
    """Ends a run on SIGINT, SIGTERM or SIGHUP, after the next step that changes the weights.

    A second SIGINT ends it immediately. Signals that are already ignored (nohup) stay ignored. Python delivers signals
    only to the main thread, so the handler does nothing in other threads. Processes that train together all stop at
    the same step. To save something at that point, handle `Events.TERMINATE`, as `ExactResume` does.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has been received."""
        return self.signal is not None

    def attach(self, engine: Engine) -> None:
        """Listen while the engine runs."""
        engine.add_event_handler(Events.STARTED, self.listen)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._heed)
        at_the_end(engine, self.leave)

    def listen(self) -> None:
        """Start handling the signals, until `leave` is called."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (before := signal.getsignal(number)) != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._hear)

    def leave(self) -> None:
        """Restore the previous signal handlers."""
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, before or signal.SIG_DFL)

    def _heed(self, engine: Engine) -> None:
        if distributed.any_of(self.requested) and weights_change(engine):
            engine.state.stopped = True  # type: ignore[attr-defined]  # ignite's state takes any attribute
            engine.terminate()

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        # `logging` cannot be used here: the signal may have interrupted it in the middle of a line.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C stops at once\n")
