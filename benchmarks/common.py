"""What the benchmarks and the contenders share: the cases, running commands, and a contender's side of a contest.

Only the standard library is imported here: nnU-Net's environment reads this file too.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RIVALS = Path(__file__).parent / "rivals"
LABELS = Path(__file__).parent / "hippocampus.csv"
MONAISEG = (sys.executable, "-m", "monaiseg")
"""The program, wherever it is installed."""
WARM_UP_STEPS = 2
"""Steps at the start of a turn that are not measured: batches have been made ahead while the others computed."""


def machine() -> str:
    """One line on what the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    if (facts := Path("/proc/cpuinfo")).exists():
        names = [line for line in facts.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{cores} cores of {model}, Python {platform.python_version()}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def peak_gib() -> float:
    """The most memory that this process has had; `ru_maxrss` is in KiB on Linux, in bytes on macOS."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


# ---------------------------------------------------------------- cases


def prepare(dataset: Path, output: Path) -> Path:
    """Prepare the data task by the program's defaults, its labels named; returns the folder of it."""
    run(*MONAISEG, "prepare", "--dataset-path", dataset, "--output-root-path", output,
        "--data-task-name", "benchmark", "--seed", 0, "--label-table", LABELS)  # fmt: skip
    return output / "benchmark"


def split_cases(task: Path) -> dict[str, list[dict[str, str]]]:
    """Of each split the cases with `id`, `image` and `label`, as MONAI's lists and nnU-Net's folders are made from."""
    splits: dict[str, list[dict[str, str]]] = {"train": [], "val": [], "test": []}
    for case in json.loads((task / "dataset.json").read_text())["cases"]:
        splits[case["split"]] += [
            {"id": case["id"], "image": case["images"][0], "label": case["label"]}
        ]
    return splits


def write_result(output: Path, *, seconds: float, **more: float) -> None:
    """What a contender says of its training, beside the `predictions` of the test cases."""
    (output / "result.json").write_text(json.dumps({"train_seconds": seconds, **more}))


def run(*command: object, env: Mapping[str, str] | None = None) -> float:
    """Run a command, its output to this one's error stream; returns its seconds."""
    started = time.perf_counter()
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdout=sys.stderr, env={**os.environ, **(env or {})})  # noqa: S603  our own words
    return time.perf_counter() - started


# ---------------------------------------------------------------- a contender's side, see contest.py


class Turns:
    """A contender's side: says when it is ready, and calls `step` as often as it is asked to.

    What the contender prints goes to the error stream; the output is for the answers.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left = self._wanted = 0
        self._started = 0.0

    def ready(self, **facts: object) -> None:
        """Say so, with facts that a table shows: `samples` of a step, `weights`."""
        self._say(facts)

    def serve(self, step: Callable[[], object]) -> None:
        """Make the steps that are asked for, until nobody asks any more."""
        while self.next():
            step()

    def next(self) -> bool:
        """Called between two steps: waits while it is another's turn; False when the contest is over."""
        if self._left == 0:
            if self._wanted:
                self._say({"seconds": time.perf_counter() - self._started, "peak_gib": peak_gib()})
            line = sys.stdin.readline()
            if not line:
                return False
            self._wanted = int(line)
            self._left = self._wanted + WARM_UP_STEPS
        if self._left == self._wanted:
            self._started = time.perf_counter()
        self._left -= 1
        return True

    def _say(self, facts: Mapping[str, object]) -> None:
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()
