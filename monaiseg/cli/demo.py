"""`monaiseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monaiseg.cli.display import show_next, show_scores
from monaiseg.cli.loudness import NOW, say


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder for all output.")
    ] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Number of training epochs.")] = 36,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the synthetic brains, the split and the training run."),
    ] = 0,
) -> None:
    """Try everything on synthetic brains in a few minutes: prepare, train, evaluate, predict, report."""
    from monaiseg.demo import run_demo

    evaluation, (*pictures, page) = run_demo(
        output, epochs=epochs, seed=seed, say=say, show_progress=not NOW.quiet
    )
    show_scores(evaluation, most=12)
    for picture in pictures:
        say(f"written: {picture}")
    say(f"written: {page}; open it in a browser")
    show_next("tensorboard", "--logdir", output)
