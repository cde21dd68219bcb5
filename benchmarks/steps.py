"""Samples a second of whole training loops, ours and the peers', in turn in one run.

Equal pairs: nnU-Net's own network for this patch against our standard one without residual connections, which is the
same network (but for the biases that nnU-Net gives its convolutions); MONAI's DynUNet against ours with them.

Usage: python benchmarks/steps.py DATASET [--nnunet .nox/peers/bin/python] [--steps 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Rival, in_turn, machine, prepare, table

PATCH, BATCH = (40, 56, 40), 2


def settings(batch: int, **network: Any) -> str:
    task = {
        "batch_size": batch,
        "max_batch_num_per_epoch": [100_000, 0, 0],
        "network": network,
        "save_fig_on": False,
    }
    dataset = {"axis_order": "xyz", "seg": {"patch_size": PATCH}}
    return json.dumps({"dataset": dataset, "tsk_set": task})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, help="python of nnU-Net's environment")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    shape = "x".join(map(str, PATCH))
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(args.dataset, Path(folder))
        plain = settings(BATCH, channels=32, residual=False)
        residual = settings(BATCH, channels=16, deep_supervision_heads=0)
        quick = settings(
            BATCH, variant="folded", channels=32, norm="group", deep_supervision_heads=0
        )
        rivals: dict[str, Rival] = {}
        if args.nnunet:
            rivals["nnU-Net"] = Rival(args.nnunet, "with_nnunet.py", "steps", task, shape, BATCH)
        ours = {"its network in monaiseg": plain}
        rivals |= {
            n: Rival(sys.executable, "with_monaiseg.py", "steps", task, s) for n, s in ours.items()
        }
        rivals["MONAI, DynUNet"] = Rival(
            sys.executable, "with_monai.py", "steps", task, shape, BATCH
        )
        ours = {"that network in monaiseg": residual, "monaiseg, folded": quick}
        rivals |= {
            n: Rival(sys.executable, "with_monaiseg.py", "steps", task, s) for n, s in ours.items()
        }
        seconds = in_turn(rivals, args.steps, args.rounds)
        rows = [
            (
                name,
                f"{rival.facts['weights'] / 1e6:.2f} million",
                f"{seconds[name]:.3f}",
                f"{rival.facts['samples'] / seconds[name]:.2f}",
                f"{rival.peak_gib:.2f}",
                f"{rival.seconds_to_ready:.1f}",
            )
            for name, rival in rivals.items()
        ]
        for rival in rivals.values():
            rival.close()
    print(machine())
    columns = (
        "loop",
        "weights",
        "seconds a step",
        "samples a second",
        "peak memory in GiB",
        "seconds to ready",
    )
    print(table(columns, rows))


if __name__ == "__main__":
    main()
