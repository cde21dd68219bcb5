"""Portable models in place of checkpoints: the same prediction, with the network run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monaiseg.data import LabelTable, Shape
from monaiseg.errors import CheckpointError
from monaiseg.portable import ModelError, PortableModel, Recipe
from monaiseg.settings import Settings, settings_from_dict

SUFFIX = ".onnx"


class OnnxNetwork:
    """A portable model's network for the sliding window, which asks for features and the head."""

    def __init__(self, model: PortableModel) -> None:
        self.model = model
        self.block: Shape = model.recipe.head.block

    def features(self, image: Tensor) -> Tensor:
        """Features (B, F, X / x, Y / y, Z / z) of windows (B, C, X, Y, Z)."""
        return torch.from_numpy(self.model.network(image.numpy()))

    def head_matrix(self) -> tuple[Tensor, Tensor]:
        """Weight (K, x, y, z, F) and bias (K, x, y, z) of the head."""
        head = self.model.recipe.head
        return torch.from_numpy(head.weight), torch.from_numpy(head.bias)


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
