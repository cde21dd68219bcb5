"""Checks: what is wrong or doubtful in a dataset, found before anything is trained."""

from monaiseg.checks.doctor import Checkup, check, quick_findings
from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Doubt, Finding
from monaiseg.checks.page import summary, write_page

__all__ = [
    "Checkup",
    "Doubt",
    "Evidence",
    "Finding",
    "check",
    "quick_findings",
    "summary",
    "write_page",
]
