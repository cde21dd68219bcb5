"""Results: the scores of a case, and those of several cases together with what they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field

from monaiseg.data import LabelTable, grouped_notes
from monaiseg.evaluation.metrics import mean_defined
from monaiseg.evaluation.structures import (
    TOLERANCE_MM,
    Structure,
    StructureScores,
    structures_of,
)
from monaiseg.evaluation.summaries import UnscoredLabel
from monaiseg.evaluation.unscored import Unscored, unscored_labels, unscored_notes


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, one entry per structure."""

    case_id: str
    structures: tuple[StructureScores, ...]
    seconds: float
    """Wall time of the prediction; 0 if there was a label map already."""
    unscored: Unscored = field(default_factory=Unscored)
    """Label values of both maps that are not in the label table."""
    notes: tuple[tuple[str, str], ...] = ()
    """Paths of label maps, each with an oddity that was accepted in it."""

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the labels that have a score, without unions; NaN if none has."""
        return mean_defined(score.dice for score in self.structures if not score.is_union)


@dataclass(frozen=True)
class Evaluation:
    """Scores of several cases, and the model, split and dataset that they belong to."""

    cases: tuple[CaseScores, ...]
    table: LabelTable
    model: str
    split: str
    data_task: str = ""
    tolerance_mm: float = TOLERANCE_MM
    """Tolerance of the surface Dice, for labels that have none of their own."""
    resumed: int = 0
    """Number of cases whose scores an interrupted evaluation had left."""

    @property
    def structures(self) -> tuple[Structure, ...]:
        """The labels and unions that were scored, in the order of each case's scores."""
        return structures_of(self.table, self.tolerance_mm)

    @property
    def unscored(self) -> list[UnscoredLabel]:
        """Label values of the maps that are not in the label table, over all cases."""
        return unscored_labels(case.unscored for case in self.cases)

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores should know about the label maps."""
        oddities = grouped_notes(note for case in self.cases for note in case.notes)
        return [*unscored_notes(self.unscored), *oddities]

    def label_means(self) -> dict[str, float]:
        """Mean Dice of each structure by name, over the cases that have a score; NaN if none has."""
        columns = zip(*(case.structures for case in self.cases), strict=True)
        return {column[0].name: mean_defined(score.dice for score in column) for column in columns}

    @property
    def mean_dice(self) -> float:
        """Mean over labels of their means over cases, with equal weight for all labels; unions are left out."""
        unions = {structure.name for structure in self.structures if structure.is_union}
        means = self.label_means()
        return mean_defined(mean for name, mean in means.items() if name not in unions)
