"""Samples a second of whole training loops, ours and the peers', in turn in one run.

Equal pairs: nnU-Net's own network for this patch against our standard one without residual connections, which is the
same network (but for the biases that nnU-Net gives its convolutions); MONAI's DynUNet against ours with them. Memory is
that of the main process. "Ready" is when the first step could begin on prepared data. A step's CPU time, workers included, depends little on what else the machine does.

Usage: python benchmarks/steps.py DATASET [--nnunet .nox/peers/bin/python] [--steps 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import machine, prepare, table
from contest import Rival, in_turn

PATCH, BATCH = (40, 56, 40), 2
COLUMNS = (
    "loop", "weights", "seconds a step", "samples a second", "samples a CPU second", "peak memory in GiB",
    "seconds to ready",
)  # fmt: skip


def ours(*, amp: bool = True, **network: Any) -> tuple[Any, ...]:
    """A contender of ours: by default in mixed precision, bfloat16 where the processor has it."""
    task_settings = {
        "batch_size": BATCH,
        "max_batch_num_per_epoch": [100_000, 0, 0],
        "amp": amp,
        "network": network,
        "save_fig_on": False,
    }
    dataset = {"axis_order": "xyz", "seg": {"patch_size": PATCH}}
    text = json.dumps({"dataset": dataset, "tsk_set": task_settings})
    return sys.executable, "with_monaiseg.py", text


def contenders(nnunet: Path | None) -> dict[str, tuple[Any, ...]]:
    """By name: interpreter, script, and what follows the data task on its command line."""
    shape = "x".join(map(str, PATCH))
    plain = {"channels": 32, "residual": False}
    residual = {"channels": 16, "deep_supervision_heads": 0}
    quick = {"channels": 32, "norm": "group", "deep_supervision_heads": 0}
    theirs = {} if nnunet is None else {"nnU-Net": (nnunet, "with_nnunet.py", shape, BATCH)}
    return theirs | {
        "nnU-Net's network in monaiseg": ours(**plain),
        "the same in float32": ours(**plain, amp=False),
        "MONAI's DynUNet": (sys.executable, "with_monai.py", shape, BATCH),
        "that network in monaiseg": ours(**residual),
        "the same in float32 too": ours(**residual, amp=False),
        "monaiseg, folded": ours(variant="folded", **quick),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, help="python of nnU-Net's environment")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(args.dataset, Path(folder))
        rivals = {
            name: Rival(python, script, "steps", task, *rest)
            for name, (python, script, *rest) in contenders(args.nnunet).items()
        }
        spent = in_turn(rivals, args.steps, args.rounds)
        rows = [
            (
                name,
                f"{rival.facts['weights'] / 1e6:.2f} million",
                f"{spent[name].wall:.3f}",
                f"{rival.facts['samples'] / spent[name].wall:.2f}",
                f"{rival.facts['samples'] / spent[name].cpu:.2f}",
                f"{rival.peak_gib:.2f}",
                f"{rival.seconds_to_ready:.1f}",
            )
            for name, rival in rivals.items()
        ]
        for rival in rivals.values():
            rival.close()
    print(machine())
    print(table(COLUMNS, rows))


if __name__ == "__main__":
    main()
