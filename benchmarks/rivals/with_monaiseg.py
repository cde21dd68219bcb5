"""monaiseg as a contender.

Usage: with_monaiseg.py steps TASK SETTINGS             SETTINGS: JSON text
       with_monaiseg.py minutes TASK MINUTES SEED OUTPUT
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import MONAISEG, Turns, run, split_cases, write_result
from ignite.engine import Engine, Events

from monaiseg.data.data_tasks import read_data_task
from monaiseg.settings.reading import settings_from_dict
from monaiseg.training.devices import choose_device
from monaiseg.training.recipe import Recipe
from monaiseg.training.run import build_training, fit
from monaiseg.training.run_folder import RunFolder


def steps(task: Path, text: str) -> None:
    """The real training loop, stopped between two steps while it is another's turn."""
    turns = Turns()
    settings = settings_from_dict(json.loads(text))
    with (
        tempfile.TemporaryDirectory(dir=task) as name,
        RunFolder.of(task, Path(name).name).opened(resume=False) as folder,
    ):
        recipe = Recipe.of(settings, read_data_task(task), choose_device(-1))
        trainer, state = build_training(recipe, folder)

        def wait(engine: Engine) -> None:
            if not turns.next():
                engine.terminate()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, wait)
        trainer.add_event_handler(
            Events.EPOCH_STARTED, lambda engine: engine.state.epoch == 1 and turns.next()
        )
        weights = sum(weight.numel() for weight in state.network.parameters())
        turns.ready(samples=settings.batch_size, weights=weights)
        fit(trainer, recipe, state, folder, say=lambda _: None)


def minutes(task: Path, budget: float, seed: int, output: Path) -> None:
    """Plan and train within the minutes, then predict the test cases."""
    settings = output / "settings.json"
    place: list[Any] = ["-o", task.parent, "-dtn", task.name]
    planning = run(*MONAISEG, "plan", "--output-root-path", task.parent,
        "--data-task-name", task.name, "--minutes", budget, "-o", settings)  # fmt: skip
    document = json.loads(settings.read_text())
    document["tsk_set"]["seed"] = seed
    settings.write_text(json.dumps(document))
    seconds = run(*MONAISEG, "train", "-ts", settings, *place, "-tn", output.name)
    write_result(output, seconds=seconds, plan_seconds=planning)
    images = [word for case in split_cases(task)["test"] for word in ("-i", case["image"])]
    run(*MONAISEG, "predict", "-m", task / output.name, *images, "-o", output / "predictions")
    for path in (output / "predictions").iterdir():  # by the names that the scorer goes by
        path.rename(path.with_name(path.name.replace("_pred.nii.gz", ".nii.gz")))


if __name__ == "__main__":
    verb, task, *rest = sys.argv[1:]
    if verb == "steps":
        steps(Path(task), rest[0])
    else:
        minutes(Path(task), float(rest[0]), int(rest[1]), Path(rest[2]))
