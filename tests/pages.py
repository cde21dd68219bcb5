"""Score folders and pages for the tests of the report."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import write_image, write_label_map

CANARY = "Canary, Jane"
"""A text in every header, which no page may hold."""


def write_folders(
    root: Path,
    num_cases: int = 3,
    num_labels: int = 2,
    shape: tuple[int, int, int] = (24, 20, 16),
    height: int = 8,
) -> None:
    """Images, references and predictions: boxes in a row along x; case n's prediction is moved n + 1 voxels along y."""
    rng = np.random.default_rng(0)
    grid = Grid.of(shape, np.diag([-1.0, 1, 2, 1]))  # LAS
    for number in range(num_cases):
        reference = boxes(shape, num_labels, height)
        prediction = np.roll(reference, number + 1, axis=1)
        name = f"case_{number}"
        for folder in ("images", "references", "predictions"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        image = rng.normal(100, 10, shape) + 50 * (reference > 0)
        write_image(root / "images" / f"{name}.nii.gz", image, grid)
        write_label_map(root / "references" / f"{name}.nii.gz", reference, grid)
        write_label_map(root / "predictions" / f"{name}_pred.nii.gz", prediction, grid)
    for path in root.rglob("*.nii.gz"):
        volume = nib.load(path)
        volume.header["descrip"] = volume.header["aux_file"] = CANARY.encode()
        nib.save(volume, path)
    rows = "".join(f"{n},structure {n}\n" for n in range(1, num_labels + 1))
    (root / "labels.csv").write_text("value,name\n" + rows)


def boxes(shape: tuple[int, int, int], num_labels: int, height: int) -> np.ndarray:
    """Labels 1, 2, ... in slabs along x, in the middle of y and z, with that many voxels along both."""
    labels = np.zeros(shape, np.int16)
    edges = np.linspace(2, shape[0] - 2, num_labels + 1).astype(int)
    for value, (start, stop) in enumerate(itertools.pairwise(edges), start=1):
        labels[start:stop, 5 : 5 + height, 4 : 4 + height] = value
    return labels


def make_page(root: Path, *more: str) -> Path:
    """The report of the folders that `write_folders` wrote."""
    scores = root / "scores"
    call(
        "evaluate", "--prediction-dir", root / "predictions", "--reference-dir", root / "references",
        "--image-dir", root / "images", "--label-table", root / "labels.csv", "--report", scores,
    )  # fmt: skip
    call("report", scores, *more)
    return scores / "report.html"


def call(*words: object) -> str:
    """Run a command that must end well; returns what it printed."""
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output
