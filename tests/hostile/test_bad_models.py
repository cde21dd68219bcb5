"""Checkpoints and bundles that are refused with what to do about them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import checkpoint_files
from bench import Bench, Row, call, check_refusal, ids, table
from bench_models import (
    FIRST_KEY,
    NARROW,
    generations,
    of_torch,
    one_file,
    predict,
    saying,
    turned,
    with_best,
    with_header,
)
from fuzz import models


def with_turned_weight() -> bytes:
    """The sound checkpoint with one bit of a weight turned."""
    raw = bytearray(models.sound()[0])
    raw[-100] ^= 1
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
    Row(60, "missing", predict(lambda f: f / "model.safetensors"), r"model\.safetensors: cannot be read \(No such file.*give a \.safetensors file"),
    Row(60, "empty", one_file(lambda: b""), r"model\.safetensors: is damaged or not a monaiseg checkpoint .*; use another checkpoint"),
    Row(60, "truncated", one_file(lambda: models.sound()[0][:-100]), r"model\.safetensors: is damaged .*tensors end at byte \d+, but the file ends at \d+\); use another checkpoint"),
    Row(60, "flipped bit", one_file(with_turned_weight), r"model\.safetensors: is damaged .*its SHA-256 is .*; use another checkpoint"),
    Row(60, "no generation left", generations(lambda f: [turned(p) for p in f.glob("*.safetensors")]), r"no usable checkpoint is left; train again"),
    Row(61, "code", one_file(lambda: of_torch(data_pkl=b"cos\nsystem\n(S'true'\ntR.")), r"model\.safetensors: .*can contain code and are not read; train with EasyReg's settings"),
    Row(61, "deflated", one_file(lambda: of_torch(zipfile.ZIP_DEFLATED, data_pkl=b".")), r"can contain code and are not read; train"),
    Row(61, "foreign zip", one_file(lambda: of_torch(evil_sh=b"true")), r"can contain code and are not read; train"),
    Row(61, "sparse", one_file(lambda: with_header(dtype="SPARSE")), r"'SPARSE', which no checkpoint has\); use another"),
    Row(61, "terabytes in four bytes", one_file(lambda: with_header(shape=[10**6, 10**6])), r"needs 4000000000000 bytes, but has the bytes .*; use another"),
    Row(61, "a key twice", one_file(lambda: checkpoint_files.joined(b'{"a": {}, "a": {}}', b"")), r"its header has the key 'a' twice\); use another"),
    Row(61, "another program wrote it", one_file(lambda: save({"a": torch.ones(1)}, {"format": "pt"})), r"another program wrote it\); use another"),
    Row(62, "weight missing", saying(network=without(FIRST_KEY)), rf"do not fit the network: {FIRST_KEY} is missing; use the network settings"),
    Row(62, "other width", saying(settings=NARROW), r"do not fit the network: .* and \d+ more; use the network settings"),
    Row(62, "terabytes by its settings", saying(settings=NARROW.replace('"channels": 4', '"channels": 65536, "max_channels": 65536')), r"do not fit the network"),
    Row(64, "newer schema", saying(schema_version=99), r"has schema_version 99, but this monaiseg reads 1; use the version that wrote it"),
    Row(65, "NaN weights", saying(network={**models.meaning()["network"], FIRST_KEY: torch.full_like(models.meaning()["network"][FIRST_KEY], np.nan)}), r"has NaN or infinite values\); use another"),
    Row(67, "best altered", with_best(turned), r"best-epoch-0001\.safetensors: .*; use another checkpoint, or give .*step-"),
    Row(67, "best missing", with_best(Path.unlink), r"best-epoch-0001\.safetensors: cannot be read .*, or give .*step-"),
    Row(68, "labels the other way round", other_labels, r"label 1 is 'left' in the model and 'right' in .*; evaluate"),
    Row(69, "bundle without metadata", predict(bundle_without_metadata), r"has no checkpoint .*; give a run folder"),
    Row(9, "label name that is code, in a checkpoint", saying(labels=[{"value": 0, "name": "background"}, {"value": 1, "name": "$import os"}]), r"network that it describes cannot be built.*'\$import os' contains \$"),
]  # fmt: skip


@pytest.mark.parametrize("row", MODELS_REFUSED, ids=ids)
def test_a_bad_model_is_refused_with_what_to_do(row: Row, bench: Bench):
    check_refusal(row, bench)
