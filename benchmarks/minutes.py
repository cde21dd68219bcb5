"""Dice against wall-clock minutes of training: ours, planned for the minutes, and the peers', on the same split.

Every contender trains on the training cases of `prepare`'s default split for so many minutes and labels the test cases;
one scorer scores them all. What is counted is the training command with everything in it: not nnU-Net's and MONAI's
preprocessing, not our `plan`, whose seconds are kept apart. A point that FILE holds is not measured again, so that a
run can be gone on with; new ones are added to it, each with its machine. The figure is drawn anew each time.

Usage: python benchmarks/minutes.py --dataset DATASET --output OUTPUT [--minutes 8 20] [--seeds 0 1 2]
           [--contenders monaiseg monai nnunet] [--nnunet .nox/peers/bin/python] [--points FILE]
           [--figure docs/dice_against_minutes.svg]

benchmarks/minutes.json holds the points of benchmarks/RESULTS.md: with `--points benchmarks/minutes.json` they are
shown. By default FILE is OUTPUT/points.json, and all is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import RIVALS, machine, prepare, run, split_cases, table
from figure import NAMES, figure

from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_label_map
from monaiseg.evaluation.metrics import class_counts, dice_from_counts, mean_over_cases


def point(
    contender: str, python: str, task: Path, minutes: float, seed: int, output: Path
) -> dict[str, Any]:
    """Train and score once: mean Dice over the test cases of each label, and the seconds that training took."""
    folder = output / f"{contender}-{minutes:g}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # half done
    shutil.rmtree(task / folder.name, ignore_errors=True)
    folder.mkdir()
    run(python, RIVALS / f"with_{contender}.py", "minutes", task, minutes, seed, folder)
    result = json.loads((folder / "result.json").read_text())
    facts = {"contender": contender, "minutes": minutes, "seed": seed, **result}
    facts |= {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    return facts | {"dice": dice(task, folder / "predictions")}


def dice(task: Path, predictions: Path) -> dict[str, float]:
    """Mean Dice of each label over the test cases."""
    labels = LabelTable.from_records(json.loads((task / "dataset.json").read_text())["labels"])
    cases = []
    for case in split_cases(task)["test"]:
        paths = (predictions / f"{case['id']}.nii.gz", case["label"])
        maps = [
            torch.from_numpy(labels.class_indices(read_label_map(path)[0], others="refuse"))
            for path in paths
        ]
        cases.append(dice_from_counts(class_counts(*maps, labels.num_classes)))
    _, means = mean_over_cases(torch.stack(cases))
    return {label.name: mean for label, mean in zip(labels.foreground, means, strict=True)}


def medians(points: list[dict[str, Any]]) -> list[Any]:
    """Of each contender and number of minutes the median over seeds of the seconds and of each label's Dice."""
    keys = dict.fromkeys((p["contender"], p["minutes"]) for p in points)
    rows = []
    for contender, minutes in keys:
        same = [p for p in points if (p["contender"], p["minutes"]) == (contender, minutes)]
        scores = {
            name: statistics.median(p["dice"][name] for p in same) for name in same[0]["dice"]
        }
        seconds = statistics.median(p["train_seconds"] for p in same)
        rows.append(
            {"contender": contender, "minutes": minutes, "seconds": seconds, "seeds": len(same)}
            | {"dice": scores, "mean": statistics.mean(scores.values())}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[8, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contenders", nargs="+", choices=list(NAMES), default=["monaiseg"])
    parser.add_argument("--nnunet", default=".nox/peers/bin/python")
    parser.add_argument("--points", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    task = args.output / "benchmark"
    if not task.exists():
        prepare(args.dataset, args.output)
    kept = args.points or args.output / "points.json"
    points: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    known = {(p["contender"], p["minutes"], p["seed"]) for p in points}
    for key in itertools.product(args.contenders, args.minutes, args.seeds):
        if key in known:
            continue
        contender, minutes, seed = key
        python = args.nnunet if contender == "nnunet" else sys.executable
        points.append(point(contender, python, task, minutes, seed, args.output))
        kept.write_text(json.dumps(points, indent=1) + "\n")
        print(points[-1], file=sys.stderr, flush=True)
    labels = list(points[0]["dice"])
    rows = [
        [NAMES[row["contender"]], f"{row['minutes']:g}", f"{row['seconds'] / 60:.1f}", row["seeds"]]
        + [f"{row['dice'][label]:.4f}" for label in labels]
        for row in medians(points)
    ]
    print("; ".join(dict.fromkeys(f"{point['machine']}, {point['date']}" for point in points)))
    print(table(["", "minutes given", "taken", "seeds", *labels], rows))
    picture = args.figure or args.output / "dice_against_minutes.svg"
    picture.write_text(figure(points), encoding="utf-8")


if __name__ == "__main__":
    main()
