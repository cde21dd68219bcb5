"""Resources: whether the memory and the disk of this computer are enough for a training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from monaiseg.checks.evidence import Evidence
from monaiseg.checks.findings import Finding
from monaiseg.data import kept_labels, split_cases
from monaiseg.machine import free_memory
from monaiseg.settings import Settings

if TYPE_CHECKING:
    from monaiseg.planning import Estimate


def measured(evidence: Evidence, settings: Settings) -> Estimate | None:
    """The estimate for a training with these settings; None if a step does not fit into memory.

    Without splits, the default split of `prepare` is assumed.

    Raises:
        SettingsError: a step cannot be run with these settings.
        DataError: there are too few cases for a split.
    """
    from monaiseg.planning import estimate_training  # noqa: PLC0415  it needs torch

    names = [*evidence.facts]
    splits = evidence.splits or split_cases(names)
    grids = {
        split: [evidence.facts[name].grid for name in splits[split] if name in evidence.facts]
        for split in ("train", "val")
    }
    return estimate_training(
        settings,
        grids["train"] or [found.grid for found in evidence.facts.values()],
        grids["val"],
        kept_labels(evidence.table, settings, "the dataset").num_classes,
    )


def lacking(evidence: Evidence, estimate: Estimate | None) -> Iterator[Finding]:
    """Findings if memory or disk are not enough."""
    if estimate is None:
        yield Finding(
            "no-memory-for-a-step",
            "a single training step takes more memory than is available",
            "Training would stop at its first step.",
            "Lower tsk_set.batch_size or dataset.seg.patch_size; or let `monaiseg plan` choose both.",
            stops_training=True,
        )
        return
    free = free_memory()
    if estimate.memory_bytes > free:
        yield Finding(
            "little-memory",
            f"training is expected to take {_gib(estimate.memory_bytes)} of memory, and {_gib(free)} are free",
            "The system may end the training in the middle of an epoch.",
            "Close other programs, set dataset.cache.where to disk, or lower tsk_set.batch_size or dataset.seg.patch_size.",
        )
    if estimate.cache == "disk":
        room = shutil.disk_usage(_existing(evidence.folder)).free
        if estimate.cache_bytes > room:
            yield Finding(
                "little-disk",
                f"prepared cases take {_gib(estimate.cache_bytes)} on disk, and {_gib(room)} are free in {evidence.folder}",
                "`train` refuses to start, since a full disk would also stop the checkpoints.",
                "Make room; or set dataset.cache.where to none, which reads every case again in every epoch.",
                stops_training=evidence.task is not None,
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
