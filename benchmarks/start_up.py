"""How long `monaiseg --help` and `import monaiseg` take: median seconds of whole processes.

Usage: python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9
COMMANDS = {
    "monaiseg --help": [sys.executable, "-m", "monaiseg", "--help"],
    "import monaiseg": [sys.executable, "-c", "import monaiseg"],
    "python alone": [sys.executable, "-c", ""],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  our own words
    return time.perf_counter() - started


for name, command in COMMANDS.items():
    print(f"{name}: {statistics.median(seconds(command) for _ in range(RUNS)):.3f} s")
