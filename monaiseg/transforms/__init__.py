"""Transforms: chains that prepare a case for the network and return its class map to the grid of the file."""

from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    cached_chain,
    crop_transforms,
    inference_chain,
    load_chain,
    training_chain,
)
from monaiseg.transforms.crop import MAX_CENTRES
from monaiseg.transforms.inverse import (
    LabelValuesd,
    ToFileGridd,
    nearest_on_file_grid,
    to_file_grid,
)
from monaiseg.transforms.items import Item, case_item, case_name
from monaiseg.transforms.load import ReadReferenced
from monaiseg.transforms.memory import (
    CERTAIN,
    PREPARING_BYTES,
    RESAMPLING_BYTES,
    preparing_bytes,
)
from monaiseg.transforms.network_grid import resize_note, sampled_spacing, target_shape
from monaiseg.transforms.reader import CheckedReader
from monaiseg.transforms.words import in_words

__all__ = [
    "CERTAIN",
    "MAX_CENTRES",
    "PREPARING_BYTES",
    "RESAMPLING_BYTES",
    "CaseChain",
    "CheckedReader",
    "Item",
    "LabelValuesd",
    "ReadReferenced",
    "ToFileGridd",
    "cached_chain",
    "case_item",
    "case_name",
    "crop_transforms",
    "in_words",
    "inference_chain",
    "load_chain",
    "nearest_on_file_grid",
    "preparing_bytes",
    "resize_note",
    "sampled_spacing",
    "target_shape",
    "to_file_grid",
    "training_chain",
]
