"""The long run of what the crash tests do in short: every campaign prints what it tried and what was wrong.

    python tests/crash/campaign.py                all of them: an hour or so
    python tests/crash/campaign.py named random   SIGKILL at every named point, and at random times
    python tests/crash/campaign.py calls          the n-th call of the disk fails or kills, for every n
    python tests/crash/campaign.py power          power cuts, replayed from the calls of a training
    python tests/crash/campaign.py bits           bits flipped in checkpoints
    python tests/crash/campaign.py same           repeats, with other workers and prefetching
    unshare -rm python tests/crash/campaign.py full    real disks, full or read-only

Exits with 1 if anything was unequal or unrecoverable.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from crash.disk import Call, Disk, Recorder, at_call, recorded, watch
from crash.trainings import (
    DATA_TASK,
    DONE,
    REFUSED,
    VARIANTS,
    Trainings,
    Variant,
    at_every_point,
    comparable,
    content,
    ended,
    exact,
    kill_at,
    oracle,
    points_of,
)
from monaiseg import files
from monaiseg.errors import CheckpointError, MonaisegWarning
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training.checkpoint import load_checkpoint

KILLED = -signal.SIGKILL
Outcome = tuple[str, str]
"""What was done, and how it came out: "equal", or what was wrong."""


def named_kills(trainings: Trainings, variant: Variant, every: int = 1) -> Iterator[Outcome]:
    """SIGKILL at each point (or every so-manieth), then one resume."""
    points = points_of(trainings, variant)
    expected = trainings.whole(variant)
    for number in range(1, len(points) + 1, every):
        yield points[number - 1], killed_at(trainings, variant, number, expected)


def killed_at(trainings: Trainings, variant: Variant, number: int, expected: str) -> str:
    """How a training that is killed at the so-manieth point comes out after one resume."""
    trainings.clear()
    if trainings.run(variant, kill_at(number)) != KILLED:
        return "was not killed"
    return compared(trainings, variant, expected)


def compared(trainings: Trainings, variant: Variant, expected: str) -> str:
    """How the training that is resumed now comes out."""
    try:
        return "equal" if trainings.resumed(variant) == expected else "unequal"
    except (AssertionError, CheckpointError) as error:
        return f"unrecoverable: {error}"


def random_kills(
    trainings: Trainings, variant: Variant, kills: int, seed: int
) -> Iterator[Outcome]:
    """SIGKILL at random times, again and again in one training until it comes through; so many in all."""
    draw = random.Random(seed)
    started = time.monotonic()
    expected = trainings.whole(variant)
    usual = time.monotonic() - started
    while kills > 0:
        trainings.clear()
        code = KILLED
        while code == KILLED:
            child = trainings.start(variant, resume=trainings.folder.exists())
            deadline = time.monotonic() + draw.uniform(0, usual if kills > 0 else 100 * usual)
            while (
                time.monotonic() < deadline
                and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            kills -= code == KILLED
            yield "a random time", "killed" if code == KILLED else ending(trainings, code, expected)


def ending(trainings: Trainings, code: int, expected: str) -> str:
    if code != DONE:
        return f"unrecoverable: {trainings.said()}"
    return "equal" if oracle(trainings.folder) == expected else "unequal"


def failing_calls(trainings: Trainings, variant: Variant, every: int = 1) -> Iterator[Outcome]:
    """The n-th call of the disk raises ENOSPC or EIO, or is the process's last, for n = 1, 2, ... to the end."""
    expected = trainings.whole(variant)
    calls = count_of_calls(trainings, variant)
    for number in range(1, calls + 1, every):
        for fault in FAULTS:
            yield fault, failing_call(trainings, variant, number, fault, expected)


def failing_call(
    trainings: Trainings, variant: Variant, number: int, fault: str, expected: str
) -> str:
    """How a training whose so-manieth call of the disk fails comes out after one resume."""
    trainings.clear()
    code = trainings.run(variant, at_call(number, FAULTS[fault]))
    if code not in ({KILLED} if fault == "kill" else {DONE, REFUSED}):
        return f"ended with {code} at call {number}: {trainings.said()}"
    if committed(trainings) and not loads(trainings):
        return f"unrecoverable: nothing to load after call {number}"
    return compared(trainings, variant, expected)


def _raise(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


FAULTS: dict[str, Callable[[], object]] = {
    "ENOSPC": _raise(errno.ENOSPC),
    "EIO": _raise(errno.EIO),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def count_of_calls(trainings: Trainings, variant: Variant) -> int:
    """How often an undisturbed training calls the disk."""
    reading, writing = os.pipe()
    trainings.clear()
    child = trainings.start(variant, lambda: watch(lambda _: os.write(writing, b".")))
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        count = len(told.read())
    ended(child)
    return count


def committed(trainings: Trainings) -> bool:
    """Whether a training has come as far as a commit."""
    return any(trainings.folder.glob("checkpoints/step-*.json"))


def loads(trainings: Trainings) -> bool:
    """Whether there is a generation to go on from."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MonaisegWarning)
            checkpoints.newest(trainings.folder)
    except CheckpointError:
        return False
    return True


def power_cuts(trainings: Trainings, variant: Variant, most: int) -> Iterator[Outcome]:
    """After each call of a training's disk, the states that a power cut may leave: each must load from the first commit on."""
    draw = random.Random(0)
    disk, has_committed, folder = Disk(), False, trainings.folder / "checkpoints"
    seen: set[tuple[bool, frozenset[tuple[str, bytes]]]] = set()
    with tempfile.TemporaryDirectory() as name:
        after = Path(name) / "checkpoints"
        for call in calls_of(trainings, variant):
            disk.apply(call)
            if call.place[0] != str(folder):
                continue
            for state in disk.after_a_cut(draw, most):
                files_now = {
                    name: data for (where, name), data in state.items() if where == str(folder)
                }
                key = (has_committed, frozenset(files_now.items()))
                if key in seen:
                    continue
                seen.add(key)
                shutil.rmtree(after, ignore_errors=True)
                after.mkdir()
                for file, data in files_now.items():
                    (after / file).write_bytes(data)
                yield "power cut", loading(after, must=has_committed)
            if call == Call("fsync", (str(folder), "")):
                has_committed |= any(
                    name.startswith("step-") and name.endswith(".json") for _, name in disk.durable
                )


def loading(folder: Path, *, must: bool) -> str:
    """Whether a folder gives a generation with the best that it points to."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            checkpoints.newest(folder)
        except CheckpointError as error:
            return f"unrecoverable: {error}" if must else "nothing was committed yet"
    lost = [str(one.message) for one in told if "counts as the best" in str(one.message)]
    return f"unrecoverable: {lost[0]}" if lost else "a generation loads"


def calls_of(trainings: Trainings, variant: Variant) -> Iterator[Call]:
    """Every call by which an undisturbed training changes the disk."""
    kept = trainings.root / "calls.txt"
    trainings.clear()
    if code := trainings.run(variant, lambda: setattr(files, "os", Recorder(kept))):
        raise AssertionError(f"the undisturbed training ended with {code}: {trainings.said()}")
    yield from recorded(kept)


def flipped_bits(trainings: Trainings, variant: Variant, flips: int) -> Iterator[Outcome]:
    """One bit of the newest generation, its record or the best is turned, and all is loaded as a user would."""
    trainings.whole(variant)
    folder = trainings.folder / "checkpoints"
    newest = checkpoints.newest(folder)
    assert newest.path is not None
    assert newest.best is not None
    good = {"newest": exact(newest.network), "best": exact(load_checkpoint(folder).network)}
    targets = {
        "newest": newest.path,
        "record": newest.path.with_suffix(".json"),
        "best": folder / newest.best.file,
    }
    draw = random.Random(0)
    for number in range(flips):
        what, path = list(targets.items())[number % 3]
        payload = path.read_bytes()
        broken, bit = bytearray(payload), draw.randrange(8 * len(payload))
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        yield f"a bit of the {what}", read_with_damage(folder, newest.step, good)
        path.write_bytes(payload)


def read_with_damage(folder: Path, step: int, good: dict[str, Any]) -> str:
    """What a resume and a prediction make of the folder."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = checkpoints.newest(folder)
    if found.step == step and exact(found.network) != good["newest"]:
        return "silent: other weights were resumed"
    if found.step != step and not told:
        return "silent: an older generation was resumed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MonaisegWarning)
            best = exact(load_checkpoint(folder).network)
    except CheckpointError:
        return "detected"
    if best != good["best"]:
        return "silent: other weights predict"
    return "detected" if told else "harmless"


def same_again(trainings: Trainings, variant: Variant) -> Iterator[Outcome]:
    """Repeats, with other numbers of workers and batches ahead: nothing of it may show."""
    trainings.whole(variant)
    expected = comparable(content(trainings.folder))
    for workers, persistent in ((0, True), (1, True), (2, True), (2, False)):
        for prefetch in (2, 4) if workers else (2,):
            other = replace(variant, workers=workers, persistent=persistent, prefetch=prefetch)
            for _ in range(5):
                trainings.whole(other)
                same = comparable(content(trainings.folder)) == expected
                yield str(other), "equal" if same else "unequal"


# ---------------------------------------------------------------- real disks


def full_disks(trainings: Trainings, variant: Variant, times: int = 20) -> Iterator[Outcome]:
    """A disk of its own that another program fills up, at some point and to some rest, or that becomes read-only.

    Raises:
        OSError: no disk can be mounted; `unshare --map-root-user --mount` lets a user do so.
    """
    folder = trainings.root / DATA_TASK
    whole = shutil.copytree(folder, trainings.root / "copy")
    call("mount", "-t", "tmpfs", "-o", "size=64m", "none", folder)
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    points = points_of(trainings, variant)
    expected = without_curves(trainings, variant)
    draw = random.Random(0)
    for number in draw.sample(range(2, len(points)), times):
        rest = draw.choice((0, 4096, 50_000, 100_000))
        trainings.clear()
        fill = filled_at(number, folder / "ballast", rest)
        code = trainings.run(variant, fill, command_line=True)
        what = "full, and it stopped" if code == REFUSED else "full, and it had what it needed"
        yield what, after_a_full_disk(trainings, variant, code, expected)
    trainings.clear()
    call("mount", "-o", "remount,ro", folder)
    code = trainings.run(variant, command_line=True)
    told = code == REFUSED and "Read-only file system" in trainings.said()
    call("umount", folder)
    yield "read-only", "said before the first step" if told else f"ended with {code}"


def call(*words: object) -> None:
    """A program of the system, as root of a namespace of one's own."""
    finished = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise OSError(finished.stderr)


def filled_at(number: int, ballast: Path, rest: int) -> Callable[[], None]:
    """For a child: at the so-manieth point its disk is filled up to `rest` bytes."""
    count = 0

    def fill(_: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            ballast.write_bytes(bytes(max(shutil.disk_usage(ballast.parent).free - rest, 0)))

    return lambda: at_every_point(fill)


def after_a_full_disk(trainings: Trainings, variant: Variant, code: int, expected: Any) -> str:
    """Whether the message and a generation are there, and what comes of a resume once there is room."""
    message = trainings.said()
    (trainings.root / DATA_TASK / "ballast").unlink()
    if code not in {DONE, REFUSED} or "Traceback" in message:
        return f"ended with {code}: {message}"
    if code == REFUSED and not re.search(
        r"needs? \d+ bytes, (but )?\d+ bytes are free; free", message
    ):
        return f"said badly: {message}"
    if not loads(trainings):
        return "unrecoverable: nothing to load"
    if trainings.run(variant, resume=True) != DONE:
        return f"unrecoverable: {trainings.said()}"
    return "equal" if without_curves(trainings) == expected else "unequal"


def without_curves(trainings: Trainings, variant: Variant | None = None) -> dict[str, Any]:
    """All but TensorBoard's curves: where these find no room, that is said and the training goes on without."""
    if variant is not None:
        trainings.whole(variant)
    return {part: it for part, it in content(trainings.folder).items() if part != "curves"}


# ---------------------------------------------------------------- the program

CAMPAIGNS: dict[str, Callable[[Trainings, Variant, int], Iterator[Outcome]]] = {
    "named": named_kills,
    "random": lambda trainings, variant, _: random_kills(trainings, variant, kills=30, seed=0),
    "calls": failing_calls,
    "power": lambda trainings, variant, _: power_cuts(trainings, variant, most=150),
    "same": lambda trainings, variant, _: same_again(trainings, variant),
    "full": lambda trainings, variant, _: full_disks(trainings, variant),
    "bits": lambda trainings, variant, _: flipped_bits(trainings, variant, flips=2000),
}
FOR_ALL_VARIANTS = {"named", "random"}
GOOD = {
    "said before the first step",
    "equal",
    "killed",
    "a generation loads",
    "nothing was committed yet",
    "detected",
    "harmless",
}


def show(name: str, variant: Variant, outcomes: Iterator[Outcome]) -> int:
    """Print what came of a campaign; returns the number of what is not as it should be."""
    started = time.monotonic()
    counts: Counter[Outcome] = Counter()
    for what, outcome in outcomes:
        if outcome not in GOOD:
            print(f"  {name}, {variant}: {what}: {outcome}", flush=True)
        counts[what, outcome.partition(":")[0]] += 1
    bad = sum(count for (_, outcome), count in counts.items() if outcome not in GOOD)
    minutes = (time.monotonic() - started) / 60
    print(f"{name}, {variant}: {counts.total()} tried, {bad} bad, {minutes:.1f} minutes")
    for (what, outcome), count in sorted(counts.items()):
        print(f"  {count:5}  {what}: {outcome}", flush=True)
    return bad


def main() -> None:
    """Run the campaigns that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    usual = [name for name in CAMPAIGNS if name != "full"]
    parser.add_argument("campaigns", nargs="*", default=usual, choices=[*CAMPAIGNS])
    parser.add_argument("--every", type=int, default=1, help="of named and calls, every so-manieth")
    parser.add_argument("--only", default="", help="variants with this word in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bad = 0
    for name in arguments.campaigns:
        known = [variant for variant in VARIANTS if arguments.only in str(variant)]
        for variant in known if name in FOR_ALL_VARIANTS else known[:1]:
            # What is still mounted goes with the namespace: no reason to fail at the very end.
            with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
                trainings = Trainings(Path(folder))
                bad += show(name, variant, CAMPAIGNS[name](trainings, variant, arguments.every))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
