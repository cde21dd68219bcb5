"""MONAI's workflow of a bundle's configuration, run in the test's own process; and equal weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle.workflows import ConfigWorkflow

from monaiseg.training import checkpoint as checkpoints

REPOSITORY = Path(__file__).parents[1]
LPBA = REPOSITORY / "bundles" / "lpba"


def workflow(folder: Path, name: str, **overrides: Any) -> ConfigWorkflow:
    """MONAI's workflow of a configuration, initialised."""
    made = ConfigWorkflow(
        str(folder / "configs" / f"{name}.json"),
        logging_file=False,
        workflow_type="train" if name == "train" else "infer",
        bundle_root=str(folder),
        **overrides,
    )
    made.initialize()
    return made


def run_workflow(folder: Path, name: str, **overrides: Any) -> ConfigWorkflow:
    made = workflow(folder, name, **overrides)
    made.run()
    made.finalize()
    return made


def same_weights(first: Path, second: Path) -> bool:
    weights = checkpoints.newest(first).network, checkpoints.newest(second).network
    return weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[0][name], value) for name, value in weights[1].items()
    )
