"""Label maps from the network grid back to the scan's grid: linear interpolation of every class beside nearest neighbour.

    python benchmarks/way_back.py           145 classes on 160 x 205 x 165 voxels: seconds and memory
    python benchmarks/way_back.py --ball    distance of a ball's surface from the true one

The label map of the first is made of cells around random points, each with one class, like the parcels of a cortex. MONAI's
own inversion of the resampling, by nearest neighbour, is beside it.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np
import torch
from common import machine, table
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch.nn import functional as F

from monaiseg.evaluation.surfaces import mean_surface_distance_mm, surface_distances
from monaiseg.portable import labels_at

SHAPE = (160, 205, 165)
CLASSES = 145
RADIUS_MM = 12.0
FINE_MM = 0.25
"""Voxel size of the grid on which the ball's true surface is known."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ball", action="store_true")
    options = parser.parse_args()
    print(machine())
    if options.ball:
        ball()
    else:
        brain()


def brain() -> None:
    """Seconds and memory of both ways, from voxels of 1.2 mm to voxels of 1 mm."""
    network = tuple(round(n / 1.2) for n in SHAPE)
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, network, size=(CLASSES, 3))
    places = np.stack(np.meshgrid(*map(np.arange, network), indexing="ij"), axis=-1)
    label_map = KDTree(centres).query(places.reshape(-1, 3), workers=-1)[1].reshape(network)
    label_map = label_map.astype(np.uint8)
    rows = []
    for name, way in (("linear, class by class", linear), ("nearest neighbour", nearest)):
        tracemalloc.start()
        way(label_map, 1.2, SHAPE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        started = time.perf_counter()
        way(label_map, 1.2, SHAPE)
        memory = f"{peak / 2**20:.0f}" if way is linear else "not measured: torch's"
        rows.append([name, f"{time.perf_counter() - started:.2f}", memory])
    print(f"{CLASSES} classes, {network} voxels to {SHAPE}; one label map takes {np.prod(SHAPE) / 2**20:.0f} MiB")  # fmt: skip
    print(table(["way back", "seconds", "MiB of NumPy arrays at most"], rows))


def ball() -> None:
    """Mean distance between the surface of a ball and that of its label map, after the way back to voxels of 1 mm."""
    rows = []
    for step in (1.25, 1.5, 2.0, 3.0):
        coarse = round(40 / step)
        known = inside(coarse, step)
        distances = []
        for way in (linear, nearest):
            home = way(known.astype(np.uint8), step, (40, 40, 40))
            repeated = np.kron(home, np.ones((round(1 / FINE_MM),) * 3, np.uint8)).astype(bool)
            truth = inside(repeated.shape[0], FINE_MM)
            distances.append(
                mean_surface_distance_mm(surface_distances(truth, repeated, (FINE_MM,) * 3))
            )
        volume = linear(known.astype(np.uint8), step, (40, 40, 40)).sum() / (
            4 / 3 * np.pi * RADIUS_MM**3
        )
        rows.append([f"{step:g} mm", *(f"{d:.3f}" for d in distances), f"{volume:.3f}"])
    columns = ["network's voxels", "linear: mm", "nearest: mm", "volume by linear / true"]
    print(table(columns, rows))


def inside(size: int, step: float) -> NDArray[np.bool_]:
    """Voxels of a volume whose centres lie in a ball in its middle."""
    axis = ((np.arange(size) - (size - 1) / 2) * step) ** 2
    return axis[:, None, None] + axis[:, None] + axis <= RADIUS_MM**2


def linear(label_map: NDArray, step: float, shape: tuple[int, int, int]) -> NDArray:
    """To voxels of 1 mm from voxels of `step` mm, both volumes with the same centre."""
    starts = [(n - 1) / 2 - (m - 1) / 2 / step for n, m in zip(label_map.shape, shape, strict=True)]
    return labels_at(label_map, starts, [1 / step] * 3, shape)


def nearest(label_map: NDArray, step: float, shape: tuple[int, int, int]) -> NDArray:
    """The same by torch, as MONAI inverts `Spacingd`: float64, nearest neighbour."""
    axes = [
        ((torch.arange(m) - (m - 1) / 2) / step) * 2 / (n - 1)
        for n, m in zip(label_map.shape, shape, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).double()
    volume = torch.from_numpy(label_map)[None, None].double()
    found = F.grid_sample(volume, grid[None], mode="nearest", padding_mode="border", align_corners=True)  # fmt: skip
    return found[0, 0].to(torch.uint8).numpy()


if __name__ == "__main__":
    main()
