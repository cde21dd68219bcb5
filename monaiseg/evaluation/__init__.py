"""Evaluation: scores of label maps against references, comparisons of scores, tables and pictures."""

from monaiseg.evaluation.case_pictures import write_case_picture
from monaiseg.evaluation.comparison import Comparison, compare
from monaiseg.evaluation.metrics import class_counts, dice_from_counts, mean_over_cases
from monaiseg.evaluation.pictures import slice_picture
from monaiseg.evaluation.scoring import (
    CaseScores,
    Evaluation,
    check_references,
    evaluate,
    evaluate_label_maps,
    pair_label_maps,
    score_case,
)
from monaiseg.evaluation.structures import TOLERANCE_MM
from monaiseg.evaluation.summaries import Summary, summary_schema
from monaiseg.evaluation.tables import (
    label_rows,
    latex,
    read_scores,
    summarise,
    worst_first,
    write_report,
)

__all__ = [
    "TOLERANCE_MM",
    "CaseScores",
    "Comparison",
    "Evaluation",
    "Summary",
    "check_references",
    "class_counts",
    "compare",
    "dice_from_counts",
    "evaluate",
    "evaluate_label_maps",
    "label_rows",
    "latex",
    "mean_over_cases",
    "pair_label_maps",
    "read_scores",
    "score_case",
    "slice_picture",
    "summarise",
    "summary_schema",
    "worst_first",
    "write_case_picture",
    "write_report",
]
