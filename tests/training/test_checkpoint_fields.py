"""The fields of a checkpoint: what is missing, unknown or of the wrong kind is named."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
import torch

from checkpoint_files import BEST, made, saying, state_of
from monaiseg.errors import CheckpointError
from monaiseg.training.checkpoint import Checkpoint, load_checkpoint
from monaiseg.training.checkpoint_fields import FIELDS


def test_every_field_has_its_kind_checked():
    assert {*FIELDS, "path"} == {one.name for one in fields(Checkpoint)}


def put(path, state):
    path.write_bytes(saying(state))
    return path


def test_a_pointer_that_leads_out_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    pointer = asdict(BEST) | {"file": "../best-epoch-0003.safetensors"}

    with pytest.raises(CheckpointError, match="best is missing, unknown or of the wrong kind"):
        load_checkpoint(put(path, state_of(made()) | {"best": pointer}))


def test_a_newer_format_is_told_with_both_versions(tmp_path):
    path = put(tmp_path / "a.safetensors", state_of(made()) | {"schema_version": 2})

    with pytest.raises(CheckpointError, match="schema_version 2, but this monaiseg reads 1"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "10"},
        {"step": True},
        {"step": -1},
        {"epoch_closed": 1},
        {"network": {}},
        {"network": {"a": 1.0}},
        {"averaged": {"a": [torch.ones(1)]}},
        {"settings": {}},
        {"labels": ["left"]},
        {"spacing": (1.0, 1.0)},
        {"spacing": (1.0, 1.0, -1.0)},
        {"spacing": (1.0, 1.0, float("nan"))},
        {"history": [1]},
        {"best": {"epoch": 1}},
        {"best": {"epoch": 1, "value": 1, "file": "best-epoch-0001.safetensors", "sha256": ""}},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind_is_named(tmp_path, change):
    path = put(tmp_path / "a.safetensors", state_of(made()) | change)

    with pytest.raises(
        CheckpointError, match=rf"a\.safetensors: {next(iter(change))} is missing, unknown or"
    ):
        load_checkpoint(path)


def test_a_missing_field_is_named(tmp_path):
    state = state_of(made())
    del state["labels"]

    with pytest.raises(CheckpointError, match="labels is missing"):
        load_checkpoint(put(tmp_path / "a.safetensors", state))


def test_a_document_without_a_version_is_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a monaiseg checkpoint; give one that"):
        load_checkpoint(put(tmp_path / "a.safetensors", {"state_dict": {"a": torch.ones(1)}}))
