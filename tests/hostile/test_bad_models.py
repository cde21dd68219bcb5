"""Checkpoints and bundles that are refused with what to do about them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import Bench, Row, call, check_refusal, ids, table
from bench_models import (
    FIRST_KEY,
    NARROW,
    generations,
    one_file,
    predict,
    saying,
    turned,
    with_best,
)
from fuzz import models


def with_turned_weight() -> bytes:
    """The sound checkpoint with one bit of a weight turned."""
    raw, weight = bytearray(models.sound()[0]), max(models.entries().values(), key=len)
    raw[raw.index(weight) + len(weight) // 2] ^= 1
    return bytes(raw)


def bundle_without_metadata(folder: Path) -> Path:
    """A MONAI bundle's folder with scripts and a configuration that would make a file."""
    for name, text in {
        "scripts/__init__.py": "open('canary', 'w')",
        "configs/train.json": "{\"a\": \"$open('canary', 'w')\"}",
        "configs/logging.conf": "[loggers]",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def without(key: str) -> Any:
    """The sound weights but one."""
    return {name: it for name, it in models.meaning()["network"].items() if name != key}


def other_labels(bench: Bench) -> Sequence[str]:
    """A model that calls 1 and 4 left and right, and a data task that calls them right and left."""
    table("value,name\n1,right\n4,left\n")(bench)
    prepared = call([*bench.prepare, "--label-table", str(bench.root / "labels.csv")])
    assert prepared.exit_code == 0, prepared.output
    labels = [{"value": v, "name": n, "partner": p} for v, n, p in ((0, "background", None), (1, "left", 4), (4, "right", 1))]  # fmt: skip
    model = saying(labels=labels)(bench)[2]
    return ["evaluate", "-m", model, "-o", str(bench.root / "out"), "-dtn", "task", "-g", "-1"]


MODELS_REFUSED = [
    Row(60, "missing", predict(lambda f: f / "model.pt"), r"model\.pt: cannot be read \(No such file.*give a \.pt file"),
    Row(60, "empty", one_file(lambda: b""), r"model\.pt: is damaged or not a checkpoint .*; use another checkpoint"),
    Row(60, "truncated", one_file(lambda: models.sound()[0][:-100]), r"model\.pt: is damaged .*; use another checkpoint"),
    Row(60, "flipped bit", one_file(with_turned_weight), r"model\.pt: is damaged .*Bad CRC-32.*; use another checkpoint"),
    Row(60, "no generation left", generations(lambda f: [turned(p) for p in f.glob("*.pt")]), r"no checkpoint is left that can be used; train again"),
    Row(61, "code", one_file(lambda: models.packed({**models.entries(), "archive/data.pkl": b"cos\nsystem\n(S'true'\ntR."}.items())), r"model\.pt: .*(refers to|opcode).*; use another"),
    Row(61, "deflated", one_file(lambda: models.packed(models.entries().items(), zipfile.ZIP_DEFLATED)), r"is compressed|claim more than.*; use another"),
    Row(61, "foreign zip", one_file(lambda: models.packed([("evil.sh", b"true")])), r"'evil\.sh' has no place in a checkpoint\); use another"),
    Row(61, "sparse", saying(optimizer={"a": torch.eye(3).to_sparse()}), r"model\.pt: .*; use another checkpoint"),
    Row(61, "terabytes in four bytes", saying(network={"a": torch.zeros(1).expand(10**6, 10**6)}), r"is not a dense tensor of its own.*; use another"),
    Row(62, "weight missing", saying(network=without(FIRST_KEY)), rf"do not fit the network: {FIRST_KEY} is missing; use the network settings"),
    Row(62, "other width", saying(settings=NARROW), r"do not fit the network: .* and \d+ more; use the network settings"),
    Row(62, "terabytes by its settings", saying(settings=NARROW.replace('"channels": 4', '"channels": 65536, "max_channels": 65536')), r"do not fit the network"),
    Row(64, "newer schema", saying(schema_version=99), r"has schema_version 99 and this monaiseg reads 1: use it with the monaiseg that wrote it"),
    Row(65, "NaN weights", saying(network={**models.meaning()["network"], FIRST_KEY: torch.full_like(models.meaning()["network"][FIRST_KEY], np.nan)}), r"holds NaN or infinite numbers\); use another"),
    Row(67, "best altered", with_best(turned), r"best-epoch-0001\.pt: .*; use another checkpoint, or give .*step-"),
    Row(67, "best missing", with_best(Path.unlink), r"best-epoch-0001\.pt: cannot be read .*, or give .*step-"),
    Row(68, "labels the other way round", other_labels, r"label 1 is 'left' in the model and 'right' in .*; evaluate"),
    Row(69, "bundle without metadata", predict(bundle_without_metadata), r"holds no committed checkpoint .*; give the folder of a training"),
    Row(9, "label name that is code, in a checkpoint", saying(labels=[{"value": 0, "name": "background"}, {"value": 1, "name": "$import os"}]), r"describes no network .*'\$import os' holds \$"),
]  # fmt: skip


@pytest.mark.parametrize("row", MODELS_REFUSED, ids=ids)
def test_a_bad_model_is_refused_with_what_to_do(row: Row, bench: Bench):
    check_refusal(row, bench)
