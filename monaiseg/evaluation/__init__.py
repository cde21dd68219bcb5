"""Evaluation: scores of label maps against references, comparisons of scores, tables and pictures."""

from monaiseg.evaluation.case_pictures import (
    Look,
    draw_case,
    pixels_of,
    shown_values,
    write_case_picture,
)
from monaiseg.evaluation.case_volumes import (
    CaseVolumes,
    deepest_voxel,
    middle_point,
    read_case,
)
from monaiseg.evaluation.comparison import SEED_NOISE, Comparison, compare
from monaiseg.evaluation.metrics import class_counts, dice_from_counts, mean_over_cases
from monaiseg.evaluation.pairs import pair_label_maps
from monaiseg.evaluation.results import CaseScores, Evaluation
from monaiseg.evaluation.scoring import (
    check_references,
    evaluate,
    evaluate_label_maps,
    score_case,
)
from monaiseg.evaluation.sources import Sources, read_sources, write_sources
from monaiseg.evaluation.structures import TOLERANCE_MM
from monaiseg.evaluation.summaries import LabelSummary, Summary, summary_schema
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
from monaiseg.evaluation.tuning import choose_rules
from monaiseg.evaluation.unfinished import UNFINISHED, Unfinished

__all__ = [
    "LESIONS",
    "SEED_NOISE",
    "TOLERANCE_MM",
    "UNFINISHED",
    "CaseScores",
    "CaseVolumes",
    "Comparison",
    "Evaluation",
    "LabelSummary",
    "Look",
    "Sources",
    "Summary",
    "Unfinished",
    "check_references",
    "choose_rules",
    "class_counts",
    "compare",
    "deepest_voxel",
    "dice_from_counts",
    "draw_case",
    "evaluate",
    "evaluate_label_maps",
    "latex",
    "mean_over_cases",
    "middle_point",
    "pair_label_maps",
    "pixels_of",
    "read_case",
    "read_scores",
    "read_sources",
    "read_unions",
    "score_case",
    "shown_values",
    "summarise",
    "summary_schema",
    "tolerance_words",
    "worst_first",
    "write_case_picture",
    "write_report",
    "write_sources",
]
