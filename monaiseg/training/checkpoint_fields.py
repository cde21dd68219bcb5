"""Fields of a checkpoint: the type of each, and the properties that other modules rely on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monaiseg.errors import CheckpointError

SCHEMA_VERSION = 1
_BEST_NAME = re.compile(r"best-epoch-\d{4,}\.safetensors")
_MAYBE = (dict, type(None))
FIELDS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "epoch": (int,),
    "epoch_closed": (bool,),
    "network": (dict,),
    "settings": (str,),
    "labels": (list,),
    "channels": (list,),
    "spacing": (list,),
    "inputs": _MAYBE,
    "conditions": (dict,),
    "optimizer": _MAYBE,
    "scheduler": _MAYBE,
    "scaler": _MAYBE,
    "averaged": _MAYBE,
    "best": _MAYBE,
    "history": (list,),
    "versions": (dict,),
}
"""Fields in the order of the file, with the types that each may have."""


def checked_fields(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a checkpoint as read from its file, after checking each.

    Raises:
        CheckpointError: fields are missing, unknown or of the wrong kind, or the file has another schema version.
    """
    if "schema_version" not in state:
        raise CheckpointError(f"{path}: is not a monaiseg checkpoint; give one that monaiseg wrote")
    check_version(state.pop("schema_version"), path)
    state.setdefault("inputs", None)
    wrong = sorted(state.keys() ^ FIELDS.keys())
    wrong += [
        name for name, kinds in FIELDS.items() if name in state and type(state[name]) not in kinds
    ]
    if not wrong:
        wrong = [name for name, fits in _meaning(state).items() if not fits]
    if wrong:
        raise CheckpointError(
            f"{path}: {', '.join(wrong)} is missing, unknown or of the wrong kind; use another checkpoint"
        )
    return state | {"channels": tuple(state["channels"]), "spacing": tuple(state["spacing"])}


def check_version(version: Any, path: Path) -> None:
    """Check the schema version of a file.

    Raises:
        CheckpointError: the file has another schema version; the message names both.
    """
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: has schema_version {version!r}, but this monaiseg reads {SCHEMA_VERSION}; use the version that wrote "
            "it, or train again"
        )


def _meaning(state: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each field has the properties that other modules rely on."""
    return {
        "step": state["step"] >= 0,
        "epoch": state["epoch"] >= 0,
        "network": _are_weights(state["network"]),
        "averaged": state["averaged"] is None or _are_weights(state["averaged"]),
        "spacing": len(state["spacing"]) == 3
        and all(type(mm) in (int, float) and 0 < mm < math.inf for mm in state["spacing"]),
        "labels": all(type(label) is dict for label in state["labels"]),
        "channels": all(type(name) is str for name in state["channels"]),
        "history": all(type(row) is dict for row in state["history"]),
        "best": state["best"] is None or _is_pointer(state["best"]),
    }


def _are_weights(value: dict[Any, Any]) -> bool:
    return bool(value) and all(
        type(key) is str and type(item) is torch.Tensor for key, item in value.items()
    )


def _is_pointer(best: dict[Any, Any]) -> bool:
    kinds = {name: type(item) for name, item in best.items()}
    return (
        kinds == {"epoch": int, "value": float, "file": str, "sha256": str}
        and _BEST_NAME.fullmatch(best["file"]) is not None
    )
