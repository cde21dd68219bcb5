"""Output of the commands: progress, tables, warnings and the next command."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monaiseg.cli.loudness import NOW, note, say
from monaiseg.errors import MonaisegWarning, counted_of

if TYPE_CHECKING:
    from monaiseg.checks import Finding
    from monaiseg.data import DataTask
    from monaiseg.evaluation import Evaluation
    from monaiseg.planning import Choice
    from monaiseg.progress import Advance


def progress_bar(what: str) -> AbstractContextManager[Advance]:
    """Shows the progress of the work in a block, unless `-q` is given; see `monaiseg.progress`."""
    from monaiseg.progress import progress_bar as bar

    return bar(what, show=not NOW.quiet)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints each of the project's own warnings once, as one plain line on stderr."""
    original = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **named: Any) -> None:
        if issubclass(category, MonaisegWarning):
            note(str(message))
        else:
            original(message, category, *rest, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("once", MonaisegWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\.")
        warnings.showwarning = show
        yield


def show_next(*words: object) -> None:
    """Print the command to run next, ready to paste into a shell."""
    if NOW.is_step:
        return
    say(f"next: {shlex.join(map(str, words))}")


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table whose first column is text and whose other columns are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 110
    Console(width=width, stderr=NOW.as_json).print(table)


def show_choices(choices: Sequence[Choice]) -> None:
    """Print the choices of a plan with their reasons, in two columns."""
    from rich.console import Console
    from rich.table import Table

    if NOW.quiet:
        return
    table = Table.grid(padding=(0, 2))
    for choice in choices:
        table.add_row(choice.what, choice.why)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, stderr=NOW.as_json, highlight=False).print(table)


def show_data_task(task: DataTask) -> None:
    """Print the contents of a data task: cases of each split, shapes, voxel sizes and labels."""
    for text in task.notes:
        note(text)
    if NOW.quiet:
        return
    # `debug` repeats some training cases, for EasyReg's sake.
    rows = [[split, str(len(cases))] for split, cases in task.cases.items() if split != "debug"]
    print_table(f"{task.name}: cases", ["split", "cases"], rows)
    facts = list(task.facts.values())
    if facts:
        say(f"shape (voxels): {_ranges([fact.shape for fact in facts])}")
        say(f"spacing (mm): {_ranges([fact.spacing for fact in facts])}")
    say(f"labels: {task.table.num_classes - 1} and background")
    say(f"written: {shown_path(task.folder)}")


def show_findings(findings: Sequence[Finding], folder: Path) -> None:
    """Print findings in short, and how to learn more about them."""
    for finding in findings:
        cases = [*dict.fromkeys(doubt.case for doubt in finding.doubts if doubt.case)]
        more = f", ... {len(cases) - 5} more" if cases[5:] else ""
        named = f" ({', '.join(cases[:5])}{more})" if cases else ""
        note(f"{finding.what}{named}")
    if findings:
        command = shlex.join(["monaiseg", "check", str(folder), "--html", "check.html"])
        note(f"`{command}` shows these cases, why they matter and what to do")


def shown_path(path: Path) -> Path:
    """A path as it is shown: relative to the current folder where it is in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _ranges(triples: Sequence[tuple[float, float, float]]) -> str:
    """Smallest and largest value along each axis.

    >>> _ranges([(31, 54, 34), (43, 42, 34)])
    '31 to 43, 42 to 54, 34'
    """
    ends = ((min(axis), max(axis)) for axis in zip(*triples, strict=True))
    return ", ".join(
        f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in ends
    )


_LESION_WORDS = {
    "lesion_f1": "lesion F1",
    "lesion_sensitivity": "lesions found",
    "lesion_false_positives": "false positives a scan",
}


def show_scores(evaluation: Evaluation, most: int | None = None) -> None:
    """Print the scores of an evaluation, one row per label, at most `most` rows."""
    from monaiseg.evaluation import LESIONS, summarise, tolerance_words

    summary = summarise(evaluation)
    lesions = LESIONS if any(label.is_lesion for label in summary.labels) else ()
    shown = ("dice", "surface_dice", "hd95_mm", "assd_mm", "volume_error_ml", *lesions)
    rows = [
        [
            label.name,
            *(_shown_number(label.scores[name].value) for name in shown),
            f"{label.missed}" if label.missed else "",
            f"{label.cases}",
        ]
        for label in summary.labels[:most]
    ]
    header = [
        "label",
        "Dice",
        f"surface Dice, {tolerance_words([label.tolerance_mm for label in summary.labels])}",
        "HD95 (mm)",
        "ASSD (mm)",
    ]
    header += ["volume error (ml)", *(_LESION_WORDS[name] for name in lesions), "missed", "cases"]
    print_table(f"{evaluation.split}: {summary.cases} cases", header, rows)
    if most is not None and len(summary.labels) > most:
        say(f"... and {len(summary.labels) - most} more labels in scores.csv")
    mean = summary.mean_dice
    interval = (
        ""
        if mean.low is None
        else f" (95 % interval over cases: {mean.low:.4f} to {mean.high:.4f})"
    )
    over = f"{summary.scored_labels} in {counted_of(mean.cases, summary.cases, 'case')}"
    say(f"mean Dice over {over}: {evaluation.mean_dice:.4f}{interval}")
    for text in summary.notes:
        say(f"note: {text}")


def _shown_number(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"
