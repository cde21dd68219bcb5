"""Summaries: the contents of `summary.json` as pydantic models with a published schema."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from monaiseg.errors import counted_of
from monaiseg.evaluation.comparison import Mean


class Part(BaseModel):
    """A part of the document, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Interval(Part):
    """A mean over cases with its 95 % bootstrap interval; null if there are too few cases to compute it."""

    value: float | None
    low: float | None
    high: float | None
    cases: int
    """Number of cases in the mean."""

    @classmethod
    def of(cls, mean: Mean) -> Self:
        """The interval of a mean that may be NaN."""
        numbers = [
            None if math.isnan(n) else round(n, 6) for n in (mean.value, mean.low, mean.high)
        ]
        return cls(value=numbers[0], low=numbers[1], high=numbers[2], cases=mean.cases)


class LabelSummary(Part):
    """Scores of one structure over all cases."""

    name: str
    values: tuple[int, ...]
    """Label values: one, or several for a union."""
    cases: int
    """Number of cases in which at least one of the maps has it."""
    missed: int
    """Number of cases in which only the reference has it."""
    invented: int
    """Number of cases in which only the prediction has it."""
    absent: int
    """Number of cases in which neither map has it; they have no scores."""
    tolerance_mm: float
    """Tolerance of its surface Dice."""
    is_lesion: bool
    """Whether its components are counted as lesions."""
    scores: dict[str, Interval]
    """Mean of each metric over the cases in which it is defined."""


class UnscoredLabel(Part):
    """A label value that is not in the label table: it counts as background in all scores."""

    map: Literal["reference", "prediction"]
    """The maps that have it."""
    value: int
    voxels: int
    """Number of voxels in all cases together."""
    cases: int
    """Number of cases that have it."""


class Summary(Part):
    """The results of an evaluation."""

    schema_version: int = 1
    model: str
    data_task: str
    split: str
    cases: int
    tolerance_mm: float
    """Tolerance of the surface Dice, for labels that have none of their own."""
    mean_dice: Interval
    """Mean over labels of their means over cases; unions of labels are left out."""
    overall: dict[str, Interval]
    """The same mean for each metric."""
    seconds_per_case: float
    """Wall time of a prediction."""
    labels: list[LabelSummary]
    per_case: dict[str, float | None]
    """Mean Dice of each case."""
    unscored: list[UnscoredLabel]
    """Labels that no structure has."""
    notes: list[str]
    """Oddities that were accepted in the label maps, and sentences about `unscored`."""

    @property
    def single_labels(self) -> list[LabelSummary]:
        """The structures that are single labels, without unions."""
        return [label for label in self.labels if len(label.values) == 1]

    @property
    def scored_labels(self) -> str:
        """How many labels `mean_dice` is over, such as "140 of 144 labels": one that is in no case has no score."""
        labels = self.single_labels
        return counted_of(sum(label.cases > 0 for label in labels), len(labels), "label")


def summary_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `summary.json`."""
    schema = Summary.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
