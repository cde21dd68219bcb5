"""Runs the fuzzers: `PYTHONPATH=tests python -m fuzz --minutes 3`, or `nox -s fuzz -- --minutes 3`.

Each fuzzer has a child process with a limit on its memory, and a parent that watches how long an input takes. The
exit code is 1 where an input failed; its bytes are then in the folder given by `--keep`. `--only NAME --seed S
--number N` feeds one input again, and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch

from audit import Ear, listen
from fuzz import Fuzzer, models, texts, volumes
from monaiseg.errors import MonaisegError
from monaiseg.settings.reading import parse_settings

FUZZERS = (*volumes.FUZZERS, *texts.FUZZERS, *models.FUZZERS)
MEMORY_BYTES = 256 << 20
"""A child may take this much beyond what it was born with."""
INPUT_CPU_SECONDS = 5.0
"""More is a hang..."""
INPUT_WALL_SECONDS = 60.0
"""...and so is this, which is long because other programs may be at work."""
MOST_FAILURES = 20
"""A fuzzer that has found so many different faults has done its work."""


class Progress(ctypes.Structure):
    """What a child tells its parent, in memory that they share."""

    _fields_ = [
        ("number", ctypes.c_int64),
        ("since_wall", ctypes.c_double),
        ("since_cpu", ctypes.c_double),
        ("accepted", ctypes.c_int64),
        ("refused", ctypes.c_int64),
        ("slowest", ctypes.c_double),
        ("slowest_number", ctypes.c_int64),
    ]


@dataclass
class Report:
    """What became of one fuzzer's inputs."""

    fuzzer: Fuzzer
    progress: Progress
    peak_bytes: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Numbers of inputs that failed, each with what was wrong."""


def main() -> int:
    """Runs what the command line asks for."""
    options = _options()
    chosen = [f for f in FUZZERS if not options.only or f.name in options.only]
    if options.number is not None:
        return _again(chosen[0], options.seed, options.number)
    reports = []
    for fuzzer in chosen:
        seconds = 60 * options.minutes / len(chosen)
        reports.append(_run(fuzzer, options.seed, options.start, seconds, options.inputs))
        print(_row(reports[-1]), flush=True)
        _keep(reports[-1], options.seed, options.keep)
    _show(reports, options.seed)
    return int(any(report.failures for report in reports))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="for all fuzzers together")
    parser.add_argument("--inputs", type=int, help="stop each fuzzer after so many")
    parser.add_argument("--seed", type=int, default=0, help="the inputs follow from this number")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument(
        "--only", nargs="+", choices=[f.name for f in FUZZERS], help="fuzzers to run"
    )
    parser.add_argument(
        "--number", type=int, help="feed this one input again, and show what it does"
    )
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-failures"), help="folder for failures"
    )
    return parser.parse_args()


def _again(fuzzer: Fuzzer, seed: int, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        raw = fuzzer.input(seed, number)
        print(f"{fuzzer.name} {seed} {number}: {len(raw)} bytes: {raw[:200]!r}")
        print("accepted" if fuzzer.accepts(raw, Path(folder)) else "refused")
    return 0


# ---------------------------------------------------------------- children


def _run(fuzzer: Fuzzer, seed: int, start: int, seconds: float, inputs: int | None) -> Report:
    """Feeds inputs for so many seconds; a child that dies or hangs has another go on after that input."""
    shared = mmap.mmap(-1, ctypes.sizeof(Progress))
    report = Report(fuzzer, Progress.from_buffer(shared))
    report.progress.number = start - 1
    _warm_up(fuzzer)
    end = time.monotonic() + seconds
    last = sys.maxsize if inputs is None else start + inputs
    while time.monotonic() < end and report.progress.number + 1 < last:
        reader, writer = os.pipe()
        report.progress.since_wall = 0
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(fuzzer, seed, (report.progress.number + 1, last), end, report.progress, writer)
        os.close(writer)
        born = _resident_bytes(pid)
        with os.fdopen(reader) as told:
            ending, usage = _watched(pid, report.progress)
            report.failures += [tuple(json.loads(line)) for line in told]
        report.peak_bytes = max(report.peak_bytes, usage.ru_maxrss * 1024 - born)
        if ending:
            report.failures.append((report.progress.number, ending))
        if len(report.failures) >= MOST_FAILURES:
            break
    return report


def _child(
    fuzzer: Fuzzer, seed: int, numbers: tuple[int, int], end: float, progress: Progress, told: int
) -> None:
    """Feeds inputs and leaves the process; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    folder = Path(tempfile.mkdtemp(prefix=f"monaiseg-{fuzzer.name}-", dir=_memory_folder()))
    os.chdir(folder)
    seen: set[str] = set()
    ear = listen()
    try:
        _limit_memory()
        for number in range(*numbers):
            progress.number, progress.since_cpu = number, time.process_time()
            progress.since_wall = time.monotonic()
            fault = _fault(fuzzer, seed, number, folder, progress, ear)
            progress.since_wall = 0
            if fault and fault not in seen:
                seen.add(fault)
                os.write(told, (json.dumps([number, fault]) + "\n").encode())
            if time.monotonic() > end or len(seen) >= MOST_FAILURES:
                break
    except BaseException:  # noqa: BLE001  a mistake in drawing
        os.write(told, (json.dumps([progress.number, traceback.format_exc()]) + "\n").encode())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _warm_up(fuzzer: Fuzzer) -> None:
    """Makes and loads what waits for it, before the clock runs, so that no child compiles code of its own."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer.accepts(fuzzer.sound(), Path(folder))
    fuzzer.input(0, 1)
    repr(torch.zeros(1))  # torch's refusals show tensors, and the first shown loads modules of it
    with contextlib.suppress(MonaisegError):
        parse_settings('{"unknown": 1}')


def _fault(
    fuzzer: Fuzzer, seed: int, number: int, folder: Path, progress: Progress, ear: Ear
) -> str | None:
    """What is wrong with how an input was taken, in one line; None where nothing is."""
    raw = fuzzer.input(seed, number)
    started = time.process_time()
    try:
        with ear.armed(folder, texts.data_task()) as heard:
            accepted = fuzzer.accepts(raw, folder)
        assert number or accepted, "the sound input is refused"
        assert not heard, heard
        progress.accepted += accepted
        progress.refused += not accepted
    except Exception as error:  # noqa: BLE001  this is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:300]}"
    finally:
        spent = time.process_time() - started
        if spent > progress.slowest:
            progress.slowest, progress.slowest_number = spent, number
    return None


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  a folder of its own is made in it


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def _watched(pid: int, progress: Progress) -> tuple[str, resource.struct_rusage]:
    """Waits for a child; how it ended if not well, and what it used. One that hangs is killed."""
    hung = ""
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if not hung and (hung := _hang(pid, progress)):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(status)
    return hung or (f"died by {signal.Signals(-code).name}" if code < 0 else ""), usage


def _hang(pid: int, progress: Progress) -> str:
    since = progress.since_wall
    if not since:
        return ""
    wall, cpu = time.monotonic() - since, _cpu_seconds(pid) - progress.since_cpu
    if since == progress.since_wall and (cpu > INPUT_CPU_SECONDS or wall > INPUT_WALL_SECONDS):
        return f"hangs: {cpu:.1f} s of computing, {wall:.1f} s of waiting"
    return ""


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- what is shown


def _row(report: Report) -> str:
    told = report.progress
    inputs = told.accepted + told.refused
    return (
        f"| {report.fuzzer.name} | {inputs:,} | {told.accepted:,} | {len(report.failures)} "
        f"| {1000 * told.slowest:.0f} ms | {report.peak_bytes / 2**20:.0f} MiB |"
    )


def _show(reports: list[Report], seed: int) -> None:
    print(f"\nseed {seed}, memory limit {MEMORY_BYTES >> 20} MiB, hang {INPUT_CPU_SECONDS:g} s\n")
    print("| fuzzer | inputs | accepted | failures | slowest | peak memory |")
    print("|---|---|---|---|---|---|")
    for report in reports:
        print(_row(report))
    total = sum(r.progress.accepted + r.progress.refused for r in reports)
    print(f"| all | {total:,} | | {sum(len(r.failures) for r in reports)} | | |")


def _keep(report: Report, seed: int, folder: Path) -> None:
    """Names each failure and the command that repeats it, and keeps its bytes."""
    for number, fault in report.failures:
        print(f"\n{report.fuzzer.name}: {fault}\n  repeat: {_command(report, seed, number)}")
        kept = folder / report.fuzzer.name / f"{seed}-{number}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # a mistake in drawing has no bytes
            kept.write_bytes(report.fuzzer.input(seed, number))


def _command(report: Report, seed: int, number: int) -> str:
    return f"python -m fuzz --only {report.fuzzer.name} --seed {seed} --number {number}"


if __name__ == "__main__":
    sys.exit(main())
