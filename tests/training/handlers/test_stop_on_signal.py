"""Stop on signal: a run ends after its step when it is asked to."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from ignite.engine import Events

from monaiseg.training.handlers.stop_on_signal import StopOnSignal
from plain_trainer import one_weight, plain_trainer


@pytest.mark.parametrize(("accumulated", "last"), [(1, 2), (3, 3)])
def test_a_run_ends_with_the_step_that_next_changes_the_weights(accumulated, last):
    before = signal.getsignal(signal.SIGTERM)
    engine = plain_trainer([StopOnSignal()], accumulation_steps=accumulated)
    tell = Events.ITERATION_STARTED(once=2)
    engine.add_event_handler(tell, lambda: os.kill(os.getpid(), signal.SIGTERM))

    engine.run()

    assert engine.state.iteration == last
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_and_does_not_break_in(number, capfd):
    signal.signal(number, signal.SIG_DFL)  # also under nohup, which has SIGHUP ignored
    before = signal.getsignal(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = StopOnSignal()

    stop.listen()
    asked = [stop.requested]
    os.kill(os.getpid(), number)
    asked.append(stop.requested)
    stop.leave()

    assert asked == [False, True]
    assert stop.signal == number

    assert "stopping after this step" in capfd.readouterr().err
    if number != signal.SIGINT:
        assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
    stop = StopOnSignal()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    engine = one_weight(train_handlers=[stop])
    engine.add_event_handler(Events.ITERATION_STARTED, interrupt_twice)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert engine.state.iteration == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        stop = StopOnSignal()
        stop.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        stop.leave()
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_listened_to():
    seen = []

    def work():
        stop = StopOnSignal()
        stop.listen()
        seen.append(signal.getsignal(signal.SIGTERM))
        stop.leave()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def twenty_steps(tell, number):
    """The first step lasts until it is asked to stop; then it finishes its step and says so."""
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    stop = StopOnSignal()
    stop.listen()
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
