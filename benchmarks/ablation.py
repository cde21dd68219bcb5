"""What each choice of the recipe brings: trainings that differ from it in one thing, judged by the validation cases.

With --steps all make as many steps, and their seconds differ; with --minutes all take as long, and their steps differ.
CPU seconds are those of this process and its workers: they do not depend on what else the machine does.

Usage: python benchmarks/ablation.py DATASET OUTPUT (--steps 700 | --minutes 8) [--only NAME ...] [--seed 0]
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
from pathlib import Path
from typing import Any

from common import MONAISEG, machine, prepare, run, table

from monaiseg.settings.reading import changed, load_settings
from monaiseg.settings.writing import dump_settings

RECIPE = Path(__file__).parent.parent / "scripts" / "settings_for_hippocampus" / "seg_train"
STEPS_PER_EPOCH = 35
MEASURES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "float32 in place of bfloat16": {"tsk_set.amp": False},
    "24 channels": {"tsk_set.network.channels": 24},
    "48 channels": {"tsk_set.network.channels": 48},
    "standard network of 16 channels": {
        "tsk_set.network.variant": "standard",
        "tsk_set.network.channels": 16,
    },
    "instance norm": {"tsk_set.network.norm": "instance"},
    "batch norm": {"tsk_set.network.norm": "batch"},
    "no residual connections": {"tsk_set.network.residual": False},
    "one coarser output": {"tsk_set.network.deep_supervision_heads": 1},
    "half the learning rate": {"tsk_set.optim.lr": 0.002},
    "twice the learning rate": {"tsk_set.optim.lr": 0.008},
    "cosine schedule": {"tsk_set.optim.lr_scheduler.type": "cosine"},
    "no average of the weights": {"tsk_set.weight_averaging": 0.0},
    "no augmentation": {"dataset.seg.augmentation.enabled": False},
    "mirrored left to right": {"dataset.seg.augmentation.flip.left_right": 0.5},
    "deformed": {"dataset.seg.augmentation.deformation.probability": 0.3},
    "patches of 32 x 48 x 32": {"dataset.seg.patch_size": (32, 48, 32)},
    "batches of 2": {"tsk_set.batch_size": 2},
    "batches of 8": {"tsk_set.batch_size": 8},
    "cross-entropy alone": {"tsk_set.loss.type": "ce"},
}


def trained(task: Path, name: str, changes: dict[str, Any]) -> tuple[float, float, int]:
    """Train with these changes to the recipe: mean Dice of the best validation, CPU seconds, steps."""
    number = f"measure-{list(MEASURES).index(name):02}-{changes['tsk_set.seed']}"
    settings = changed(load_settings(RECIPE / "curr_task_settings.json"), changes)
    file = task / f"{number}.json"
    file.write_text(dump_settings(settings))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*MONAISEG, "train", "-ts", file, "-o", task.parent, "-dtn", task.name, "-tn", number)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = list(csv.DictReader((task / number / "history.csv").open()))
    scores = [float(row["dice/mean"]) for row in rows if row["dice/mean"]]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return max(scores), spent, int(rows[-1]["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    task = args.output / "benchmark"
    if not task.exists():
        prepare(args.dataset, args.output)
    common: dict[str, Any] = {"tsk_set.seed": args.seed, "tsk_set.budget_minutes": args.minutes}
    if args.steps:
        epochs = max(args.steps // STEPS_PER_EPOCH, 1)
        common |= {"tsk_set.epochs": epochs, "tsk_set.val_period": max(epochs // 4, 1)}
        common["tsk_set.max_batch_num_per_epoch"] = (STEPS_PER_EPOCH, -1, 0)
    kept = args.output / f"ablation-{args.steps or args.minutes}-{args.seed}.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in args.only:
        if name not in found:
            found[name] = trained(task, name, common | MEASURES[name])
            kept.write_text(json.dumps(found, indent=1))
            print(name, *found[name], file=sys.stderr, flush=True)
    best = found.get("the recipe", [float("nan")])[0]
    print(machine())
    rows = [
        (name, f"{dice:.4f}", f"{dice - best:+.4f}", f"{seconds:.0f}", steps)
        for name, (dice, seconds, steps) in found.items()
    ]
    print(table(("", "mean Dice", "against the recipe", "CPU seconds", "steps"), rows))


if __name__ == "__main__":
    main()
