"""What can be used although something is wrong with it is used, and said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bench import (
    TURNED,
    VOXELS,
    Bench,
    Plant,
    Row,
    call,
    dataset,
    header,
    ids,
    label,
    scan,
    settings,
    values,
)
from bench_models import generations, predict, sound_model, turned
from drawings import GRID, LABEL, SHAPE, nifti_bytes

FLAT = np.zeros(SHAPE, np.uint8)


def hidden(data: Path) -> None:
    for name in ("._S1.nii.gz", ".DS_Store", "S1.nii.gz~"):
        (data / "images" / name).write_bytes(b"x")


def all_named(name: str) -> Plant:
    def change(data: Path) -> None:
        for kind in ("images", "labels"):
            (data / kind / "S1.nii.gz").rename(data / kind / name)

    return dataset(change)


def turned_pair(affine: Any, order: str = "<") -> Plant:
    """Image and label map of S1 on another grid, or in the other byte order."""

    def plant(bench: Bench) -> Sequence[str]:
        for kind, it in (("images", VOXELS), ("labels", LABEL)):
            image = nib.Nifti1Image(it, None, nib.Nifti1Header(endianness=order), dtype=it.dtype)
            image.header.set_sform(affine, 1)
            bench.replace(kind, image.to_bytes(), "S1.nii")
        return bench.prepare

    return plant


def one_valued_scan(bench: Bench) -> Sequence[str]:
    command = predict(sound_model)(bench)
    (bench.root / "flat.nii").write_bytes(nifti_bytes(np.full(SHAPE, 7, np.int16)))
    return [*command[:4], str(bench.root / "flat.nii"), *command[5:]]


ACCEPTED = [
    Row(5, "byte order mark", settings(b'\xef\xbb\xbf{"tsk_set": {"epochs": 3}}'), "all keys are known and in range"),
    Row(21, "hidden files", dataset(hidden), "images: 3 hidden or temporary files ignored"),
    Row(29, "bytes after the voxels", scan(nifti_bytes(VOXELS) + b"more"), r"S1\.nii: 4 bytes after the voxels ignored"),
    Row(35, "fourth axis of one", values(VOXELS[..., None]), r"S1\.nii: shape \(3, 4, 5, 1\) is read as \(3, 4, 5\)"),
    Row(36, "voxel size 0 beside a sform", header(pixdim=[1, 0, 1, 2, 0, 0, 0, 0]), r"S1\.nii: pixdim is \(0\.0, 1\.0, 2\.0\); the sform is used"),
    Row(37, "forms differ a little", header(qoffset_x=0.05), r"S1\.nii: sform and qform differ slightly; the sform is used"),
    Row(40, "left-handed", turned_pair(np.diag([-1, 1, 2, 1])), "written: "),
    Row(40, "oblique", turned_pair(TURNED), "written: "),
    Row(41, "slope 0", header(scl_slope=0), "written: "),
    Row(46, "bitpix", header(bitpix=7), r"S1\.nii: bitpix is 7, not 16, and is ignored"),
    Row(46, "sizeof_hdr", header(sizeof_hdr=1), r"S1\.nii: sizeof_hdr is 1, not 348, and is ignored"),
    Row(46, "magic of a pair", header(magic=b"ni1"), r"S1\.nii: its magic is that of a header/image pair; read as a single file"),
    Row(47, "big-endian", turned_pair(GRID.array, ">"), "written: "),
    Row(48, "constant, to predict", one_valued_scan, r"note: .*flat\.nii: .*contains a single value; look at what it labels"),
    Row(51, "non-ASCII and spaces", all_named("Übung Nr. 1.nii.gz"), "written: "),
    Row(51, "name of 255 bytes", all_named("ü" * 124 + ".nii.gz"), "written: "),
    Row(53, "nearly whole labels", label(LABEL.astype(np.int16), scl_slope=0.9999), r"S1\.nii: label values were rounded by up to 0\.0004"),
    Row(57, "all background", label(FLAT), "case 'S1': its label map has only background"),
    Row(59, "inverted", label(np.where(LABEL == 4, 0, 1).astype(np.uint8)), "case 'S1': 98% of its label map is foreground; is the label map inverted"),
    Row(60, "newest damaged", generations(lambda f: turned(f / "step-000000004.safetensors")), r"note: .*step-000000004\.safetensors: .* the file is damaged(.|\n)*the older .*step-000000003\.safetensors"),
    Row(60, "newest empty", generations(lambda f: (f / "step-000000004.safetensors").write_bytes(b"")), r"note: .*step-000000004\.safetensors: (.|\n)*the older"),
    Row(60, "newest missing", generations(lambda f: (f / "step-000000004.safetensors").unlink()), r"note: .*step-000000004\.safetensors: (.|\n)*the older"),
]  # fmt: skip


@pytest.mark.parametrize("row", ACCEPTED, ids=ids)
def test_what_can_be_used_is_used_and_said(row: Row, bench: Bench):
    command = row.plant(bench)
    before = bench.tree()

    result = call(command)

    assert result.exit_code == 0, result.output
    assert re.search(row.message, result.output, re.MULTILINE), result.output
    after = bench.tree()
    assert {path: after.get(path) for path in before} == before
    assert all(path.split("/")[0] == "out" for path in after.keys() - before.keys())
