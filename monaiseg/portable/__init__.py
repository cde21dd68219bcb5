"""Portable models: ONNX files that label scans with numpy, nibabel and onnxruntime, without torch and MONAI.

This package imports nothing else of monaiseg, so that `monaiseg export --runner` can write it as one file. The chains of
MONAI transforms share its normalisation and its way back to the scan's grid.
"""

from monaiseg.portable.intensity import Intensity, normalised
from monaiseg.portable.model import MAX_BYTES, PortableModel, Replay, checked_recipe
from monaiseg.portable.postprocessing import LabelRule, box_of, components_of, postprocessed
from monaiseg.portable.prior import MOST_CELLS, POSITIONS, SURPRISE, Prior
from monaiseg.portable.protobuf import OPERATORS, ModelError
from monaiseg.portable.recipe import (
    DTYPES,
    FORMAT,
    KEY,
    NO_DIGEST,
    Recipe,
    digest_of,
    packed,
    recipe_of,
    rules_of,
)
from monaiseg.portable.registration import (
    AFFINE_BLUR,
    AFFINE_STEPS,
    DEFORMATION_BLUR,
    DEFORMATION_STEPS,
    FLAT_GRADIENT,
    FLAT_SHARE,
    INSIDE,
    LARGEST_STEP,
    LEAST_DEVIATION,
    MOST_DEVIATIONS,
    MOST_SIZE,
    RIDGE,
    ROUNDING,
    SMOOTHING,
    STRANGE_DEVIATIONS,
    Cells,
)
from monaiseg.portable.resampling import labels_at
from monaiseg.portable.route import Route, RouteError, route_of, turned_back

__all__ = [
    "AFFINE_BLUR",
    "AFFINE_STEPS",
    "DEFORMATION_BLUR",
    "DEFORMATION_STEPS",
    "DTYPES",
    "FLAT_GRADIENT",
    "FLAT_SHARE",
    "FORMAT",
    "INSIDE",
    "KEY",
    "LARGEST_STEP",
    "LEAST_DEVIATION",
    "MAX_BYTES",
    "MOST_CELLS",
    "MOST_DEVIATIONS",
    "MOST_SIZE",
    "NO_DIGEST",
    "OPERATORS",
    "POSITIONS",
    "RIDGE",
    "ROUNDING",
    "SMOOTHING",
    "STRANGE_DEVIATIONS",
    "SURPRISE",
    "Cells",
    "Intensity",
    "LabelRule",
    "ModelError",
    "PortableModel",
    "Prior",
    "Recipe",
    "Replay",
    "Route",
    "RouteError",
    "box_of",
    "checked_recipe",
    "components_of",
    "digest_of",
    "labels_at",
    "normalised",
    "packed",
    "postprocessed",
    "recipe_of",
    "route_of",
    "rules_of",
    "turned_back",
]
