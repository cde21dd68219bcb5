"""`monaiseg check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar, show_next
from monaiseg.cli.loudness import NOW, Json, print_json, result_as_json, say
from monaiseg.cli.options import LabelTablePath, read_settings

if TYPE_CHECKING:
    from monaiseg.checks import Checkup, Finding

EXAMPLES = """\
monaiseg check scans

monaiseg check scans --label-table labels.csv --html check.html

monaiseg check work/scans --settings settings.json --json > check.json
"""
LISTED = 4
"""Cases of a finding that the table lists."""


def check(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Folder with images/ and labels/, or a folder that `monaiseg prepare` wrote.",
            show_default=False,
        ),
    ],
    settings_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--settings",
            "-ts",
            help="Settings of the training, to check them against the cases and to estimate time and memory.",
        ),
    ] = None,
    label_table: LabelTablePath = None,
    group_by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Pattern or CSV file that finds the person in a case's name, as for `prepare`."
        ),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--html", help="Write a page with pictures of the doubtful cases."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find out what is wrong or doubtful in a dataset, before training.

    Every file is read once.
    Each finding says which cases it is about, why it matters and what to do.
    The exit code is 2 if training cannot start, otherwise 0.
    """
    from monaiseg.checks import check as check_dataset
    from monaiseg.checks import summary, write_page

    result_as_json(wanted=as_json)
    settings = None if settings_path is None else read_settings(settings_path)
    if settings is not None:
        typer.echo(
            "after reading the cases, a few training steps are timed for about 20 seconds", err=True
        )
    with progress_bar("reading cases") as advance:
        checkup = check_dataset(
            dataset,
            settings,
            label_table=label_table,
            group_by=group_by,
            on_progress=advance,
        )
    if checkup.findings:
        _show_table(checkup.findings)
    say(summary(checkup))
    if checkup.estimate is not None:
        say(checkup.estimate.in_words())
    if as_json:
        print_json(checkup.to_record())
    if html is not None:
        with progress_bar("drawing cases") as advance:
            write_page(html, checkup, advance)
        say(f"written: {html}")
    if checkup.stops_training:
        raise typer.Exit(2)
    _show_next(checkup, dataset, label_table, group_by)


def _show_table(findings: Sequence[Finding]) -> None:
    """Print the findings, with what to do, and the first cases of each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True, title="findings", title_justify="left")
    table.add_column("what", ratio=5)
    table.add_column("cases", ratio=4, overflow="fold")
    table.add_column("what to do", ratio=4)
    for finding in findings:
        what = Text()
        if finding.stops_training:
            what.append("stops training: ", style="bold red")
        what.append(finding.what, style="bold")
        what.append(f"\n{finding.why}", style="dim")
        table.add_row(what, Text("\n".join(_case_lines(finding))), Text(finding.remedy))
    width = None if sys.stdout.isatty() else 120
    Console(width=width, stderr=NOW.as_json).print(table)


def _case_lines(finding: Finding) -> list[str]:
    lines = [": ".join(filter(None, (doubt.case, doubt.detail))) for doubt in finding.doubts]
    rest = len(lines) - LISTED
    return [*lines[:LISTED], *([f"... and {rest} more"] if rest > 0 else [])]


def _show_next(
    checkup: Checkup, dataset: Path, label_table: Path | None, group_by: str | None
) -> None:
    """Print the command that makes sense after the check."""
    if checkup.evidence.task is not None:
        show_next("monaiseg", "plan", dataset, "--minutes", 60)
        return
    options = [
        word
        for name, value in (("--label-table", label_table), ("--group-by", group_by))
        if value is not None
        for word in (name, value)
    ]
    show_next("monaiseg", "prepare", dataset, *options)
