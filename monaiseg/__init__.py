"""Train, evaluate and share networks that segment 3-D medical images.

The public names are imported on first use, so `import monaiseg` is fast and imports neither torch nor MONAI.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Case": "monaiseg.data",
    "Grid": "monaiseg.data",
    "LabelTable": "monaiseg.data",
    "MonaisegError": "monaiseg.errors",
    "Predictor": "monaiseg.prediction",
    "Settings": "monaiseg.settings",
    "check": "monaiseg.checks",
    "evaluate": "monaiseg.evaluation",
    "load_label_table": "monaiseg.data",
    "load_settings": "monaiseg.settings",
    "plan": "monaiseg.planning",
    "prepare": "monaiseg.preparation",
    "train": "monaiseg.training",
    "write_dataset": "monaiseg.data",
    "write_report": "monaiseg.evaluation",
}

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 - the names are strings, ruff cannot see it


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monaiseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
