"""How long `monaiseg --help`, shell completion and `import monaiseg` take: median seconds of whole processes.

Usage: python benchmarks/start_up.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

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
    "python alone": (["-c", ""], {}),
}


def seconds(words: list[str], variables: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(  # noqa: S603  our own words
        [sys.executable, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **variables},
    )
    return time.perf_counter() - started


for name, (words, variables) in COMMANDS.items():
    median = statistics.median(seconds(words, variables) for _ in range(RUNS))
    print(f"{name}: {median:.3f} s")
