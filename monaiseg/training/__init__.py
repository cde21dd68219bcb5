"""Training: from settings and a data task to a run folder with the best network.

`train` is the whole of it; engines, loaders, checkpoints and handlers are its parts.
"""

from monaiseg.training.budget import UNSTEADY_STEPS, Pace, Rhythm
from monaiseg.training.cache import PreparedCases, prepare_items
from monaiseg.training.checkpoint import (
    Best,
    Checkpoint,
    check_weights,
    load_checkpoint,
    newest,
    versions,
)
from monaiseg.training.devices import choose_device, device_of
from monaiseg.training.engines import (
    build_evaluator,
    build_inferer,
    build_optimizer,
    build_trainer,
    initial_network,
    network_spacing,
)
from monaiseg.training.handlers.batches import case_ids
from monaiseg.training.loaders import build_training_loader, case_loader, training_loader
from monaiseg.training.run import Training, TrainingResult, opened, train
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.sampling import SeededDataset, limited, validated

__all__ = [
    "UNSTEADY_STEPS",
    "Best",
    "Checkpoint",
    "Pace",
    "PreparedCases",
    "Rhythm",
    "RunFolder",
    "SeededDataset",
    "Training",
    "TrainingResult",
    "build_evaluator",
    "build_inferer",
    "build_optimizer",
    "build_trainer",
    "build_training_loader",
    "case_ids",
    "case_loader",
    "check_weights",
    "choose_device",
    "device_of",
    "initial_network",
    "limited",
    "load_checkpoint",
    "network_spacing",
    "newest",
    "opened",
    "prepare_items",
    "train",
    "training_loader",
    "validated",
    "versions",
]
