"""A slice of the campaigns for every day, and what a signal, a full disk or a second start does to a training.

`nox -s crash` runs the campaigns whole.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from crash.campaign import (
    FAULTS,
    GOOD,
    compared,
    count_of_calls,
    failing_call,
    flipped_bits,
    killed_at,
    power_cuts,
    random_kills,
)
from crash.trainings import (
    DONE,
    REFUSED,
    STOPPED,
    VARIANTS,
    Trainings,
    Variant,
    at_every_point,
    comparable,
    content,
    ended,
    kill_at,
    oracle,
    points_of,
)
from monaiseg import files
from monaiseg.errors import StorageError
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import loaders
from monaiseg.training.handlers import history

PLAIN, WORKERS, _, PLATEAU = VARIANTS


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("crash"))


@pytest.fixture(scope="module")
def undisturbed(trainings):
    """The oracle of each variant, trained once."""
    known: dict[Variant, str] = {}

    def of(variant: Variant) -> str:
        if variant not in known:
            known[variant] = trainings.whole(variant)
        return known[variant]

    return of


@pytest.fixture(scope="module")
def points(trainings):
    return points_of(trainings, PLATEAU)


def nth(points, name, number=-1):
    """Number, from 1, of the so-manieth point of this name."""
    return [place for place, point in enumerate(points, start=1) if point == name][number]


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize(
    ("point", "number"),
    [
        ("start of the run", 0),
        ("after a step", 4),
        ("inside a commit, after a file", 0),
        ("inside a commit, after a file", 14),
        ("after a commit", 4),
        ("after a commit", 7),
        ("inside a validation", 3),
        ("after the best", -1),
        ("before the history", 1),
    ],
)
def test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been(
    trainings, undisturbed, points, point, number
):
    expected = undisturbed(PLATEAU)

    assert killed_at(trainings, PLATEAU, nth(points, point, number), expected) == "equal"


def test_killed_at_random_times_with_workers_it_ends_as_if_nothing_had_been(trainings):
    outcomes = Counter(outcome for _, outcome in random_kills(trainings, WORKERS, kills=3, seed=1))

    assert outcomes["killed"] == 3
    assert outcomes.keys() == {"killed", "equal"}


@pytest.fixture(scope="module")
def calls(trainings):
    return count_of_calls(trainings, PLATEAU)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("share", [0.47, 0.99])
def test_whichever_call_of_the_disk_fails_a_resume_is_exact(
    trainings, undisturbed, calls, fault, share
):
    expected = undisturbed(PLATEAU)

    assert failing_call(trainings, PLATEAU, int(calls * share), fault, expected) == "equal"


def test_a_history_that_found_no_room_for_its_last_row_has_it_after_a_resume(
    trainings, undisturbed
):
    expected = undisturbed(PLATEAU)
    trainings.clear()

    def fill_at_the_third():
        rows = itertools.count(1)
        write = history.write_atomic

        def full(*arguments):
            if next(rows) == 3:
                raise StorageError("history.csv: no room")
            write(*arguments)

        history.write_atomic = full

    assert trainings.run(PLATEAU, fill_at_the_third, command_line=True) == DONE
    assert "Training continues" in trainings.said()
    assert compared(trainings, PLATEAU, expected) == "equal"


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_killed_at_any_time_of_any_training(trainings, variant):
    outcomes = {outcome for _, outcome in random_kills(trainings, variant, kills=10, seed=2)}

    assert outcomes <= GOOD


@pytest.mark.slow
def test_a_power_cut_at_any_moment_of_a_training_leaves_a_generation(trainings):
    outcomes = Counter(outcome for _, outcome in power_cuts(trainings, PLAIN, most=4))

    assert outcomes.keys() == {"nothing was committed yet", "a generation loads"}


def test_a_turned_bit_is_seen_or_harmless(trainings):
    outcomes = Counter(outcome for _, outcome in flipped_bits(trainings, PLAIN, flips=45))

    assert outcomes.keys() <= {"detected", "harmless"}
    assert outcomes["detected"] >= 30


# ---------------------------------------------------------------- the same, whoever works


@pytest.mark.parametrize(
    "variant", [WORKERS, Variant(workers=1, prefetch=4, persistent=False)], ids=str
)
def test_workers_and_prefetching_change_nothing(trainings, variant):
    trainings.whole(PLAIN)
    expected = comparable(content(trainings.folder))
    trainings.whole(variant)

    assert comparable(content(trainings.folder)) == expected


def test_another_number_of_threads_is_said_and_not_gone_on_with(trainings, points):
    trainings.clear()
    trainings.run(PLATEAU, kill_at(nth(points, "after a commit", 3)))

    assert trainings.run(replace(PLATEAU, threads=2), resume=True) == REFUSED
    assert "this would not continue exactly: threads: 1 then, 2 now" in trainings.said()


# ---------------------------------------------------------------- asked to stop


def signals_at(number, *signals):
    """For a child: it gets these signals at the so-manieth point."""
    count = 0

    def tell(_):
        nonlocal count
        count += 1
        if count == number:
            for one in signals:
                os.kill(os.getpid(), one)

    return lambda: at_every_point(tell)


@pytest.mark.parametrize(
    ("name", "variant", "point"),
    [
        ("SIGTERM", PLATEAU, "start of a step"),
        ("SIGINT", WORKERS, "after a step"),
        ("SIGHUP", PLATEAU, "inside a commit, after a file"),
        ("SIGTERM", PLATEAU, "inside a validation"),
        ("SIGINT", PLATEAU, "before the history"),
    ],
    ids=str,
)
def test_a_signal_ends_the_step_commits_and_can_be_resumed_from(
    trainings, undisturbed, points, name, variant, point
):
    expected = undisturbed(variant)
    number = nth(points, point, 4 if point != "before the history" else 1)
    trainings.clear()

    code = trainings.run(variant, signals_at(number, getattr(signal, name)), command_line=True)

    assert code == STOPPED
    saved = checkpoints.newest(trainings.folder)
    assert f"stopped and saved after step {saved.step}\n" in trainings.said()
    assert f"monaiseg train {trainings.folder} --resume" in trainings.said()
    assert "Traceback" not in trainings.said()
    assert compared(trainings, variant, expected) == "equal"


def test_a_second_interrupt_ends_at_once_with_130(trainings, undisturbed, points):
    expected = undisturbed(PLATEAU)
    trainings.clear()
    number = nth(points, "start of a step", 4)

    code = trainings.run(
        PLATEAU, signals_at(number, signal.SIGINT, signal.SIGINT), command_line=True
    )

    assert code == STOPPED
    assert trainings.said().endswith("interrupted\n")
    assert checkpoints.newest(trainings.folder).step == 4
    assert compared(trainings, PLATEAU, expected) == "equal"


def test_a_finished_training_is_said_to_be_complete_and_left_alone(trainings, undisturbed):
    undisturbed(PLATEAU)
    trainings.whole(PLATEAU)
    before = {path: path.stat().st_mtime_ns for path in trainings.folder.glob("checkpoints/*")}

    assert trainings.run(PLATEAU, resume=True, command_line=True) == DONE

    assert "already complete, after 3 epochs" in trainings.said()
    assert before == {
        path: path.stat().st_mtime_ns for path in trainings.folder.glob("checkpoints/*")
    }
    assert oracle(trainings.folder) == undisturbed(PLATEAU)


# ---------------------------------------------------------------- not alone


def test_of_two_that_start_at_once_one_trains_and_the_other_names_it(trainings, undisturbed):
    expected = undisturbed(PLATEAU)
    trainings.clear()
    reading, writing = os.pipe()

    def wait():
        os.close(writing)
        os.read(reading, 1)

    children = [trainings.start(PLATEAU, wait, command_line=True) for _ in range(2)]
    os.close(reading), os.close(writing)
    codes = {child: ended(child) for child in children}

    assert sorted(codes.values()) == [DONE, REFUSED]
    winner = next(child for child, code in codes.items() if code == DONE)
    assert f"process {winner} on {os.uname().nodename}, since 20" in trainings.said()
    assert oracle(trainings.folder) == expected


def dies_after_a_commit():
    """For a child: it dies after its second commit, with a good part of the training before it."""
    commits = itertools.count(1)

    def tell(point):
        if point == "after a commit" and next(commits) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    at_every_point(tell)


def test_the_folder_is_free_as_soon_as_its_training_is_killed_though_workers_live(
    trainings, undisturbed
):
    expected = undisturbed(WORKERS)
    trainings.clear()
    child = trainings.start(WORKERS, dies_after_a_commit)
    os.waitpid(child, 0)

    os.killpg(child, 0)  # its workers have not ended yet
    assert compared(trainings, WORKERS, expected) == "equal"


# ---------------------------------------------------------------- a worker, a disk, a reader that goes


def kill_a_worker():
    """For a child: in its fourth step a worker dies, as when the system takes back memory."""
    count = 0

    def tell(point):
        nonlocal count
        count += point == "start of a step"
        if point == "start of a step" and count == 4:
            (loader,) = (one for one in loaders._OPEN if one.num_workers)
            os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
            time.sleep(1)

    at_every_point(tell)


def test_a_worker_that_dies_in_a_step_is_named_with_its_cases_and_a_resume_is_exact(
    trainings, undisturbed
):
    expected = undisturbed(WORKERS)
    trainings.clear()

    assert trainings.run(WORKERS, kill_a_worker, command_line=True) == REFUSED

    message = trainings.said()
    assert "worker process (pid" in message
    assert "it was preparing case" in message
    assert "Traceback" not in message
    assert compared(trainings, WORKERS, expected) == "equal"


def test_a_reader_of_the_messages_that_leaves_ends_no_training(trainings, undisturbed):
    expected = undisturbed(PLATEAU)
    trainings.clear()

    def close_the_pipe():
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 2)

    assert trainings.run(PLATEAU, close_the_pipe) == DONE
    assert oracle(trainings.folder) == expected


def test_a_reader_of_a_command_that_leaves_is_no_fault():
    program = subprocess.Popen(
        [sys.executable, "-m", "monaiseg", "settings", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()

    assert program.stderr.read() == b""
    assert program.wait() == 0
    program.stderr.close()


def test_a_disk_without_room_is_said_before_the_first_step(trainings):
    trainings.clear()

    def little_room():
        usage = files.shutil.disk_usage(trainings.root)._replace(free=100_000)
        files.shutil.disk_usage = lambda _: usage

    assert trainings.run(PLATEAU, little_room, command_line=True) == REFUSED
    assert f"{trainings.folder}/checkpoints: checkpoints need " in trainings.said()
    assert "100000 bytes are free; free some space" in trainings.said()
    assert not list(trainings.folder.glob("checkpoints/*"))


def test_memory_that_runs_out_is_said_with_the_smallest_change(trainings, points):
    trainings.clear()

    def starved(point):
        if point == "after a step":
            raise MemoryError("cannot have 1 GiB")

    assert trainings.run(PLATEAU, lambda: at_every_point(starved), command_line=True) == REFUSED
    message = trainings.said()
    assert "step 1, cases case_" in message
    assert (
        "memory ran out on cpu (cannot have 1 GiB); lower tsk_set.batch_size from 2 to 1" in message
    )
    assert "Traceback" not in message


@pytest.mark.slow
def test_real_disks_that_are_full_or_read_only():
    campaign = Path(__file__).parent / "campaign.py"
    words = ["unshare", "--map-root-user", "--mount", sys.executable, campaign, "full"]
    if subprocess.run([*words[:3], "true"], check=False).returncode:
        pytest.skip("no file system of one's own can be mounted here")

    assert subprocess.run(words, check=False).returncode == 0
