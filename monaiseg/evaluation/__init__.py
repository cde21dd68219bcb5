"""Evaluation: scores of label maps against their references, tables and pictures of them."""

from monaiseg.evaluation.metrics import (
    class_counts,
    dice_from_counts,
    label_scores,
    mean_over_cases,
)
from monaiseg.evaluation.pictures import slice_picture, write_comparison
from monaiseg.evaluation.scoring import CaseScores, Evaluation, check_references, evaluate
from monaiseg.evaluation.tables import label_rows, write_report

__all__ = [
    "CaseScores",
    "Evaluation",
    "check_references",
    "class_counts",
    "dice_from_counts",
    "evaluate",
    "label_rows",
    "label_scores",
    "mean_over_cases",
    "slice_picture",
    "write_comparison",
    "write_report",
]
