"""Seconds and peak memory of all metrics of a case: ours, MONAI's and surface-distance's, each in a process of its own.

The case is a synthetic brain of 57 structures on 192 x 224 x 192, against itself bent by up to a few voxels; with
`--stray` a few voxels of every label lie anywhere in the prediction too, so that every structure's box is the whole
volume. Memory is the peak of the whole process, with its imports and the two label maps. MONAI and surface-distance
are given one label at a time: as channels, 57 masks of both maps would take gigabytes. All compute Dice, HD95, mean
surface distance and surface Dice at 1 mm, and print their means over labels; IoU, precision, recall, HD, volumes,
centroids and components are ours alone. MONAI's distances are between voxels at the edge and have no areas.

Usage: python benchmarks/surfaces.py [--stray] [--without MONAI] [--surface-distance PYTHON] [--labels 57] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, peak_gib, run, table
from numpy.typing import NDArray

SHAPE, SPACING, TOLERANCE_MM = (192, 224, 192), (1.0, 1.0, 1.0), 1.0
Row = tuple[float, float, float, float]
"""Dice, HD95, mean surface distance, surface Dice of one structure."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stray", action="store_true", help="voxels of every label lie anywhere")
    parser.add_argument("--surface-distance", help="python that has google-deepmind's library")
    parser.add_argument("--labels", type=int, default=57)
    parser.add_argument("--threads", type=int, default=2, help="of ours")
    parser.add_argument("--without", choices=CONTENDERS, action="append", default=[])
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        compete(args.contender, args.case, args.labels, args.threads)
        return
    if args.case:
        write_case(args.case, args.labels, stray=args.stray)
        return
    pythons = {"monaiseg": sys.executable, "MONAI": sys.executable}
    if args.surface_distance:
        pythons["surface-distance"] = args.surface_distance
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.npz"
        words = ["--labels", str(args.labels), "--threads", str(args.threads), "--case", str(case)]
        run(
            sys.executable, __file__, *words, *(["--stray"] * args.stray)
        )  # its peak is not a contender's
        rows = [
            row(name, python, words) for name, python in pythons.items() if name not in args.without
        ]
    print(f"{machine()}; {args.labels} labels on {SHAPE}{', stray voxels' * args.stray}")
    print(f"monaiseg in {args.threads} threads\n")
    columns = "seconds", "CPU seconds", "GiB", "Dice", "HD95 (mm)", "ASSD (mm)", "surface Dice"
    print(table(["", *columns], rows))


def row(name: str, python: str, words: Sequence[str]) -> list[object]:
    """A contender's line of the table."""
    command = [python, __file__, "--contender", name, *words]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # noqa: S603  our own words
    return [name, *(f"{answer[key]:.2f}" for key in ("seconds", "cpu_seconds", "gib")),
            *(f"{mean:.4f}" for mean in answer["means"])]  # fmt: skip


def write_case(path: Path, num_labels: int, *, stray: bool) -> None:
    """Label maps `reference` and `prediction`."""
    from scipy import ndimage  # noqa: PLC0415  the contenders read this file without it

    from monaiseg.data.labels import LabelTable  # noqa: PLC0415
    from monaiseg.data.phantoms import make_brain  # noqa: PLC0415

    names = {
        n: f"{'left' if n % 2 else 'right'} gyrus {(n + 1) // 2}" for n in range(1, num_labels)
    }
    labels = LabelTable.from_values([*names, num_labels], {**names, num_labels: "brainstem"})
    reference = make_brain(labels, SHAPE, seed=0).label_map.astype(np.uint8)
    rng = np.random.default_rng(0)
    zoom = [n / m for n, m in zip(SHAPE, (8, 9, 8), strict=True)]
    bend = [ndimage.zoom(rng.normal(0, 1.5, (8, 9, 8)), zoom, order=1) for _ in SHAPE]
    moved = [grid + shift for grid, shift in zip(np.indices(SHAPE), bend, strict=True)]
    prediction = ndimage.map_coordinates(reference, moved, order=0, mode="nearest")
    if stray:
        anywhere = rng.random(SHAPE) < 0.0005
        prediction[anywhere] = rng.integers(1, num_labels + 1, anywhere.sum())
    np.savez(path, reference=reference, prediction=prediction)


# ---------------------------------------------------------------- a contender's side


def compete(name: str, case: Path, num_labels: int, threads: int) -> None:
    """Score the case and say what it took."""
    maps = np.load(case)
    reference, prediction = maps["reference"], maps["prediction"]
    score = CONTENDERS[name](num_labels, threads)
    wall, cpu = time.perf_counter(), time.process_time()
    rows = list(score(reference, prediction))
    answer = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "gib": peak_gib(),
        "means": [statistics.fmean(column) for column in zip(*rows, strict=True)],
    }
    print(json.dumps(answer))


Score = Callable[[NDArray[Any], NDArray[Any]], Iterator[Row]]


def ours(num_labels: int, threads: int) -> Score:
    from monaiseg.evaluation.structures import Structure, score_structures  # noqa: PLC0415

    structures = [Structure(f"{n}", (n,), TOLERANCE_MM) for n in range(1, num_labels + 1)]

    def score(reference: NDArray[Any], prediction: NDArray[Any]) -> Iterator[Row]:
        scores = score_structures(reference, prediction, structures, SPACING, threads=threads)
        return ((s.dice, s.hd95_mm, s.assd_mm, s.surface_dice) for s in scores)

    return score


def monais(num_labels: int, threads: int) -> Score:  # noqa: ARG001  torch has threads of its own
    import torch  # noqa: PLC0415
    from monai.metrics import (  # noqa: PLC0415
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    def score(reference: NDArray[Any], prediction: NDArray[Any]) -> Iterator[Row]:
        for label in range(1, num_labels + 1):
            pair = [torch.from_numpy(m == label)[None, None] for m in (prediction, reference)]
            more = {"include_background": True, "spacing": SPACING}
            yield (
                compute_dice(*pair, include_background=True).item(),
                compute_hausdorff_distance(*pair, percentile=95, **more).item(),
                compute_average_surface_distance(*pair, symmetric=True, **more).item(),
                compute_surface_dice(*pair, [TOLERANCE_MM], **more).item(),
            )

    return score


def surface_distances(num_labels: int, threads: int) -> Score:  # noqa: ARG001  it has none
    from surface_distance import metrics  # noqa: PLC0415

    def score(reference: NDArray[Any], prediction: NDArray[Any]) -> Iterator[Row]:
        for label in range(1, num_labels + 1):
            a, b = reference == label, prediction == label
            distances = metrics.compute_surface_distances(a, b, SPACING)
            yield (
                metrics.compute_dice_coefficient(a, b),
                metrics.compute_robust_hausdorff(distances, 95),
                statistics.fmean(metrics.compute_average_surface_distance(distances)),
                metrics.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
            )

    return score


CONTENDERS = {"monaiseg": ours, "MONAI": monais, "surface-distance": surface_distances}

if __name__ == "__main__":
    main()
