"""nnU-Net v2 as a contender, by its own planner, preprocessing, augmentation workers and trainer.

Runs in nnU-Net's environment, see `nox -s peers`.

Usage: with_nnunet.py steps TASK PATCH BATCH           PATCH: 40x56x40
       with_nnunet.py minutes TASK MINUTES SEED OUTPUT
       with_nnunet.py prepare TASK OUTPUT
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import numpy as np
import torch
from common import Turns, run, split_cases, write_result

NAME, CONFIGURATION, ITERATIONS = "Dataset001_Benchmark", "3d_fullres", 10
WORKERS = "2"
"""Of augmentation, as many as there are cores."""


def prepared(task: Path, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cases in nnU-Net's folders, its fingerprint, plan and preprocessing; returns plan and dataset.json."""
    os.environ |= {
        "nnUNet_raw": str(work / "raw"),
        "nnUNet_preprocessed": str(work / "preprocessed"),
        "nnUNet_results": str(work / "results"),
        "nnUNet_n_proc_DA": WORKERS,
        "nnUNet_compile": "false",
    }
    raw, made = work / "raw" / NAME, work / "preprocessed" / NAME
    splits = split_cases(task)
    cases = splits["train"] + splits["val"]
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in cases:
        shutil.copy(case["image"], raw / "imagesTr" / f"{case['id']}_0000.nii.gz")
        shutil.copy(case["label"], raw / "labelsTr" / f"{case['id']}.nii.gz")
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    programs = Path(sys.executable).parent
    run(programs / "nnUNetv2_extract_fingerprint", "-d", 1, "-np", 2)
    run(programs / "nnUNetv2_plan_experiment", "-d", 1)
    run(programs / "nnUNetv2_preprocess", "-d", 1, "-c", CONFIGURATION, "-np", 2)
    ids = {split: [case["id"] for case in splits[split]] for split in ("train", "val")}
    (made / "splits_final.json").write_text(json.dumps([ids]))
    return json.loads((made / "nnUNetPlans.json").read_text()), about


def trainer_of(plans: dict[str, Any], about: dict[str, Any]) -> Any:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    plans = plans | {"continue_training": False}  # what its own command puts in
    trainer = nnUNetTrainer(plans, CONFIGURATION, 0, about, device=torch.device("cpu"))
    trainer.num_iterations_per_epoch = ITERATIONS
    return trainer


def steps(task: Path, patch: str, batch: str) -> None:
    """The body of its loop: a batch from its workers, and its `train_step`."""
    turns = Turns()
    with tempfile.TemporaryDirectory(dir=task) as work:
        begun = time.perf_counter()
        plans, about = prepared(task, Path(work))
        preparing = time.perf_counter() - begun  # the others find their data prepared
        plan = plans["configurations"][CONFIGURATION]
        plan |= {"patch_size": [int(n) for n in patch.split("x")][::-1], "batch_size": int(batch)}
        trainer = trainer_of(plans, about)
        trainer.on_train_start()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        weights = sum(weight.numel() for weight in trainer.network.parameters())
        turns.ready(
            samples=int(batch),
            weights=weights,
            features=plan["architecture"]["arch_kwargs"]["features_per_stage"],
            preparing=preparing,
        )
        turns.serve(lambda: trainer.train_step(next(trainer.dataloader_train)))
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            loader._finish()


def minutes(task: Path, budget: float, seed: int, output: Path) -> None:
    """Its own plan and schedule over as many iterations as fit; preprocessing is not counted."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  nnU-Net draws from the global state
    torch.manual_seed(seed)
    trainer = trainer_of(*prepared(task, output))
    started = time.perf_counter()
    trainer.on_train_start()
    spent: list[float] = []
    while (elapsed := time.perf_counter() - started) < 60 * budget:
        # Its rate falls with the epoch: as many of them as fit by what one has taken so far.
        left = (60 * budget - elapsed) / (sum(spent) / len(spent)) if spent else 1000
        trainer.lr_scheduler.max_steps = trainer.current_epoch + max(left, 1)
        begun = time.perf_counter()
        trainer.on_train_epoch_start()
        for _ in range(ITERATIONS):
            trainer.train_step(next(trainer.dataloader_train))
            if time.perf_counter() - started > 60 * budget:
                break
        trainer.current_epoch += 1
        spent.append(time.perf_counter() - begun)
    write_result(output, seconds=time.perf_counter() - started)
    predict(trainer, split_cases(task)["test"], output / "predictions")


def predict(trainer: Any, cases: list[dict[str, str]], folder: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder.mkdir()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=trainer.device, perform_everything_on_device=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager,
        [trainer.network.state_dict()], trainer.dataset_json, "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    images = [[case["image"]] for case in cases]
    targets = [str(folder / case["id"]) for case in cases]
    predictor.predict_from_files_sequential(images, targets)


if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    if verb == "steps":
        steps(Path(folder), *rest)
    elif verb == "prepare":
        prepared(Path(folder), Path(rest[0]))
    else:
        minutes(Path(folder), float(rest[0]), int(rest[1]), Path(rest[2]))
