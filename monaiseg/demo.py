"""The demo: all steps from preparation to the report on synthetic brains, in a few minutes on two cores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from monaiseg.data import load_label_table, prediction_name, write_phantom_dataset
from monaiseg.errors import SettingsError
from monaiseg.evaluation import (
    Evaluation,
    evaluate,
    worst_first,
    write_case_picture,
    write_report,
    write_sources,
)
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare
from monaiseg.progress import progress_bar
from monaiseg.report import REPORT_FILE, read_score_folder, write_page
from monaiseg.settings import Settings, settings_from_dict
from monaiseg.training import train

NUM_BRAINS = 30
SHAPE = (64, 72, 64)


def demo_settings(epochs: int, seed: int) -> Settings:
    """Settings to learn eight structures of synthetic brains, left and right apart, in a few minutes on two cores."""
    return settings_from_dict(
        {
            "dataset": {
                "spacing": [4.0, 4.0, 4.0],
                "seg": {
                    "patch_size": [40, 40, 40],
                    "interested_label_list": [0, 161, 162, 163, 164, 165, 166, 181, 182],
                    "sampling": {"pos": 4.0, "neg": 1.0},
                },
            },
            "tsk_set": {
                "seed": seed,
                "epochs": epochs,
                "batch_size": 2,
                "max_batch_num_per_epoch": [40, -1, 1],
                "val_period": max(epochs // 3, 1),
                "optim": {"lr": 0.004},
                "network": {
                    "variant": "folded",
                    "channels": 24,
                    "deep_supervision_heads": 0,
                },
            },
        },
        source="demo",
    )


def run_demo(
    output: str | Path,
    *,
    epochs: int = 36,
    seed: int = 0,
    say: Callable[[str], None],
    show_progress: bool = True,
) -> tuple[Evaluation, list[Path]]:
    """Make synthetic brains, train on them and evaluate on held-out ones; returns the scores, and pictures and report.

    Raises:
        SettingsError: `output` already exists and is not an empty folder.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SettingsError(f"{output}: is not empty; give the demo a new folder")
    data, table = output / "brains", load_label_table("lpba40")
    say(f"writing {NUM_BRAINS} synthetic brains with {table.num_classes - 1} structures to {data}")
    write_phantom_dataset(data, NUM_BRAINS, table=table, shape=SHAPE, seed=seed)

    say("preparing the data: pairing, checking and splitting")
    task = prepare(data, output / "work", "brains", seed=seed, label_table="lpba40")

    say(f"training for {epochs} epochs")
    result = train(
        demo_settings(epochs, seed),
        output_root_path=output / "work",
        data_task_name="brains",
        task_name="demo",
        say=say,
        show_progress=show_progress,
    )
    if result.interrupted:
        raise KeyboardInterrupt

    say("evaluating on held-out brains")
    predictor = Predictor(result.run_folder)
    held_out = task.cases["test"]
    scores_folder = output / "scores"
    predictions = scores_folder / "predictions"
    scored = itertools.count(1)
    with progress_bar("evaluating", show=show_progress) as advance:
        evaluation = evaluate(
            predictor,
            held_out,
            model=str(result.run_folder),
            data_task=str(task.folder),
            predictions=predictions,
            on_case=lambda _: advance(next(scored), len(held_out)),
        )
    write_report(evaluation, scores_folder)
    files = {
        case.id: (case.images[0], Path(case.label or ""), predictions / prediction_name(case.id))
        for case in held_out
    }
    command = ["monaiseg", "demo", f"--epochs={epochs}", f"--seed={seed}"]
    write_sources(scores_folder, files, predictor.table, command)
    worst, *_, best = worst_first(evaluation)
    pictures = [
        write_case_picture(
            output / f"{word}.png",
            *files[scores.case_id],
            predictor.table,
            title=f"{word} of {len(held_out)} held-out synthetic brains, {scores.case_id}: mean Dice {scores.mean_dice:.2f}",
        )
        for word, scores in (("worst", worst), ("best", best))
    ]
    say("writing the report")
    page = write_page(read_score_folder(scores_folder), output / REPORT_FILE, command=command)
    return evaluation, [*pictures, page]
