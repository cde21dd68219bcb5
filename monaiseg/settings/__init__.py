"""Settings: every option of a run, with its type, range, default and description.

`load_settings` reads a JSON file, also one of EasyReg's, and returns `Settings`. This package imports neither torch nor
MONAI.
"""

from monaiseg.settings.augmentation import (
    AugmentationSettings,
    BilateralSettings,
    DeformationSettings,
    RigidSettings,
    RotationSettings,
    ScalingSettings,
)
from monaiseg.settings.dataset import DatasetSettings, IntensitySettings, SamplingSettings
from monaiseg.settings.loss import LossSettings
from monaiseg.settings.network import NetworkSettings
from monaiseg.settings.optimisation import OptimSettings
from monaiseg.settings.planning import PlanningSettings
from monaiseg.settings.reading import (
    changed,
    find_settings,
    load_settings,
    parse_settings,
    settings_from_dict,
)
from monaiseg.settings.schema import json_schema
from monaiseg.settings.settings import Settings
from monaiseg.settings.task import TaskSettings
from monaiseg.settings.writing import dump_settings

__all__ = [
    "AugmentationSettings",
    "BilateralSettings",
    "DatasetSettings",
    "DeformationSettings",
    "IntensitySettings",
    "LossSettings",
    "NetworkSettings",
    "OptimSettings",
    "PlanningSettings",
    "RigidSettings",
    "RotationSettings",
    "SamplingSettings",
    "ScalingSettings",
    "Settings",
    "TaskSettings",
    "changed",
    "dump_settings",
    "find_settings",
    "json_schema",
    "load_settings",
    "parse_settings",
    "settings_from_dict",
]
