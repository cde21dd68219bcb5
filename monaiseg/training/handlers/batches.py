"""Batches: their cases, and how messages name them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("monaiseg")


def case_ids(batch: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    """The cases that a batch was cut from, without duplicates; empty if the loader gives no case ids."""
    if not isinstance(batch, Mapping):
        return [name for item in batch for name in case_ids(item)]
    ids = batch.get("case_id", [])
    return list(dict.fromkeys([ids] if isinstance(ids, str) else map(str, ids)))


def in_words(batch: Mapping[str, Any] | None) -> str:
    """The cases of a batch, for a message. The batch is None while an engine waits for one.

    >>> in_words({"case_id": ["S01", "S07", "S01"]})
    'cases S01, S07'
    """
    ids = case_ids(batch or {})
    return f"cases {', '.join(ids)}" if ids else "cases unknown"


def loss_of(engine: Any) -> float:
    """Loss of the step that a `SupervisedTrainer` has just computed."""
    return float(engine.state.output["loss"].detach())


def learning_rate_of(engine: Any) -> float:
    """Learning rate of the optimiser of a `SupervisedTrainer`."""
    return float(engine.optimizer.param_groups[0]["lr"])
