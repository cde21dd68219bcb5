"""Recipe: everything that is decided about a run before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from monaiseg.data import Case, DataTask, InputRange, LabelTable, Spacing, check_unchanged
from monaiseg.settings import Settings, dump_settings
from monaiseg.training import distributed
from monaiseg.training.conditions import conditions
from monaiseg.training.devices import (
    compute_exactly,
    computes_in_bfloat16,
    name_of,
    set_threads,
)
from monaiseg.training.engines import network_spacing
from monaiseg.training.sampling import limited, validated


@dataclass(frozen=True)
class Recipe:
    """Settings, data and device of a run, checked against each other by `Recipe.of`."""

    settings: Settings
    """All settings, as saved with the run."""
    task: DataTask
    reading: Settings
    """The settings for reading the volumes; preprocessed volumes are not preprocessed again."""
    table: LabelTable
    """Label table of the network."""
    spacing: Spacing
    """Voxel size in mm along X, Y, Z that the network is designed for."""
    device: torch.device
    num_threads: int
    """Number of CPU threads that torch computes with; already set."""
    num_ranks: int
    """Number of processes that train together."""

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
        """The recipe for training on a data task with these settings.

        Also sets the number of CPU threads, and how exactly a GPU computes.

        `table` and `spacing` are those of an existing network. None: derive them from the settings and the data.

        Raises:
            SettingsError: settings and data do not match.
            DataError: a case has changed since it was prepared, or there is nothing to train on.
        """
        check_unchanged(dict.fromkeys(case for _, case in _seen_cases(task)), task.facts)
        compute_exactly(device, wanted=settings.tsk_set.deterministic)
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
        """The cases of a split (train, val or debug) that this process uses."""
        chosen = limited if split == "train" else validated
        return tuple(chosen(self.task, split, self.settings))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What must stay the same for a resumed run to reach the same weights."""
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
        """The fields that are the same in every checkpoint of the run."""
        return {
            "settings": dump_settings(self.settings),
            "labels": self.table.to_records(),
            "channels": self.task.channel_names,
            "spacing": self.spacing,
            "inputs": asdict(
                InputRange.of([self.task.facts[case.id] for case in self.cases("train")])
            ),
            "conditions": self.conditions,
        }


def _seen_cases(task: DataTask) -> Iterator[tuple[str, Case]]:
    """The cases of train, val and debug, with their key "split/case id"; test cases are not used."""
    for split in ("train", "val", "debug"):
        for case in task.cases.get(split, ()):
            yield f"{split}/{case.id}", case
