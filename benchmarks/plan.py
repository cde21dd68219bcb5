"""What `monaiseg plan` predicts against what the run then takes, on any prepared datasets, quiet or under load.

Usage: python benchmarks/plan.py DATASET [DATASET ...] [--minutes 5] [--memory 8] [--epochs N] [--load PROGRAMS]

Each DATASET is a folder that `monaiseg prepare` wrote; it gets a run named `plan-...`. `--epochs 5` stops each run after
five epochs, the first validation and checkpoint among them. With `--load 2`, two programs of ordinary priority compute
during training: they start and stop in turns of a tenth of the minutes, the first of them while the run starts. What
counts then is the share of the budget that was used.

Memory is sampled ten times a second: the proportional share (PSS) of the training process and all its children.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from common import MONAISEG, machine, table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SAMPLE_SECONDS = 0.1
TURNS = 10
"""Turns of load and quiet within the minutes."""
INTERRUPTED = 130
SPIN = "import numpy as np\na = np.ones((500, 500))\nwhile True: a = a @ a / 500"


class Load(AbstractContextManager["Load"]):
    """Programs that compute in every other turn of `seconds`, from the start on."""

    def __init__(self, programs: int, seconds: float) -> None:
        self.programs, self.seconds, self.started = programs, seconds, time.monotonic()
        self._running: list[subprocess.Popen[bytes]] = []

    def follow(self) -> None:
        """Start or stop the programs, as the time says."""
        loaded = int((time.monotonic() - self.started) / self.seconds) % 2 == 0
        if loaded and not self._running:
            spin = [sys.executable, "-c", SPIN]
            self._running = [subprocess.Popen(spin) for _ in range(self.programs)]  # noqa: S603
        if not loaded:
            self._stop()

    def _stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._running = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()


def plan(task: Path, minutes: float, memory: float, settings: Path) -> tuple[dict[str, Any], float]:
    """The forecast of `monaiseg plan`, and the seconds that it took."""
    limits = ["--minutes", f"{minutes:g}", "--memory", f"{memory:g}", "--force", "--json"]
    started = time.monotonic()
    said = subprocess.run(  # noqa: S603  our own words
        [*MONAISEG, "plan", str(task), *limits, "-o", str(settings)],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return json.loads(said)["forecast"], time.monotonic() - started


def train(
    task: Path, name: str, settings: Path, epochs: int | None, load: Load
) -> tuple[float, int]:
    """Wall seconds and greatest sum of shares of a run, or of its first epochs."""
    started, most = time.monotonic(), 0
    command = [*MONAISEG, "train", str(task), "--name", name, "--settings", str(settings), "--quiet"]  # fmt: skip
    with load, subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        while process.poll() is None:
            if epochs is not None and closed_epochs(task / name) >= epochs:
                process.terminate()
                epochs = None
            load.follow()
            most = max(most, sum(map(shared_bytes, children(process.pid))))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode not in (0, INTERRUPTED):
        raise SystemExit(f"run {name} ended with {process.returncode}")
    return time.monotonic() - started, most


def children(pid: int) -> list[int]:
    """A process and all that stem from it."""
    found = [pid]
    for parent in found:
        path = Path(f"/proc/{parent}/task/{parent}/children")
        found += map(int, path.read_text().split()) if path.exists() else []
    return found


def shared_bytes(pid: int) -> int:
    """Proportional share of memory of a process; 0 once it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def closed_epochs(run_folder: Path) -> int:
    """Epochs in the history of a run, which has a line of titles."""
    history = run_folder / "history.csv"
    return max(len(history.read_text().splitlines()) - 1, 0) if history.exists() else 0


def seconds_per_step(run_folder: Path) -> float:
    """Mean over TensorBoard's entries; validations are not in them."""
    events = EventAccumulator(str(run_folder))
    events.Reload()
    values = [event.value for event in events.Scalars("seconds_per_iteration")][1:]
    return sum(values) / len(values)


def row(task: Path, options: argparse.Namespace) -> list[str]:
    """A dataset's line of the table: predicted / measured."""
    name = time.strftime("plan-%H%M%S")
    settings = task / f"{name}.json"
    expected, planning = plan(task, options.minutes, options.memory, settings)
    load = Load(options.load, 60 * options.minutes / TURNS)
    seconds, shares = train(task, name, settings, options.epochs, load)
    step = seconds_per_step(task / name)
    newest = max((task / name / "checkpoints").glob("step-*.json"))
    budget = 60 * options.minutes
    return [
        task.name,
        f"{planning:.0f}",
        f"{expected['step_seconds']:.2f} / {step:.2f}: {expected['step_seconds'] / step:.2f}",
        f"{expected['peak_bytes'] / 2**30:.2f} / {shares / 2**30:.2f}: {expected['peak_bytes'] / shares:.2f}",
        f"{expected['steps']} / {json.loads(newest.read_text())['step']}",
        f"{seconds / budget:.1%}" if options.epochs is None else "",
    ]


def main() -> None:
    """Plan, train and compare, dataset by dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--memory", type=float, default=8.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--load", type=int, default=0)
    options = parser.parse_args()
    rows = [row(task, options) for task in options.datasets]
    print(
        f"{machine()}; {options.minutes:g} minutes, {options.memory:g} GiB, load: {options.load} programs"
    )
    columns = ["", "plan (s)", "step (s)", "memory (GiB)", "steps", "budget used"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
