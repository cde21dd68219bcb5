"""How long `monaiseg --help`, shell completion and `import monaiseg` take, and `predict` until its first window.

Median seconds of whole processes. With a model and a scan, also the seconds from the start of `monaiseg predict` to the
moment when the first window is handed to the network: imports, opening the model, reading and preparing the scan.

Usage: python benchmarks/start_up.py [MODEL SCAN]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 9
PROGRAM = "import sys; sys.argv[0] = 'monaiseg'; from monaiseg.cli import app; app()"
"""What the installed program `monaiseg` does."""
BASH = {"_MONAISEG_COMPLETE": "complete_bash", "COMP_WORDS": "monaiseg train --", "COMP_CWORD": "2"}
ZSH = {"_MONAISEG_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "monaiseg train --"}
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "monaiseg --help": (["-c", PROGRAM, "--help"], {}),
    "monaiseg train --help": (["-c", PROGRAM, "train", "--help"], {}),
    "completion in bash": (["-c", PROGRAM], BASH),
    "completion in zsh": (["-c", PROGRAM], ZSH),
    "import monaiseg": (["-c", "import monaiseg"], {}),
    "import torch, monai": (["-c", "import torch, monai"], {}),
    "python alone": (["-c", ""], {}),
}
TO_FIRST_WINDOW = """
import os, sys, time
sys.argv[0] = "monaiseg"
from monaiseg.prediction import fitting
def first_window(*given, **named):
    os.write(1, f"{time.time()}".encode())
    os._exit(0)
fitting.sliding_window_class_map = first_window
from monaiseg.cli import app
app()
"""


def seconds(words: list[str], variables: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(  # noqa: S603  our own words
        [sys.executable, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
    return time.perf_counter() - started


def seconds_to_first_window(model: Path, scan: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = ["predict", model, scan, "-o", folder, "--device", "cpu", "--quiet"]
        started = time.time()
        done = subprocess.run(  # noqa: S603  our own words
            [sys.executable, "-c", TO_FIRST_WINDOW, *map(str, words)],
            check=True,
            stdout=subprocess.PIPE,
        )
        return float(done.stdout) - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("scan", type=Path, nargs="?")
    options = parser.parse_args()
    for name, (words, variables) in COMMANDS.items():
        median = statistics.median(seconds(words, variables) for _ in range(RUNS))
        print(f"{name}: {median:.3f} s")
    if options.scan is not None:
        times = [seconds_to_first_window(options.model, options.scan) for _ in range(RUNS)]
        print(f"predict, to the first window: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
