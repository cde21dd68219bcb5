"""Settings, cases and the bits of batches, for the tests of loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monaiseg.data.cases import Case
from monaiseg.data.labels import LabelTable
from monaiseg.data.phantoms import make_phantom, write_phantom
from monaiseg.settings.reading import settings_from_dict
from monaiseg.settings.settings import Settings
from monaiseg.training.loaders import (
    CaseLoader,
)
from monaiseg.training.sampling import EpochSampler

TABLE = LabelTable.from_values([1, 4])


FOUR = ("a", "b", "c", "d")


HARSH = {
    name: {"probability": 0.5}
    for name in ("rotation", "scaling", "noise", "smoothing", "bias_field", "contrast", "gamma")
} | {"flip": {"left_right": 0.5}}


def settings_of(where="memory", seg: Any = None, cache: Any = None, **tsk_set: Any) -> Settings:
    """Patches of 16 x 16 x 16 with much augmentation, six steps of two."""
    seg = {"patch_size": [16, 16, 16], "augmentation": HARSH, **(seg or {})}
    dataset = {"seg": seg, "cache": {"where": where, **(cache or {})}}
    tsk_set = {"num_workers": 0, "batch_size": 2, "max_batch_num_per_epoch": [6, -1, -1], **tsk_set}
    return settings_from_dict({"dataset": dataset, "tsk_set": tsk_set})


def written(folder: Path, name: str, seed: int, shape=(20, 22, 18)) -> Case:
    files = write_phantom(folder, name, make_phantom(shape, label_values=(1, 4), seed=seed))
    return Case(name, (files[0],), files[1])


def bits(batches) -> list[tuple[Any, ...]]:
    return [
        (b["image"].numpy().tobytes(), b["label"].numpy().tobytes(), b["case_id"]) for b in batches
    ]


def epoch(loader: CaseLoader, number: int = 1, skip: int = 0) -> list[tuple[Any, ...]]:
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.epoch, loader.sampler.skip = number, skip
    return bits(loader)
