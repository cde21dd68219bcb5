"""Portable models in place of checkpoints: the same prediction, with the network run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monaiseg.atlas import Atlas, Lattice, Template
from monaiseg.data import LabelTable, Shape, Spacing
from monaiseg.errors import CheckpointError
from monaiseg.networks import AtlasPrior
from monaiseg.portable import Cells, ModelError, PortableModel, Prior, Recipe
from monaiseg.settings import Settings, settings_from_dict

SUFFIX = ".onnx"


class OnnxNetwork:
    """A portable model's network for the sliding window, which asks for features and the head."""

    def __init__(self, model: PortableModel) -> None:
        self.model = model
        self.block: Shape = model.recipe.head.block
        prior, (x, y, z) = model.recipe.prior, model.recipe.trained_spacing
        self.prior = None if prior is None else torch_prior(prior, (x, y, z))

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F, X / x, Y / y, Z / z) of windows (B, C, X, Y, Z), positions included if there is an atlas."""
        return torch.from_numpy(self.model.network(image.numpy()))

    def head_matrix(self) -> tuple[Tensor, Tensor]:
        """Weight (K, x, y, z, F) and bias (K, x, y, z) of the head."""
        head = self.model.recipe.head
        return torch.from_numpy(head.weight), torch.from_numpy(head.bias)


def torch_prior(prior: Prior, spacing: Spacing) -> AtlasPrior:
    """A portable model's template and atlas, for torch."""
    mean, atlas = prior.template, prior
    kept = (atlas.counts, atlas.classes, atlas.logs, atlas.frequencies)
    numbers = map(torch.from_numpy, (mean.deviation, mean.correlations))
    made = AtlasPrior(len(atlas.frequencies), spacing)
    made.learn(
        Template(torch.from_numpy(mean.image), _lattice(mean.cells), *numbers),
        Atlas(_lattice(atlas.cells), *map(torch.from_numpy, kept)),
    )
    return made


def _lattice(cells: Cells) -> Lattice:
    x, y, z = cells.cell_mm
    return Lattice(cells.shape, (x, y, z))


def is_portable(path: object) -> bool:
    """Whether a model is a portable one, by the name of its file."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() == SUFFIX


def read_portable(path: str | Path) -> PortableModel:
    """Read and check a portable model.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, or not allowed; or onnxruntime is not installed.
    """
    try:
        return PortableModel(path, threads=torch.get_num_threads())
    except ModelError as error:
        raise CheckpointError(str(error)) from error
    except ImportError as error:
        raise CheckpointError(
            f"{path}: portable models are run by onnxruntime, which is not installed: pip install 'monaiseg[onnx]'"
        ) from error


def table_of(recipe: Recipe) -> LabelTable:
    """The label table that a recipe was made from; raises DataError if it is none."""
    labels: list[Mapping[str, Any]] = [*recipe.labels]
    if recipe.ignored_value is not None:
        labels.append({"value": recipe.ignored_value, "name": "ignore"})
    return LabelTable.from_records(labels)


def settings_of(recipe: Recipe) -> Settings:
    """The settings that a recipe was made from, as far as a prediction needs them; raises SettingsError if it is none."""
    directions = ("left_right", "front_back", "up_down")
    margins = [share * size / 2 for share, size in zip(recipe.overlap, recipe.patch, strict=True)]
    same = len(set(recipe.overlap)) == 1
    partition = {
        "overlap": recipe.overlap[0],
        "overlap_size": None if same else [round(margin) for margin in margins],
        "blending": recipe.blending,
        "padding_mode": recipe.padding_mode,
        "flips": [directions[axis] for axis in recipe.flips],
    }
    seg = {
        "patch_size": recipe.patch,
        "use_whole_img_as_input": recipe.whole_image,
        "partition": partition,
    }
    dataset = {
        "axis_order": "xyz",
        "num_channels": len(recipe.channels),
        "spacing": recipe.spacing,
        "img_after_resize": recipe.image_shape or (-1, -1, -1),
        "intensity": recipe.intensity._asdict(),
        "seg": seg,
    }
    return settings_from_dict({"dataset": dataset}, "the recipe")
