"""Small files that claim or hold much are refused before they take memory, and memory that runs out is told."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bench import VOXELS, Bench, Plant, Row, call, ids, scan
from bench_models import NARROW, of_torch, one_file, predict, saying, sound_model, with_header
from children import in_child
from drawings import nifti_bytes
from monaiseg.data import nifti


def zeros_for(mebibytes: int) -> bytes:
    """A gzip file of a few kilobytes whose header and content agree on so many."""
    engine = zlib.compressobj(1, wbits=31)
    head = nifti_bytes(np.zeros((1, 1, 1), np.uint8), dim=[3, mebibytes, 1024, 1024, 1, 1, 1, 1])
    pieces = [
        engine.compress(head[:-1]),
        *(engine.compress(bytes(1 << 20)) for _ in range(mebibytes)),
    ]
    return b"".join([*pieces, engine.flush()])


def made_later(raw: Callable[[], bytes]) -> Plant:
    """S1's image of bytes that take a while to make."""

    def plant(bench: Bench) -> Sequence[str]:
        return scan(raw(), "S1.nii.gz")(bench)

    return plant


BOMBS = [
    Row(32, "20 GB claimed", scan(gzip.compress(nifti_bytes(VOXELS, dim=[3, 2154, 2154, 2154, 1, 1, 1, 1])), "S1.nii.gz"), "compressed bytes cannot hold"),
    Row(33, "200 MiB in 900 KB, over the cap", made_later(lambda: zeros_for(200)), r"takes 0\.8 GiB in memory and may take 0\.1; crop or resample it"),
    Row(33, "goes on for 80 MiB", made_later(lambda: gzip.compress(nifti_bytes(VOXELS) + bytes(80 << 20), 1)), "more than 64 MiB after the voxels"),
    Row(61, "deflated weights", one_file(lambda: of_torch(zipfile.ZIP_DEFLATED, data_pkl=b".", data_0=bytes(100 << 20))), "can contain code and are not read"),
    Row(61, "terabytes in four bytes", one_file(lambda: with_header(shape=[10**6, 10**6])), "needs 4000000000000 bytes"),
    Row(62, "terabytes by its settings", saying(settings=NARROW.replace('"channels": 4', '"channels": 65536, "max_channels": 65536')), "do not fit the network"),
]  # fmt: skip


@pytest.mark.parametrize("row", BOMBS, ids=ids)
def test_a_bomb_is_refused_before_it_takes_memory(row: Row, bench: Bench, monkeypatch):
    monkeypatch.setattr(nifti, "default_cap_bytes", lambda: 128 << 20)
    command = row.plant(bench)

    child = in_child(lambda: call(command).output, memory_bytes=96 << 20, cpu_seconds=2)

    assert re.search(row.message, child.result), child.result
    assert child.peak_bytes < 64 << 20


def test_memory_that_runs_out_is_told_with_what_to_lower(bench: Bench):
    command = list(predict(sound_model)(bench))
    whole = np.arange(256**3, dtype=np.uint32).astype(np.int16).reshape(256, 256, 256)
    (bench.root / "large.nii").write_bytes(nifti_bytes(whole))
    command[command.index("-i") + 1] = str(bench.root / "large.nii")

    def run() -> tuple[int, str]:
        result = call(command)
        return result.exit_code, result.output

    code, output = in_child(run, memory_bytes=160 << 20).result

    assert code == 2, output
    assert "large.nii: " in output
    assert "memory" in output
    assert "crop the scan, or use a computer with more memory" in output
    assert [path.name for path in bench.root.glob("out/*")] == ["summary.json"]  # it names the scan
