"""Position: how much the position of a voxel in the body says about its label, measured on a few training cases."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from monaiseg.atlas import explained_share
from monaiseg.data import DataTask
from monaiseg.machine import reading_threads, usable_cores
from monaiseg.settings import Settings
from monaiseg.training import labelled_scan, learned_atlas
from monaiseg.transforms import cached_chain, case_item

LEAST_PERSONS = 4
"""With fewer persons, an atlas says more about them than about new ones."""


@dataclass(frozen=True)
class Position:
    """What the position in the body says about labels: facts for the decision to start from an atlas."""

    explained: float
    """Share of the uncertainty about the label of a foreground voxel that its position removes, for new persons."""
    seconds_per_case: float
    """Time to learn from a case, on this machine."""


def measure_position(task: DataTask, settings: Settings, most_cases: int) -> Position | None:
    """Measure it on the first training cases of different persons; None if there are too few persons.

    Args:
        task: the data task.
        settings: settings for reading the cases.
        most_cases: number of cases to use.
    """
    chosen = {task.persons.get(case.id, case.id): case for case in task.cases["train"][::-1]}
    persons = list(chosen)[-most_cases:]
    if len(persons) < LEAST_PERSONS:
        return None
    table, reading = task.label_table(settings), task.as_read(settings)
    chain = cached_chain(reading, table, for_training=False)
    with ThreadPoolExecutor(reading_threads()) as pool:
        items = pool.map(chain, (case_item(chosen[person]) for person in persons))
        cases = [labelled_scan(item) for item in items]
    started = _computed()
    trained = learned_atlas(cases, persons, table)
    seconds = (_computed() - started) / usable_cores()
    return Position(explained_share(cases, trained), seconds / len(cases))


def _computed() -> float:
    """Seconds that this process and its finished children have computed, which other programs hardly change."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
