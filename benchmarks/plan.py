"""What `monaiseg plan` predicts against what the training then takes: seconds of an epoch, memory, end.

Usage: python benchmarks/plan.py HIPPOCAMPUS OUTPUT [--only NAME] [--epochs N]

HIPPOCAMPUS holds images/ and labels/. Cases and limits: hippocampus with 2 cores, 4 GB, 10 minutes and with 2 cores,
8 GB, 60 minutes; phantoms of 192 x 224 x 192 with 57 classes, 2 cores, 6 GB, 30 minutes. `--epochs 5` stops
each training after five epochs, the first validation and checkpoint among them. Memory is sampled ten times a second:
the proportional share (PSS) of the training process and all its children, and the training process's own greatest
resident set.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from common import LABELS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.settings.reading import load_settings

CASES = {  # name: data, minutes, GiB
    "hippocampus, 10 minutes": ("hippocampus", 10.0, 4.0),
    "hippocampus, 60 minutes": ("hippocampus", 60.0, 8.0),
    "57 classes": ("phantoms", 30.0, 6.0),
}
CORES, PHANTOMS, SHAPE, CLASSES = 2, 10, (192, 224, 192), 57
SAMPLE_SECONDS = 0.1
INTERRUPTED = 130


def run(*words: str) -> str:
    """Output of a monaiseg command."""
    command = [sys.executable, "-m", "monaiseg", *words]
    return subprocess.run(  # noqa: S603  our own words
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def prepare(data: str, hippocampus: Path, root: Path) -> None:
    """The data task of that name, made where it is not there."""
    if (root / data).is_dir():
        return
    dataset, names = hippocampus, ["--label-table", str(LABELS)]
    if data == "phantoms":
        dataset, names = root / "phantom_dataset", []
        for number in range(PHANTOMS):
            made = make_phantom(SHAPE, label_values=range(1, CLASSES), seed=number)
            write_phantom(dataset, f"phantom_{number}", made)
    run("prepare", "--dataset-path", str(dataset), "-o", str(root), "-dtn", data, *names)


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
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]  # every kernel has it


def resident_peak(pid: int) -> int:
    """Greatest resident set of a process so far."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def train(
    settings: Path, root: Path, data: str, name: str, epochs: int | None
) -> tuple[float, int, int]:
    """Wall seconds, greatest sum of shares, and greatest resident set of a training, or of its first epochs."""
    words = ["train", "-ts", str(settings), "-o", str(root), "-dtn", data, "-tn", name]
    started, most, resident = time.monotonic(), 0, 0
    with subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-m", "monaiseg", *words], stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            if epochs is not None and closed_epochs(root / data / name) >= epochs:
                process.terminate()
                epochs = None
            most = max(most, sum(map(shared_bytes, children(process.pid))))
            resident = max(resident, resident_peak(process.pid))
            time.sleep(SAMPLE_SECONDS)
    if process.returncode not in (0, INTERRUPTED):
        raise SystemExit(f"training {name} ended with {process.returncode}")
    return time.monotonic() - started, most, resident


def closed_epochs(run_folder: Path) -> int:
    """Epochs in the table of a training, which has a line of titles."""
    history = run_folder / "history.csv"
    return max(len(history.read_text().splitlines()) - 1, 0) if history.exists() else 0


def seconds_per_step(run_folder: Path) -> float:
    """Mean over TensorBoard's entries; validations are not in them."""
    events = EventAccumulator(str(run_folder))
    events.Reload()
    values = [event.value for event in events.Scalars("seconds_per_iteration")][1:]
    return sum(values) / len(values)


def main() -> None:
    """Plan, train and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hippocampus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    for case, (data, minutes, memory) in CASES.items():
        if options.only in (None, case):
            compare(
                case, data, minutes, memory, options.hippocampus, options.output, options.epochs
            )


def compare(
    case: str,
    data: str,
    minutes: float,
    memory: float,
    hippocampus: Path,
    root: Path,
    epochs: int | None,
) -> None:
    """Print a table of one case."""
    prepare(data, hippocampus, root)
    name = re.sub(r"\W+", "_", case) + time.strftime("_%H%M%S")
    settings = root / f"{name}.json"
    limits = ["--minutes", f"{minutes:g}", "--cores", str(CORES), "--memory", f"{memory:g}"]
    started = time.monotonic()
    said = run("plan", "--output-root-path", str(root), "-dtn", data, *limits, "-o", str(settings))
    planning = time.monotonic() - started
    expected = re.search(
        r"expected: ([\d.]+) s a step, ([\d.]+) s an epoch, at most ([\d.]+) GiB, done after ([\d.]+)",
        said,
    )
    assert expected is not None, said
    step, epoch, peak, end = map(float, expected.groups())
    steps = load_settings(settings).tsk_set.max_batch_num_per_epoch[0]
    wall, shares, resident = train(settings, root, data, name, epochs)
    measured = seconds_per_step(root / data / name)
    newest = max((root / data / name / "checkpoints").glob("step-*.json"))
    print(
        f"## {case}: {minutes:g} minutes, {CORES} cores, {memory:g} GiB; planned in {planning:.0f} s"
    )
    print(said)
    print("| | predicted | measured | ratio |\n|---|---|---|---|")
    print(f"| seconds of a step | {step:.2f} | {measured:.2f} | {step / measured:.2f} |")
    print(
        f"| seconds of an epoch of {steps} steps | {epoch:.0f} | {measured * steps:.0f} | {epoch / (measured * steps):.2f} |"
    )
    print(
        f"| memory, shares of all processes (GiB) | {peak:.1f} | {shares / 2**30:.2f} | {peak * 2**30 / shares:.2f} |"
    )
    print(f"| memory, main process alone (GiB) | | {resident / 2**30:.2f} | |")
    if epochs is None:
        print(f"| wall time (minutes) | {end:.1f} | {wall / 60:.2f} | {end * 60 / wall:.2f} |")
    print(f"| steps | | {json.loads(newest.read_text())['step']} | |", flush=True)


if __name__ == "__main__":
    main()
