"""Adaptation: a checkpoint used with other settings than those of its training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monaiseg.settings import Settings, dump_settings, parse_settings, settings_from_dict
from monaiseg.training import Checkpoint
from monaiseg.transforms import resize_note

FROM_TRAINING = (
    "num_channels",
    "spacing",
    "intensity",
    "seg.patch_size",
    "seg.interested_label_list",
    "seg.use_whole_img_as_input",
)
"""Keys of `dataset` that always keep their values from training."""


def as_evaluated(checkpoint: Checkpoint, wanted: Settings) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with the settings for an evaluation applied, and notes.

    If set, the settings for the evaluation determine the size that images are resampled to and how volumes are tiled,
    as in EasyReg, where training may have read images that were resized beforehand. All other settings stay as in
    training.

    Raises:
        SettingsError: the tiles do not fit the patch size of the training run.
    """
    trained = parse_settings(checkpoint.settings, source=str(checkpoint.path))
    document, said = trained.model_dump(mode="json"), wanted.model_dump(exclude_unset=True)
    dataset, said_of_data = document["dataset"], said.get("dataset", {})
    if wanted.image_shape is not None:
        dataset["img_after_resize"] = wanted.image_shape
    if partition := said_of_data.get("seg", {}).get("partition"):
        if partition.get("overlap_size") is None and "overlap" in partition:
            partition["overlap_size"] = None  # or that from training would win
        dataset["seg"]["partition"] |= partition
    kept = [f"dataset.{key}" for key in FROM_TRAINING if _differs(said_of_data, dataset, key)]
    notes = (
        [f"{', '.join(kept)}: kept as in training; the values in these settings are not used"]
        if kept
        else []
    )
    settings = settings_from_dict(document, "settings of the evaluation")
    if wanted.image_shape is not None and (note := resize_note(settings)):
        notes.append(note)
    return with_settings(checkpoint, settings), notes


def _differs(said: Any, holds: Any, path: str) -> bool:
    """Whether `said` has a value at or below the path that differs from that in `holds`."""
    name, _, rest = path.partition(".")
    if name not in said:
        return False
    value, held = said[name], holds[name]
    if rest:
        return _differs(value, held, rest)
    if isinstance(value, dict):
        return any(_differs(value, held, key) for key in value)
    return bool(value != (tuple(held) if isinstance(held, list) else held))


def with_settings(checkpoint: Checkpoint, settings: Settings) -> Checkpoint:
    """The same network with other settings."""
    return replace(checkpoint, settings=dump_settings(settings))
