"""Score folders: what `monaiseg evaluate` leaves, and the run that the scores belong to."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from monaiseg.data import LabelTable
from monaiseg.errors import DataError
from monaiseg.evaluation import LabelSummary, Sources, Summary, read_scores, read_sources
from monaiseg.files import read_text

METRICS = ("dice", "surface_dice", "hd95_mm", "assd_mm", "reference_ml", "prediction_ml")
"""Columns of `scores.csv` that the report shows."""
HISTORY_FILE = "history.csv"
RUN_SETTINGS_FILE = "cur_task_setting.json"

Scores = Mapping[str, Mapping[str, float]]
"""case -> structure -> score; NaN if it is not defined."""


@dataclass(frozen=True)
class ScoreFolder:
    """The scores of a set of cases, and what is known about where they came from."""

    path: Path
    summary: Summary
    scores: Mapping[str, Scores]
    """metric -> case -> structure -> score."""
    sources: Sources | None
    """None if the scores were not written by `monaiseg evaluate`."""
    run: Path | None
    """Folder of the run that trained the model; None if there is none."""

    @property
    def table(self) -> LabelTable:
        """Names and colours of the labels; names and default colours if the sources are not known."""
        if self.sources is not None:
            return self.sources.table
        names = {label.values[0]: label.name for label in self.labels}
        return LabelTable.from_values(names, names)

    @property
    def labels(self) -> list[LabelSummary]:
        """The structures that are single labels, without unions."""
        return self.summary.single_labels

    def worst_first(self) -> list[str]:
        """Cases in ascending order of mean Dice; cases without a mean Dice come last."""
        dice = self.summary.per_case
        return sorted(dice, key=lambda case: (dice[case] is None, dice[case] or 0.0, case))

    def worst_structures(self, case: str, most: int) -> list[tuple[str, float]]:
        """The labels of a case with the lowest Dice, and the Dice."""
        dice = self.scores["dice"].get(case, {})
        found = [(label.name, dice.get(label.name, math.nan)) for label in self.labels]
        defined = [(name, value) for name, value in found if not math.isnan(value)]
        return sorted(defined, key=lambda pair: pair[1])[:most]

    def files(self, case: str) -> tuple[Path | None, Path, Path] | None:
        """Image, reference and prediction of a case; None unless both label maps are there."""
        noted = self.sources.cases.get(case) if self.sources is not None else None
        if noted is None or noted.prediction is None:
            return None
        reference, prediction = self.path / noted.reference, self.path / noted.prediction
        if not (reference.is_file() and prediction.is_file()):
            return None
        image = self.path / noted.image if noted.image is not None else None
        return (image if image is not None and image.is_file() else None), reference, prediction

    def history(self) -> list[dict[str, float]]:
        """One row per epoch of the training: step, loss, learning rate and validation scores; empty without a run."""
        if self.run is None:
            return []
        rows = csv.DictReader(io.StringIO(read_text(self.run / HISTORY_FILE)))
        try:
            return [
                {name: float(text) for name, text in row.items() if name and text} for row in rows
            ]
        except ValueError as error:
            raise DataError(f"{self.run / HISTORY_FILE}: {error}; it holds numbers only") from error


def read_score_folder(path: Path) -> ScoreFolder:
    """Read the scores in a folder.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    summary_file = path / "summary.json"
    try:
        summary = Summary.model_validate_json(read_text(summary_file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{summary_file}: {where}: {first['msg']}; run `monaiseg evaluate` again to rewrite it"
        ) from error
    scores = {metric: read_scores(path / "scores.csv", metric) for metric in METRICS}
    return ScoreFolder(path, summary, scores, read_sources(path), _run_of(path, summary))


def _run_of(path: Path, summary: Summary) -> Path | None:
    """The run folder: the scores are in its `records`, or its checkpoint is the model of the summary."""
    model = Path(summary.model)
    for folder in (*path.absolute().parents[:2], model, *model.parents[:2]):
        if (folder / HISTORY_FILE).is_file():
            return folder
    return None
