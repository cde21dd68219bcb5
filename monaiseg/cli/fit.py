"""`monaiseg fit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.evaluate import evaluate
from monaiseg.cli.loudness import NOW, say
from monaiseg.cli.options import SETTINGS_FILE, Device, LabelTablePath
from monaiseg.cli.plan import plan
from monaiseg.cli.prepare import prepare
from monaiseg.cli.report import report
from monaiseg.cli.train import train

EXAMPLES = """\
monaiseg fit scans --minutes 20

monaiseg fit scans --minutes 60 --output work --name first --label-table labels.csv
"""


def fit(
    scans: Annotated[
        Path, typer.Argument(metavar="SCANS", help="Folder with images/ and labels/.")
    ],
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes that training may take.")] = 20.0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for prepared datasets.")
    ] = Path("work"),
    name: Annotated[str, typer.Option(help="Name of the run.")] = "first",
    label_table: LabelTablePath = None,
    device: Device = None,
) -> None:
    """Prepare, plan, train, evaluate and write the report in one go.

    Each step runs as if it had been typed, and its command is shown.
    Finished steps are not repeated: the same command resumes after an interruption.
    """
    data_task = output / scans.resolve().name
    run = data_task / name
    NOW.is_step = True
    if not data_task.is_dir():
        _show("prepare", scans, "--output", output)
        prepare(scans, output_root_path=output, label_table=label_table)
    on_device = [] if device is None else ["--device", device]
    if not (data_task / SETTINGS_FILE).is_file():
        _show("plan", data_task, "--minutes", f"{minutes:g}", *on_device)
        plan(data_task, minutes=minutes, device=device)
    resume = (run / "checkpoints").is_dir()
    _show("train", data_task, "--name", name, *(["--resume"] if resume else []), *on_device)
    train(data_task, name, resume=resume, device=device)
    _show("evaluate", run, *on_device)
    evaluate(run, device=device)
    _show("report", run)
    report(run)
    NOW.is_step = False
    show_next("monaiseg", "predict", run, "IMAGE.nii.gz", "-o", "labels")


def _show(*words: object) -> None:
    say(typer.style(f"\n$ monaiseg {shlex.join(map(str, words))}", bold=True))
