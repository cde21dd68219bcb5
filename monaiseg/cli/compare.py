"""`monaiseg compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.display import print_table
from monaiseg.cli.loudness import Json, note, print_json, result_as_json
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.evaluation import Comparison

EXAMPLES = """\
monaiseg compare work/scans/first work/scans/second

monaiseg compare first/scores.csv second/scores.csv --metric hd95_mm
"""
LOW_IS_GOOD = ("_mm", "volume_error", "false_positives")
"""Lower values are better for metrics with these words in their names."""
SHARES = ("dice", "iou", "precision", "recall", "surface_dice")
"""Metrics from 0 to 1."""


def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B...",
            help="Run folders, folders that `evaluate` wrote, or scores.csv files. Each is compared with the first.",
            show_default=False,
        ),
    ],
    metric: Annotated[str, typer.Option(help="Column of scores.csv to compare.")] = "dice",
    split: Annotated[
        str, typer.Option(help="Split whose scores are taken from a run folder.")
    ] = "test",
    negligible: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.0,
            help="Differences up to this size do not count. Default: 0.005 for metrics from 0 to 1, as much as another "
            "seed may change; 0 for others.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two or more sets of scores, case by case, and say whether the difference exceeds noise.

    Cases are paired by name. Intervals are bootstrap intervals over cases.
    The p values are from the Wilcoxon signed-rank test, with Holm's correction over labels.
    """
    from monaiseg.evaluation import SEED_NOISE, read_scores, read_unions
    from monaiseg.evaluation import compare as compare_scores

    if len(scores) < 2:
        raise SettingsError("give at least two sets of scores to compare")
    first, *others = (scores_file(path, split) for path in scores)
    higher = not any(word in metric for word in LOW_IS_GOOD)
    if negligible is None:
        negligible = SEED_NOISE if metric in SHARES else 0.0
    result_as_json(wanted=as_json)
    results: dict[str, Any] = {}
    for other in others:
        found = compare_scores(
            read_scores(first, metric),
            read_scores(other, metric),
            higher_is_better=higher,
            negligible=negligible,
            unions=read_unions(first) | read_unions(other),
        )
        if as_json:
            results[str(other)] = asdict(found)
        else:
            _show(f"{metric}: {other} against {first}", found)
    if as_json:
        print_json({"metric": metric, "first": first, "others": results})


def scores_file(path: Path, split: str) -> Path:
    """The table of scores for a path.

    Raises:
        SettingsError: there is no table.
    """
    places = (path, path / "scores.csv", path / "records" / split / "scores.csv")
    for place in places:
        if place.is_file():
            return place
    raise SettingsError(
        f"{path}: has no scores; run `monaiseg evaluate {path}` first, or give a scores.csv"
    )


def _show(title: str, found: Comparison) -> None:
    rows = [
        [
            name,
            f"{label.first:.4f}",
            f"{label.second:.4f}",
            f"{label.mean.value:+.4f}",
            f"{label.mean.low:+.4f} to {label.mean.high:+.4f}",
            f"{label.p_holm:.2g}",
            f"{label.wins}/{label.ties}/{label.losses}",
        ]
        for name, label in (*found.labels.items(), ("all labels", found.overall))
    ]
    header = [
        "label",
        "first",
        "second",
        "difference",
        "95 % interval",
        "p (Holm)",
        "wins/ties/losses",
    ]
    print_table(title, header, rows)
    if found.most_changed:
        typer.echo("cases that changed most:")
        for case in found.most_changed:
            typer.echo(f"  {case.case}: {case.first:.4f} to {case.second:.4f}")
    for what, names in (("cases", found.unpaired_cases), ("labels", found.unpaired_labels)):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
            note(f"{len(names)} {what} are in only one of the sets, and left out: {shown}")
    typer.echo(found.verdict)
