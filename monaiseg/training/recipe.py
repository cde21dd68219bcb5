"""Recipe: everything that is decided about a training before its first step, resolved once and passed on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from monaiseg.data import Case, DataTask, LabelTable, Spacing, check_unchanged
from monaiseg.settings import Settings, dump_settings
from monaiseg.training import distributed
from monaiseg.training.conditions import conditions
from monaiseg.training.devices import computes_in_bfloat16, name_of, set_threads
from monaiseg.training.engines import network_spacing
from monaiseg.training.sampling import limited, validated


@dataclass(frozen=True)
class Recipe:
    """A training's settings, data and place, which go together. Made by `Recipe.of`."""

    settings: Settings
    """Every choice, as it is saved with the training."""
    task: DataTask
    reading: Settings
    """The settings to read its volumes by: those that were prepared stay as they are."""
    table: LabelTable
    """The labels of the network."""
    spacing: Spacing
    """Voxel size in mm along X, Y, Z that the network is laid out for."""
    device: torch.device
    num_threads: int
    """Of the CPU's compute; they are set."""
    num_ranks: int
    """Processes that train together."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        task: DataTask,
        device: torch.device,
        *,
        table: LabelTable | None = None,
        spacing: Spacing | None = None,
    ) -> Recipe:
        """The recipe of these settings for a data task; sets the threads of the CPU's compute.

        `table` and `spacing` are a network's that is there already. None: as settings and data ask for.

        Raises:
            SettingsError: settings and data do not go together.
            DataError: a case has changed since it was prepared, or there is nothing to train on.
        """
        check_unchanged(dict.fromkeys(case for _, case in _seen_cases(task)), task.facts)
        return cls(
            settings=settings,
            task=task,
            reading=task.as_read(settings),
            table=task.label_table(settings) if table is None else table,
            spacing=network_spacing(task, settings) if spacing is None else spacing,
            device=device,
            num_threads=set_threads(settings.tsk_set.num_threads),
            num_ranks=distributed.size(),
        )

    def cases(self, split: str) -> tuple[Case, ...]:
        """The cases of train, val or debug that this process trains or validates on."""
        chosen = limited if split == "train" else validated
        return tuple(chosen(self.task, split, self.settings))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What must be the same for a training to go on to the same weights."""
        in_bfloat16 = self.settings.tsk_set.amp and computes_in_bfloat16(self.device)
        facts = self.task.facts
        return conditions(
            self.settings,
            {name: facts[case.id].checksum for name, case in _seen_cases(self.task)},
            self.table.digest(),
            num_threads=self.num_threads,
            device=name_of(self.device) + " in bfloat16" * in_bfloat16,
            world_size=self.num_ranks,
        )

    @property
    def description(self) -> dict[str, Any]:
        """What every checkpoint of the training says of it."""
        return {
            "settings": dump_settings(self.settings),
            "labels": self.table.to_records(),
            "channels": self.task.channel_names,
            "spacing": self.spacing,
            "conditions": self.conditions,
        }


def _seen_cases(task: DataTask) -> Iterator[tuple[str, Case]]:
    """The cases that a training looks at, by "split/case id": all but those of the test."""
    for split in ("train", "val", "debug"):
        for case in task.cases.get(split, ()):
            yield f"{split}/{case.id}", case
