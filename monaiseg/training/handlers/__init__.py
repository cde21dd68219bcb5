"""Handlers: what happens around the steps of MONAI's engines, one idea a module.

A *step* is one batch, counted from 1 through the whole run: ignite's `state.iteration`.
"""

from monaiseg.training.handlers.dice import DiceOfLabels
from monaiseg.training.handlers.history import HistoryCsv
from monaiseg.training.handlers.label_filter import LabelFilter
from monaiseg.training.handlers.nan_guard import NanGuard
from monaiseg.training.handlers.progress import ProgressDisplay
from monaiseg.training.handlers.stop import StopOnSignal
from monaiseg.training.handlers.tensorboard import TensorBoardLog

__all__ = [
    "DiceOfLabels",
    "HistoryCsv",
    "LabelFilter",
    "NanGuard",
    "ProgressDisplay",
    "StopOnSignal",
    "TensorBoardLog",
]
