"""Contenders that compute in turn, each in a process of its own; `common.Turns` is their side of it."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import RIVALS, WARM_UP_STEPS


@dataclass
class Spent:
    """Seconds by the clock on the wall, and of the processors by a process and its children."""

    wall: float
    cpu: float

    @classmethod
    def by(cls, process: psutil.Process) -> Spent:
        """So far."""
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return cls(time.perf_counter(), sum(spent.user + spent.system for spent in times))

    def since(self, earlier: Spent, steps: int) -> Spent:
        """What a step took since then."""
        return Spent((self.wall - earlier.wall) / steps, (self.cpu - earlier.cpu) / steps)


class Rival:
    """A contender in a process of its own, which computes only when it is its turn.

    Args:
        python: interpreter of its environment.
        script: in `rivals`.
        arguments: of the script.
    """

    def __init__(self, python: str | Path, script: str, *arguments: object) -> None:
        command = [str(python), str(RIVALS / script), *map(str, arguments)]
        self.process = subprocess.Popen(  # noqa: S603  our own words
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started = time.perf_counter()
        self.facts = self._answer()
        self.seconds_to_ready = time.perf_counter() - started - self.facts.get("preparing", 0.0)
        self.peak_gib = 0.0

    def step(self, steps: int) -> Spent:
        """What a step takes, over so many; on the wall after a few that are not measured."""
        before = Spent.by(psutil.Process(self.process.pid))
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        whole = Spent.by(psutil.Process(self.process.pid)).since(before, steps + WARM_UP_STEPS)
        self.peak_gib = answer["peak_gib"]
        return Spent(answer["seconds"] / steps, whole.cpu)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: has ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """No more turns: the process ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def in_turn(rivals: Mapping[str, Rival], steps: int, rounds: int) -> dict[str, Spent]:
    """Medians of what a step of each takes, all in turn, after a round that is not counted."""
    every: dict[str, list[Spent]] = {name: [] for name in rivals}
    for _ in range(1 + rounds):
        for name, rival in rivals.items():
            every[name].append(rival.step(steps))
    return {name: medians(spent[1:]) for name, spent in every.items()}


def medians(spent: list[Spent]) -> Spent:
    """Of each of both."""
    return Spent(
        statistics.median(one.wall for one in spent), statistics.median(one.cpu for one in spent)
    )
