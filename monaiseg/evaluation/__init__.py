"""Evaluation: scores of label maps against references, comparisons of scores, tables and pictures."""

from monaiseg.evaluation.case_pictures import write_case_picture
from monaiseg.evaluation.comparison import Comparison, compare
from monaiseg.evaluation.metrics import class_counts, dice_from_counts, mean_over_cases
from monaiseg.evaluation.pairs import pair_label_maps
from monaiseg.evaluation.pictures import slice_picture
from monaiseg.evaluation.results import CaseScores, Evaluation
from monaiseg.evaluation.scoring import (
    check_references,
    evaluate,
    evaluate_label_maps,
    score_case,
)
from monaiseg.evaluation.structures import TOLERANCE_MM
from monaiseg.evaluation.summaries import Summary, summary_schema
from monaiseg.evaluation.tables import (
    LESIONS,
    latex,
    read_scores,
    read_unions,
    summarise,
    tolerance_words,
    worst_first,
    write_report,
)
from monaiseg.evaluation.unfinished import UNFINISHED, Unfinished

__all__ = [
    "LESIONS",
    "TOLERANCE_MM",
    "UNFINISHED",
    "CaseScores",
    "Comparison",
    "Evaluation",
    "Summary",
    "Unfinished",
    "check_references",
    "class_counts",
    "compare",
    "dice_from_counts",
    "evaluate",
    "evaluate_label_maps",
    "latex",
    "mean_over_cases",
    "pair_label_maps",
    "read_scores",
    "read_unions",
    "score_case",
    "slice_picture",
    "summarise",
    "summary_schema",
    "tolerance_words",
    "worst_first",
    "write_case_picture",
    "write_report",
]
