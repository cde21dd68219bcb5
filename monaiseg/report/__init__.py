"""Report: one HTML file that shows the scores of a model or of a folder of label maps, with pictures and a viewer."""

from monaiseg.report.page import REPORT_FILE, write_page
from monaiseg.report.score_folder import ScoreFolder, read_score_folder

__all__ = ["REPORT_FILE", "ScoreFolder", "read_score_folder", "write_page"]
