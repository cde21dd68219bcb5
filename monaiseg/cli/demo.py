"""`monaiseg demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monaiseg.cli.display import show_next, show_scores


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder for everything it makes.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 12,
    seed: Annotated[
        int, typer.Option(min=0, help="Brains, split and training follow from this number.")
    ] = 0,
) -> None:
    """See the whole of it in a few minutes: made brains, prepare, train, evaluate, predict, pictures."""
    from monaiseg.demo import run_demo

    evaluation, pictures = run_demo(output, epochs=epochs, seed=seed, say=typer.echo)
    show_scores(evaluation, most=12)
    typer.echo(f"pictures: {', '.join(map(str, pictures))}")
    show_next(f'tensorboard --logdir "{output}"')
