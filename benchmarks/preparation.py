"""Seconds that preparing takes per 100 cases: `monaiseg prepare`, and nnU-Net's fingerprint, plan and preprocessing.

Usage: python benchmarks/preparation.py DATASET [--nnunet .nox/peers/bin/python]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import RIVALS, machine, prepare, run, split_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, help="python of nnU-Net's environment")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        task = prepare(args.dataset, Path(folder))
        seconds = time.perf_counter() - started
        splits = split_cases(task)
        print(machine())
        count = sum(map(len, splits.values()))
        print(f"monaiseg prepare: {100 * seconds / count:.1f} s for 100 cases, of {count}")
        if args.nnunet:
            seconds = run(args.nnunet, RIVALS / "with_nnunet.py", "prepare", task, Path(folder))
            count = len(splits["train"] + splits["val"])
            print(f"nnU-Net: {100 * seconds / count:.1f} s for 100 cases, of {count}")


if __name__ == "__main__":
    main()
