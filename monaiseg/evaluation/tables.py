"""Reports: the scores of an evaluation as CSV and JSON files and as rows for a table.

An undefined score is an empty cell in CSV and null in JSON; how many scores a mean stands on is always said.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from monaiseg.evaluation.metrics import mean_defined
from monaiseg.evaluation.scoring import Evaluation
from monaiseg.files import make_folder, write_atomic

COLUMNS = ("dice", "precision", "recall", "reference_ml", "prediction_ml")
"""Scores of each label in each case."""


def write_report(evaluation: Evaluation, folder: str | Path) -> tuple[Path, Path]:
    """Write `scores.csv` (a row per case and label) and `summary.json`; returns their paths."""
    folder = make_folder(folder)
    table, summary = folder / "scores.csv", folder / "summary.json"
    write_atomic(table, scores_csv(evaluation).encode())
    write_atomic(summary, (json.dumps(summarise(evaluation), indent=2) + "\n").encode())
    return table, summary


def scores_csv(evaluation: Evaluation) -> str:
    """A row per case and label, with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "value", "name", *COLUMNS])
    for case in evaluation.cases:
        for score in case.labels:
            numbers = [getattr(score, column) for column in COLUMNS]
            cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            writer.writerow([case.case_id, score.value, score.name, *cells])
    return text.getvalue()


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON holds it: means per label, then every case."""
    return {
        "model": evaluation.model,
        "data_task": evaluation.data_task,
        "split": evaluation.split,
        "cases": len(evaluation.cases),
        "mean_dice": _number(evaluation.mean_dice),
        "seconds_per_case": _number(float(np.mean([case.seconds for case in evaluation.cases]))),
        "labels": [
            {
                "value": row["value"],
                "name": row["name"],
                "cases": row["cases"],
                **{key: _number(row[key]) for key in ("dice", "dice_sd", "precision", "recall")},
                "volume_error_ml": _number(row["volume_error_ml"]),
                "volume_bias_ml": _number(row["volume_bias_ml"]),
            }
            for row in label_rows(evaluation)
        ],
        "per_case": [
            {
                "case": case.case_id,
                "mean_dice": _number(case.mean_dice),
                "seconds": round(case.seconds, 3),
                "labels": [
                    {
                        key: _number(value) if isinstance(value, float) else value
                        for key, value in asdict(score).items()
                    }
                    for score in case.labels
                ],
            }
            for case in evaluation.cases
        ],
    }


def label_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Mean scores of each foreground label over the cases that have it in either map, and their number.

    The volume error is without sign: too much in one case does not make up for too little in another. The bias has it.
    """
    for column in zip(*(case.labels for case in evaluation.cases), strict=True):
        found = [score for score in column if math.isfinite(score.dice)]
        errors = [score.prediction_ml - score.reference_ml for score in found]
        yield {
            "value": column[0].value,
            "name": column[0].name,
            "cases": len(found),
            "dice": mean_defined(score.dice for score in column),
            "dice_sd": float(np.std([score.dice for score in found])) if found else math.nan,
            "precision": mean_defined(score.precision for score in column),
            "recall": mean_defined(score.recall for score in column),
            "volume_error_ml": mean_defined(map(abs, errors)),
            "volume_bias_ml": mean_defined(errors),
        }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
