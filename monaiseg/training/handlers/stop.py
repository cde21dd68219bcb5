"""Stop on signal: ends a run after its step when it is asked to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopOnSignal:
    """Lets SIGINT, SIGTERM and SIGHUP ask a training to end after its step. A second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs; only the main thread can. A signal that is ignored (nohup) stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        heard = [number for number in numbers if before[number] != signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        # Not by `logging`: its file may be half-way through a line.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C stops at once\n")
