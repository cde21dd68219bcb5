"""Handlers for MONAI's engines, one task per module.

Each of them works in the `train_handlers` of any `SupervisedTrainer`. They share values through the engine's `state`:
`metrics` holds the scores of an epoch, and `last_step` the step at which a time budget ends the run.
"""

from monaiseg.training.handlers.dice import DiceOfLabels
from monaiseg.training.handlers.exact_resume import ExactResume
from monaiseg.training.handlers.gradient_clipping import GradientClipping
from monaiseg.training.handlers.history import History
from monaiseg.training.handlers.label_filter import LabelFilter
from monaiseg.training.handlers.label_maps import SaveLabelMaps
from monaiseg.training.handlers.learning_rate import LearningRate
from monaiseg.training.handlers.nan_guard import NanGuard
from monaiseg.training.handlers.progress import ProgressDisplay
from monaiseg.training.handlers.seeded_steps import SeededSteps
from monaiseg.training.handlers.stop_on_signal import StopOnSignal
from monaiseg.training.handlers.tensorboard import CasePicture, TensorBoardLog
from monaiseg.training.handlers.time_budget import TimeBudget
from monaiseg.training.handlers.validation import Validation
from monaiseg.training.handlers.weight_averaging import WeightAveraging

__all__ = [
    "CasePicture",
    "DiceOfLabels",
    "ExactResume",
    "GradientClipping",
    "History",
    "LabelFilter",
    "LearningRate",
    "NanGuard",
    "ProgressDisplay",
    "SaveLabelMaps",
    "SeededSteps",
    "StopOnSignal",
    "TensorBoardLog",
    "TimeBudget",
    "Validation",
    "WeightAveraging",
]
