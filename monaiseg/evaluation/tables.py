"""Reports: the scores of an evaluation as CSV, JSON, Markdown and LaTeX, and as rows for a terminal.

A score that is not defined is an empty cell in CSV and null in JSON. Every mean comes with its number of cases.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from monaiseg.errors import DataError
from monaiseg.evaluation.comparison import Means, means
from monaiseg.evaluation.metrics import mean_defined
from monaiseg.evaluation.scoring import CaseScores, Evaluation
from monaiseg.evaluation.structures import Status, StructureScores
from monaiseg.evaluation.summaries import Interval, LabelSummary, ScoreMean, Summary
from monaiseg.files import make_folder, read_text, write_atomic

METRICS = tuple(
    field.name
    for field in fields(StructureScores)
    if field.name not in ("name", "values", "status")
)
"""Metrics of each structure in each case, in the order of the columns."""
SHOWN = ("dice", "surface_dice", "hd95_mm", "assd_mm", "precision", "recall")
"""Metrics shown in tables."""


def write_report(evaluation: Evaluation, folder: str | Path) -> tuple[Path, ...]:
    """Write `scores.csv` (a row per case and structure), `summary.json` and `summary.md`; returns their paths."""
    folder = make_folder(folder)
    summary = summarise(evaluation)
    texts = {
        "scores.csv": scores_csv(evaluation),
        "summary.json": summary.model_dump_json(indent=2) + "\n",
        "summary.md": markdown(summary),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    return tuple(folder / name for name in texts)


def scores_csv(evaluation: Evaluation) -> str:
    """One row per case and structure, after a header; the label values of a union are joined by `+`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "value", "name", "status", *METRICS])
    for case in evaluation.cases:
        for score in case.structures:
            numbers = [float(getattr(score, metric)) for metric in METRICS]
            cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            value = "+".join(map(str, score.values))
            writer.writerow([case.case_id, value, score.name, score.status, *cells])
    return text.getvalue()


def read_scores(path: Path, metric: str = "dice") -> dict[str, dict[str, float]]:
    """One metric of a `scores.csv`: case -> structure -> score, NaN where it is not defined.

    Raises:
        DataError: the file cannot be read, is not a table of scores, or lacks the metric; its metrics are named.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = list(reader.fieldnames or ())
    if not {"case", "name"} <= set(columns):
        raise DataError(
            f"{path}: is no table of scores; name a scores.csv that `monaiseg evaluate` wrote"
        )
    if metric not in columns:
        raise DataError(f"{path}: has no column {metric!r}; choose one of {', '.join(columns[4:])}")
    scores: dict[str, dict[str, float]] = {}
    for row in reader:
        try:
            number = float(row[metric] or "nan")
        except ValueError as error:
            raise DataError(f"{path}: {row[metric]!r} in column {metric} is no number") from error
        scores.setdefault(row["case"], {})[row["name"]] = number
    return scores


def summarise(evaluation: Evaluation) -> Summary:
    """Means with intervals, for each structure and overall."""
    dice = means_of(evaluation, "dice")
    return Summary(
        model=evaluation.model,
        data_task=evaluation.data_task,
        split=evaluation.split,
        cases=len(evaluation.cases),
        tolerance_mm=evaluation.tolerance_mm,
        mean_dice=Interval.of(dice.overall),
        seconds_per_case=round(float(np.mean([case.seconds for case in evaluation.cases])), 3),
        labels=[_label_summary(row, dice) for row in label_rows(evaluation)],
        per_case={case.case_id: _number(case.mean_dice) for case in evaluation.cases},
    )


def _label_summary(row: LabelRow, dice: Means) -> LabelSummary:
    return LabelSummary(
        name=row.name,
        values=row.values,
        cases=row.cases,
        missed=row.missed,
        invented=row.invented,
        absent=row.absent,
        dice_interval=Interval.of(dice.labels[row.name]),
        scores={
            name: ScoreMean(value=_number(mean), cases=count)
            for name, (mean, count) in row.means.items()
        },
    )


def means_of(evaluation: Evaluation, metric: str) -> Means:
    """Means of one metric over cases, with bootstrap intervals."""
    return means(
        {
            case.case_id: {score.name: float(getattr(score, metric)) for score in case.structures}
            for case in evaluation.cases
        }
    )


@dataclass(frozen=True)
class LabelRow:
    """Scores of one structure over the cases of an evaluation."""

    name: str
    values: tuple[int, ...]
    cases: int
    """Number of cases in which at least one of the maps has it."""
    missed: int
    invented: int
    absent: int
    means: Mapping[str, tuple[float, int]]
    """Mean of each metric and the number of cases in which it is defined."""
    dice_sd: float


def label_rows(evaluation: Evaluation) -> Iterator[LabelRow]:
    """Mean scores of each structure over the cases in which they are defined, and the number of cases that miss it.

    `volume_error_ml` has no sign, so too much in one case does not cancel too little in another. `volume_bias_ml` has
    the sign.
    """
    for column in zip(*(case.structures for case in evaluation.cases), strict=True):
        there = [score for score in column if score.status != "absent"]
        numbers = {name: [float(getattr(score, name)) for score in there] for name in METRICS}
        numbers["volume_bias_ml"] = numbers["volume_error_ml"]
        numbers["volume_error_ml"] = [abs(error) for error in numbers["volume_error_ml"]]
        yield LabelRow(
            name=column[0].name,
            values=column[0].values,
            cases=len(there),
            missed=_count(column, "missed"),
            invented=_count(column, "invented"),
            absent=_count(column, "absent"),
            means={
                name: (mean_defined(found), sum(not math.isnan(number) for number in found))
                for name, found in numbers.items()
            },
            dice_sd=float(np.std(numbers["dice"])) if there else math.nan,
        )


def _count(column: tuple[StructureScores, ...], status: Status) -> int:
    return sum(score.status == status for score in column)


def markdown(summary: Summary) -> str:
    """A Markdown table of the means per structure, below the overall mean."""
    header = ["structure", "cases", "missed", *SHOWN]
    lines = [header, ["---"] * len(header), *_rows(summary)]
    title = f"# {summary.split or 'scores'}: {summary.cases} cases"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{title}\n\n{_headline(summary)}\n\n{table}\n"


def _headline(summary: Summary) -> str:
    dice = summary.mean_dice
    if dice.value is None:
        return "No structure occurs in any of the maps."
    interval = ""
    if dice.low is not None and dice.high is not None:
        interval = f" (95 % interval over cases: {dice.low:.4f} to {dice.high:.4f})"
    return f"Mean Dice over structures: {dice.value:.4f}{interval}. Surface Dice at {summary.tolerance_mm:g} mm."


def latex(summary: Summary) -> str:
    """A `booktabs` table for a paper."""
    names = {
        "dice": "Dice",
        "surface_dice": "surface Dice",
        "hd95_mm": "HD95 (mm)",
        "assd_mm": "ASSD (mm)",
    }
    header = ["Structure", "$n$", "missed", *(names.get(name, name) for name in SHOWN)]
    lines = [" & ".join(line) + r" \\" for line in ([header, *_rows(summary)])]
    escaped = [line.replace("_", r"\_").replace("%", r"\%") for line in lines]
    top, *rest = escaped
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            top,
            r"\midrule",
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _rows(summary: Summary) -> Iterator[list[str]]:
    for label in summary.labels:
        numbers = [label.scores[name].value for name in SHOWN]
        cells = ["" if number is None else f"{number:.3f}" for number in numbers]
        yield [label.name, str(label.cases), str(label.missed), *cells]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def worst_first(evaluation: Evaluation) -> list[CaseScores]:
    """The cases in ascending order of mean Dice; cases without a mean Dice come last."""
    return sorted(evaluation.cases, key=lambda case: (math.isnan(case.mean_dice), case.mean_dice))
