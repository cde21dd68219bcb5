"""Atlas: where labels occur in the body, learned from the training cases and evaluated at the voxels of a scan."""

from monaiseg.atlas.atlas import Atlas, atlas_of
from monaiseg.atlas.building import LabelledScan, TrainedAtlas, train_atlas
from monaiseg.atlas.frame import Frame
from monaiseg.atlas.lattice import Lattice
from monaiseg.atlas.likelihood import (
    AtlasEvidence,
    Likelihood,
    explained_share,
    measure_atlas,
    vote_dice,
)
from monaiseg.atlas.random_atlas import random_atlas
from monaiseg.atlas.scans import Scan, scan_of
from monaiseg.atlas.template import Template

__all__ = [
    "Atlas",
    "AtlasEvidence",
    "Frame",
    "LabelledScan",
    "Lattice",
    "Likelihood",
    "Scan",
    "Template",
    "TrainedAtlas",
    "atlas_of",
    "explained_share",
    "measure_atlas",
    "random_atlas",
    "scan_of",
    "train_atlas",
    "vote_dice",
]
