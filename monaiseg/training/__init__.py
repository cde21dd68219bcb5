"""Training: from settings and a data task to a run folder with the best network.

`train` does the whole job. Engines, loaders, checkpoints and handlers are its parts.
"""

from monaiseg.training.budget import UNSTEADY_STEPS, Pace, Rhythm
from monaiseg.training.cache import CachedCases, cached_bytes, memory_allowance, prepare_items
from monaiseg.training.checkpoint import (
    Best,
    Checkpoint,
    check_weights,
    load_checkpoint,
    newest,
    versions,
)
from monaiseg.training.devices import (
    choose_device,
    compute_exactly,
    device_in_words,
    device_of,
    free_bytes,
    set_threads,
)
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
from monaiseg.training.mirroring import (
    Mirroring,
    prediction_flips,
    read_mirroring,
    write_mirroring,
)
from monaiseg.training.placement import POSITION_BYTES, labelled_scan, learned_atlas, placed
from monaiseg.training.recipe import Recipe
from monaiseg.training.resume import first_state
from monaiseg.training.run import TrainingResult, build_training, fit, opened, train
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.sampling import SeededDataset, limited, validated
from monaiseg.training.state import RunState, restored
from monaiseg.training.wiring import handlers_in_words, train_handlers

__all__ = [
    "POSITION_BYTES",
    "UNSTEADY_STEPS",
    "Best",
    "CachedCases",
    "Checkpoint",
    "Mirroring",
    "Pace",
    "Recipe",
    "Rhythm",
    "RunFolder",
    "RunState",
    "SeededDataset",
    "TrainingResult",
    "build_evaluator",
    "build_inferer",
    "build_optimizer",
    "build_trainer",
    "build_training",
    "build_training_loader",
    "cached_bytes",
    "case_ids",
    "case_loader",
    "check_weights",
    "choose_device",
    "compute_exactly",
    "device_in_words",
    "device_of",
    "first_state",
    "fit",
    "free_bytes",
    "handlers_in_words",
    "initial_network",
    "labelled_scan",
    "learned_atlas",
    "limited",
    "load_checkpoint",
    "memory_allowance",
    "network_spacing",
    "newest",
    "opened",
    "placed",
    "prediction_flips",
    "prepare_items",
    "read_mirroring",
    "restored",
    "set_threads",
    "train",
    "train_handlers",
    "training_loader",
    "validated",
    "versions",
    "write_mirroring",
]
