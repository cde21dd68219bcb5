"""`monaiseg report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.compare import scores_file
from monaiseg.cli.display import progress_bar
from monaiseg.cli.loudness import note, say

EXAMPLES = """\
monaiseg report work/scans/first

monaiseg report work/scans/first --split val --cases 10 --output first.html

monaiseg report scores
"""


def report(
    scores: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_SCORES",
            help="Run folder whose model was evaluated, or a folder that `evaluate` wrote.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str, typer.Option(help="Split whose scores are taken from a run folder.")
    ] = "test",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="The HTML file. Default: report.html beside the scores."
        ),
    ] = None,
    cases: Annotated[
        int, typer.Option(min=0, help="Number of worst cases to show with pictures.")
    ] = 6,
) -> None:
    """Write the scores of a model as one HTML file, with pictures of the worst cases and a viewer.

    The file works without a network and contains all that it shows, so you can send it to others.
    Volumes of the worst cases are embedded: send it only to people who may see the scans.
    """
    write_report_page(scores_file(scores, split).parent, output, cases=cases)


def write_report_page(folder: Path, output: Path | None = None, *, cases: int = 6) -> None:
    """Write the page for the scores in a folder, and print where it is."""
    from monaiseg.report import REPORT_FILE, read_score_folder, write_page

    scores = read_score_folder(folder)
    with progress_bar("reading cases") as advance:
        page = write_page(
            scores,
            output or folder / REPORT_FILE,
            command=["monaiseg", *sys.argv[1:]],
            most_cases=cases,
            advance=advance,
        )
    if scores.summary.cases and not any(map(scores.files, scores.summary.per_case)):
        note(
            "the label maps of these scores are missing, so the report has no pictures; run `monaiseg evaluate` again to "
            "get them"
        )
    say(f"written: {page} ({page.stat().st_size / 1e6:.1f} MB); open it in a browser")
