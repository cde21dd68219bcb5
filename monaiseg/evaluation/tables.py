"""Reports: the scores of an evaluation as CSV, JSON, Markdown and LaTeX, and as rows for a terminal.

A score that is not defined is an empty cell in CSV and null in JSON. Every mean comes with its number of cases.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from monaiseg.errors import DataError
from monaiseg.evaluation.comparison import Means, means
from monaiseg.evaluation.results import CaseScores, Evaluation
from monaiseg.evaluation.structures import Structure, StructureScores
from monaiseg.evaluation.summaries import Interval, LabelSummary, Summary
from monaiseg.evaluation.unfinished import UNFINISHED, forget
from monaiseg.files import make_folder, read_text, write_atomic

METRICS = tuple(
    field.name
    for field in fields(StructureScores)
    if field.name not in ("name", "values", "status")
)
"""Metrics of each structure in each case, in the order of the columns."""
SHOWN = ("dice", "surface_dice", "hd95_mm", "assd_mm", "precision", "recall")
"""Metrics shown in tables."""
LESIONS = ("lesion_f1", "lesion_sensitivity", "lesion_false_positives")
"""Metrics shown in tables if labels are marked as lesions."""
VOLUME_BIAS = "volume_bias_ml"
"""Mean of the volume errors with their sign."""
MEAN = "mean over labels"


def write_report(evaluation: Evaluation, folder: str | Path) -> tuple[Path, ...]:
    """Write `scores.csv` (a row per case and structure), `summary.json` and `summary.md`; returns their paths.

    Scores that were kept in the folder until now are removed.
    """
    folder = make_folder(folder)
    summary = summarise(evaluation)
    texts = {
        "scores.csv": scores_csv(evaluation),
        "summary.json": summary.model_dump_json(indent=2) + "\n",
        "summary.md": markdown(summary),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    forget(folder / UNFINISHED)
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
    columns, rows = _score_rows(path)
    if metric not in columns:
        raise DataError(f"{path}: has no column {metric!r}; choose one of {', '.join(columns[4:])}")
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        try:
            number = float(row[metric] or "nan")
        except ValueError as error:
            raise DataError(
                f"{path}: {row[metric]!r} in column {metric} is not a number; evaluate again"
            ) from error
        scores.setdefault(row["case"], {})[row["name"]] = number
    return scores


def read_unions(path: Path) -> frozenset[str]:
    """Names of the structures in a `scores.csv` that are unions of labels; raises the same errors as `read_scores`."""
    return frozenset(row["name"] for row in _score_rows(path)[1] if "+" in (row["value"] or ""))


def _score_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a `scores.csv`."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = list(reader.fieldnames or ())
    if not {"case", "value", "name"} <= set(columns):
        raise DataError(
            f"{path}: is not a table of scores; give a scores.csv that `monaiseg evaluate` wrote"
        )
    return columns, list(reader)


def summarise(evaluation: Evaluation) -> Summary:
    """Means with intervals, for each structure and overall."""
    found = {metric: means_of(evaluation, metric) for metric in (*METRICS, VOLUME_BIAS)}
    columns = zip(*(case.structures for case in evaluation.cases), strict=True)
    return Summary(
        model=evaluation.model,
        data_task=evaluation.data_task,
        split=evaluation.split,
        cases=len(evaluation.cases),
        tolerance_mm=evaluation.tolerance_mm,
        mean_dice=Interval.of(found["dice"].overall),
        overall={metric: Interval.of(means.overall) for metric, means in found.items()},
        seconds_per_case=round(float(np.mean([case.seconds for case in evaluation.cases])), 3),
        labels=[
            _label_summary(structure, column, found)
            for structure, column in zip(evaluation.structures, columns, strict=True)
        ],
        per_case={case.case_id: _number(case.mean_dice) for case in evaluation.cases},
        unscored=evaluation.unscored,
        notes=evaluation.notes,
    )


def _label_summary(
    structure: Structure, column: tuple[StructureScores, ...], found: Mapping[str, Means]
) -> LabelSummary:
    counts = Counter(score.status for score in column)
    return LabelSummary(
        name=structure.name,
        values=structure.values,
        cases=len(column) - counts["absent"],
        missed=counts["missed"],
        invented=counts["invented"],
        absent=counts["absent"],
        tolerance_mm=structure.tolerance_mm,
        is_lesion=structure.is_lesion,
        scores={
            metric: Interval.of(means.labels[structure.name]) for metric, means in found.items()
        },
    )


def means_of(evaluation: Evaluation, metric: str) -> Means:
    """Means of one metric over the cases in which it is defined, with bootstrap intervals."""
    return means(
        {
            case.case_id: {score.name: _number_for_mean(score, metric) for score in case.structures}
            for case in evaluation.cases
        },
        unions={structure.name for structure in evaluation.structures if structure.is_union},
    )


def _number_for_mean(score: StructureScores, metric: str) -> float:
    """A score as it goes into a mean; NaN leaves it out.

    Volumes of a structure that neither map has are left out, as its overlap is. False positives are not: such a case is
    a scan without lesions. `volume_error_ml` loses its sign, so that too much in one case does not make up for too little
    in another; `volume_bias_ml` keeps it.
    """
    if score.status == "absent" and metric != LESIONS[-1]:
        return math.nan
    if metric == VOLUME_BIAS:
        return score.volume_error_ml
    number = float(getattr(score, metric))
    return abs(number) if metric == "volume_error_ml" else number


def markdown(summary: Summary) -> str:
    """A Markdown table of the means per structure, below the overall mean."""
    header = ["structure", "cases", "missed", *shown_metrics(summary)]
    lines = [header, ["---"] * len(header), *_rows(summary)]
    title = f"# {summary.split or 'scores'}: {summary.cases} cases"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n- {note}" for note in [*_fewer(summary), *summary.notes])
    return f"{title}\n\n{_headline(summary)}\n\n{table}\n{notes and notes + chr(10)}"


def _fewer(summary: Summary) -> list[str]:
    """A note if a mean of the table is over fewer cases than its row says."""
    shown = shown_metrics(summary)
    rows = [
        (summary.overall, summary.cases),
        *((label.scores, label.cases) for label in summary.labels),
    ]
    if not any(scores[name].cases != cases for scores, cases in rows for name in shown):
        return []
    return [
        "a number in parentheses is the number of cases in the mean, where it is not that of the row"
    ]


def _headline(summary: Summary) -> str:
    dice = summary.mean_dice
    if dice.value is None:
        return "No structure occurs in any of the label maps."
    interval = ""
    if dice.low is not None and dice.high is not None:
        interval = f" (95 % interval over cases: {dice.low:.4f} to {dice.high:.4f})"
    tolerance = tolerance_words([label.tolerance_mm for label in summary.labels])
    over = f"in {dice.cases} of {summary.cases} cases"
    return f"Mean Dice over labels {over}: {dice.value:.4f}{interval}. Surface Dice at {tolerance}."


def tolerance_words(tolerances: Sequence[float]) -> str:
    """Tolerances in words.

    >>> tolerance_words([2.0, 1.0, 1.0])
    '1 to 2 mm, by label'
    """
    low, high = min(tolerances), max(tolerances)
    return f"{low:g} mm" if low == high else f"{low:g} to {high:g} mm, by label"


def shown_metrics(summary: Summary) -> tuple[str, ...]:
    """The metrics for tables: those of lesions only if a label is one."""
    has_lesions = any(label.is_lesion for label in summary.labels)
    return (*SHOWN, *LESIONS) if has_lesions else SHOWN


def latex(summary: Summary) -> str:
    """A `booktabs` table for a paper."""
    names = {
        "dice": "Dice",
        "surface_dice": "surface Dice",
        "hd95_mm": "HD95 (mm)",
        "assd_mm": "ASSD (mm)",
        "lesion_f1": "lesion F1",
        "lesion_sensitivity": "lesion sensitivity",
        "lesion_false_positives": "false positives a scan",
    }
    shown = shown_metrics(summary)
    header = ["Structure", "$n$", "missed", *(names.get(name, name) for name in shown)]
    top, *rest = (" & ".join(map(_escaped, line)) + r" \\" for line in [header, *_rows(summary)])
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


def _escaped(cell: str) -> str:
    r"""A cell for LaTeX; label names hold no `$`, which is left to formulas.

    >>> _escaped("grey & white_matter, 50 %")
    'grey \\& white\\_matter, 50 \\%'
    """
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[&%#_{}~^\\]", lambda found: words.get(found[0], f"\\{found[0]}"), cell)


def _rows(summary: Summary) -> Iterator[list[str]]:
    shown = shown_metrics(summary)
    for label in summary.labels:
        cells = [_cell(label.scores[name], label.cases) for name in shown]
        yield [label.name, str(label.cases), str(label.missed), *cells]
    yield [
        MEAN,
        str(summary.cases),
        "",
        *(_cell(summary.overall[name], summary.cases) for name in shown),
    ]


def _cell(mean: Interval, cases: int) -> str:
    """A mean, with its number of cases if it is not `cases`; empty if it is not defined.

    >>> _cell(Interval(value=0.8571, low=None, high=None, cases=6), 12)
    '0.857 (6)'
    """
    if mean.value is None:
        return ""
    return f"{mean.value:.3f}" + (f" ({mean.cases})" if mean.cases != cases else "")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def worst_first(evaluation: Evaluation) -> list[CaseScores]:
    """The cases in ascending order of mean Dice; cases without a mean Dice come last."""
    return sorted(evaluation.cases, key=lambda case: (math.isnan(case.mean_dice), case.mean_dice))
