"""The catalogue of what goes wrong with inputs: 85 rows, each shown through the command line.

A *refusal* is exit code 2 with a message that names the place and says what to do, no traceback, every input as it
was and nothing new on the disk. An *acceptance* is exit code 0, with a note where something was put up with. Rows that
other tests show through the command line or the library name them; the last test counts that no row is left out.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from children import in_child
from drawings import GRID, LABEL, SHAPE, nifti_bytes, write_case
from fuzz import models
from monaiseg.cli import app
from monaiseg.data import nifti
from monaiseg.training.checkpoint import Checkpoint, commit, newest, save_best
from monaiseg.training.devices import OLDEST
from monaiseg.training.resume import difference

REPOSITORY = Path(__file__).parents[2]
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
TURNED = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.radians(0.5)) @ np.diag([1, 1, 2]))

SHIFTED = nib.affines.from_matvec(np.diag([1, 1, 2]), [1, 0, 0])


class Bench:
    """A folder with a dataset of three cases (S1 to S3, 60 voxels each), to plant things in."""

    def __init__(self, root: Path) -> None:
        self.root, self.dataset = root, root / "data"
        for number in (1, 2, 3):
            name = f"S{number}.nii.gz"
            write_case(self.dataset / "images" / name, self.dataset / "labels" / name, seed=number)

    @property
    def prepare(self) -> list[str]:
        sizes = ["--train-size", "34", "--test-size", "33", "--val-size", "33"]
        return [
            "prepare", "--dataset-path", str(self.dataset), "-o", str(self.root / "out"), "-dtn", "task", *sizes,
        ]  # fmt: skip

    def replace(self, kind: str, raw: bytes, name: str) -> Path:
        """S1's image or label map, replaced by these bytes under this name."""
        (self.dataset / kind / "S1.nii.gz").unlink()
        path = self.dataset / kind / name
        path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith("!.nii.gz") else raw)
        return path

    def tree(self) -> dict[str, str]:
        """What stands on the disk: a digest of every file, the target of every link."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            what = "folder"
            if path.is_symlink():
                what = str(path.readlink())
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(self.root))] = what
        return found


Plant = Callable[[Bench], Sequence[str]]
"""Puts something on the bench and gives the command's words."""


@dataclass(frozen=True)
class Row:
    """One way in which a row of the catalogue shows itself."""

    number: int
    name: str
    plant: Plant
    message: str
    """Regular expression of what is said, with what to do about it."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def call(words: Sequence[str]) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def ids(row: Row) -> str:
    return f"row-{row.number:02}-{row.name}".replace(" ", "-")


# ---------------------------------------------------------------- plants


def settings(text: str | bytes) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        raw = text.encode() if isinstance(text, str) else text
        (bench.root / "settings.json").write_bytes(raw)
        return ["settings", "check", str(bench.root / "settings.json")]

    return plant


def task(**keys: Any) -> Plant:
    return settings(json.dumps({"tsk_set": keys}))


def scan(raw: bytes, name: str = "S1.nii") -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        bench.replace("images", raw, name)
        return bench.prepare

    return plant


def header(**fields: Any) -> Plant:
    sform_alone = {"qform_code": 0} if "srow_x" in fields else {}
    return scan(nifti_bytes(VOXELS, **sform_alone, **fields))


def values(voxels: Any, **fields: Any) -> Plant:
    return scan(nifti_bytes(np.asarray(voxels), **fields))


def label(voxels: Any, affine: Any = GRID.array, **fields: Any) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        bench.replace("labels", nifti_bytes(np.asarray(voxels), affine, **fields), "S1.nii")
        return bench.prepare

    return plant


def table(text: str) -> Plant:
    def plant(bench: Bench) -> Sequence[str]:
        (bench.root / "labels.csv").write_text(text)
        return [*bench.prepare, "--label-table", str(bench.root / "labels.csv")]

    return plant


def dataset(change: Callable[[Path], Any]) -> Plant:
    """The dataset's folder after a change."""

    def plant(bench: Bench) -> Sequence[str]:
        change(bench.dataset)
        return bench.prepare

    return plant


def words(*more: str) -> Plant:
    """`prepare` on sound data with these words behind."""
    return lambda bench: [*bench.prepare, *more]


def listing(text: str) -> Plant:
    """A list file; it is read before the model, which is not there."""

    def plant(bench: Bench) -> Sequence[str]:
        os.mkfifo(bench.root / "pipe.nii")
        (bench.root / "list.txt").write_text(text.format(data=bench.dataset))
        return ["eval-seg", "-txt", str(bench.root / "list.txt"), "-m", "m.pt", "-o", "out"]

    return plant


def list_is_a_pipe(bench: Bench) -> Sequence[str]:
    os.mkfifo(bench.root / "list.txt")
    return ["eval-seg", "-txt", str(bench.root / "list.txt"), "-m", "m.pt", "-o", "out"]


def among_the_images(bench: Bench) -> Sequence[str]:
    images = str(bench.dataset / "images")
    model = str(_sound(bench.root))
    return ["predict", "-m", model, "-i", images, "-o", images, "-g", "-1"]


def both(first: Plant, second: Plant) -> Plant:
    """What both put on the bench, and the second's words."""

    def plant(bench: Bench) -> Sequence[str]:
        first(bench)
        return second(bench)

    return plant


def lists(change: Callable[[Path], Any]) -> Plant:
    """A prepared data task after a change to its folder."""

    def plant(bench: Bench) -> Sequence[str]:
        assert call(bench.prepare).exit_code == 0
        change(bench.root / "out" / "task")
        return ["evaluate", "-m", "m.pt", "-o", str(bench.root / "out"), "-dtn", "task"]

    return plant


def move_case(folder: Path) -> None:
    """The test case stands in the training list too."""
    lines = [(folder / s / "file_path_list.txt").read_text() for s in ("train", "test")]
    names = [(folder / s / "file_name_list.txt").read_text() for s in ("train", "test")]
    (folder / "train" / "file_path_list.txt").write_text("".join(lines))
    (folder / "train" / "file_name_list.txt").write_text("".join(names))


def swap_debug(folder: Path) -> None:
    for name in ("file_path_list.txt", "file_name_list.txt"):
        shutil.copy(folder / "val" / name, folder / "debug" / name)


def flipped(raw: bytes) -> bytes:
    """A gzip file with one bit of its body turned."""
    packed = bytearray(gzip.compress(raw, mtime=0))
    packed[-20] ^= 4
    return bytes(packed)


def same_image_in_two_splits(data: Path) -> None:
    shutil.copy(data / "images" / "S1.nii.gz", data / "images" / "S2.nii.gz")


def loop(data: Path) -> None:
    shutil.rmtree(data)
    data.symlink_to(data.name)


def as_link_to_nowhere(data: Path) -> None:
    shutil.rmtree(data)
    data.symlink_to("gone")


def as_file(data: Path) -> None:
    shutil.rmtree(data)
    data.write_text("no folder")


def scan_is_a_link_to_nowhere(data: Path) -> None:
    (data / "images/S1.nii.gz").unlink()
    (data / "images/S1.nii.gz").symlink_to("gone")


def scan_is_a_folder(data: Path) -> None:
    (data / "images/S1.nii.gz").unlink()
    (data / "images/S1.nii.gz").mkdir()


def one_case(data: Path) -> None:
    for kind in ("images", "labels"):
        for name in ("S1", "S2"):
            (data / kind / f"{name}.nii.gz").unlink()


def emptied(data: Path) -> None:
    for kind in ("images", "labels"):
        shutil.rmtree(data / kind)
        (data / kind).mkdir()


def another(kind: str, name: str) -> Plant:
    """S2's file under one more name."""
    return dataset(lambda data: shutil.copy(data / kind / "S2.nii.gz", data / kind / name))


HUGE = "9" * 5000
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
FLAT = np.zeros(SHAPE, np.uint8)

REFUSED = [
    # ------------------------------------------------------------ settings and command line
    Row(1, "unknown key", settings('{"tsk_set": {"optim": {"lrr": 1}}}'), r"json: tsk_set\.optim\.lrr: .*did you mean 'lr'"),
    Row(2, "key twice", settings('{"tsk_set": {"epochs": 1,\n"epochs": 2}}'), r"json: key 'epochs' .*\(lines 1, 2\); keep one"),
    Row(3, "NaN", settings('{"tsk_set": {"optim": {"lr": NaN}}}'), r"NaN is not a number of JSON; write a finite"),
    Row(3, "Infinity", settings('{"tsk_set": {"optim": {"lr": Infinity}}}'), r"Infinity is not .*; write a finite"),
    Row(3, "1e999", settings('{"tsk_set": {"optim": {"lr": 1e999}}}'), r"1e999 is not a number of JSON; write"),
    Row(4, "text for a number", task(epochs="3"), r'epochs: "3" is not a whole number of at least 1'),
    Row(4, "true for a number", task(epochs=True), r"epochs: true is not a whole number of at least 1"),
    Row(4, "3.0 for a count", task(epochs=3.0), r"epochs: 3\.0 is not a whole number of at least 1"),
    Row(5, "empty", settings(""), r"json: is empty; `monaiseg settings init`"),
    Row(5, "a list", settings("[]"), r"json: holds \[\]; a settings file is an object"),
    Row(5, "null", settings("null"), r"json: holds null; a settings file is an object"),
    Row(5, "UTF-16", settings("{}".encode("utf-16")), r"json: is UTF-16; save it as UTF-8"),
    Row(5, "comma at the end", settings('{"tsk_set": {},}'), r"column \d+: not JSON .*no comma after the last"),
    Row(5, "comment", settings('{} // why'), r"column \d+: not JSON .*JSON has no comments"),
    Row(6, "deep nesting", settings(DEEP), r"nested too deeply; settings are 8 levels deep"),
    Row(6, "number of 5000 digits", settings(f'{{"a": {HUGE}}}'), r"write a smaller number"),
    Row(6, "more than a mebibyte", settings(" " * (1 << 20) + "{}"), r"json: has \d+ bytes, at most 1048576 are read"),
    Row(7, "batch of 0", task(batch_size=0), r"batch_size: 0 is not a whole number of at least 1"),
    Row(7, "no epochs", task(epochs=0), r"epochs: 0 is not a whole number of at least 1"),
    Row(7, "learning rate 0", task(optim={"lr": 0}), r"lr: 0 is not a number above 0"),
    Row(7, "patch of no voxels", settings('{"dataset": {"seg": {"patch_size": [0, 16, 16]}}}'), r"each a whole number of at least 1"),
    Row(8, "key of a later version", task(attention="flash"), r"attention: unknown key; tsk_set has train, "),
    *(
        Row(9, f"name {number}", words("-dtn", name), r"data_task_name: .* cannot be a name; use 1 to 64 letters")
        for number, name in enumerate(
            ["a/b", "..", "-x", "x" * 300, "\U0001f9e0", "$(id)", "@a", "%b", "a\0b", "CON", "x.", "a\nb"]
        )
    ),
    Row(9, "label name that is code", table("value,name\n1,$import os\n4,b\n"), r"csv: label name: '\$import os' holds \$, which could run as code"),
    Row(9, "channel name that is code", dataset(lambda d: (d / "dataset.json").write_text('{"channel_names": {"0": "@T1"}}')), r"dataset\.json: channel name: '@T1' holds @.*; rename it"),
    Row(10, "label name twice", table("value,name\n1,a\n4,a\n"), r"csv: label name 'a' stands twice; give each"),
    Row(10, "label value twice", table("value,name\n1,a\n1,b\n4,c\n"), r"csv: a label value stands twice; list each once"),
    Row(10, "negative label value", table("value,name\n-1,a\n"), r"csv: label value -1 is negative; label values start at 0"),
    Row(10, "number of classes that is another", settings('{"dataset": {"seg": {"interested_label_list": [1, 4]}}, "tsk_set": {"seg": {"class_num": 4}}}'), r"makes 3 classes with background; use 3 or -1"),
    Row(12, "negative seed", task(seed=-1), r"seed: -1 is not a whole number of at least 0"),
    Row(12, "seed beyond 63 bits", task(seed=2**63), r"seed: 9223372036854775808 is not a whole number"),
    Row(12, "negative seed of a split", words("--seed", "-1"), r"--seed'.*(greater than or equal to 0|range x>=0)"),
    Row(13, "scans listed in two ways", lambda _: ["eval-seg", "-txt", "a.txt", "-i", "b.nii", "-m", "m.pt", "-o", "out"], r"either as a list file with -txt, or one by one with -i"),
    Row(13, "sizes beyond 100 per cent", words("--train-size", "90"), r"90, 33 and 33: use percentages that sum to 100"),
    # ------------------------------------------------------------ folders, lists, splits
    Row(15, "dataset missing", dataset(shutil.rmtree), r"data: is not a folder; give the folder that holds the dataset"),
    Row(15, "dataset is a file", dataset(as_file), r"data: is not a folder; give the folder"),
    Row(15, "dataset is empty", dataset(emptied), r"images: holds no NIfTI files .* nothing in it; put some there"),
    Row(15, "dataset is a dangling link", dataset(as_link_to_nowhere), r"data: is not a folder; give the folder"),
    Row(15, "dataset is a ring of links", dataset(loop), r"data: is not a folder; give the folder"),
    Row(15, "scan is a dangling link", dataset(scan_is_a_link_to_nowhere), r"S1\.nii\.gz: is a link that leads nowhere; check"),
    Row(16, "image without label map", another("images", "S4.nii.gz"), r"image S4\.nii\.gz has no label map|do not pair; give pairs the same name"),
    Row(16, "label map without image", another("labels", "S4.nii.gz"), r"do not pair; give pairs the same name\n.*label map S4\.nii\.gz has no image"),
    Row(17, "id twice", another("images", "S2.nii"), r"S2\.nii and S2\.nii\.gz would be one case; rename or remove one"),
    Row(17, "ids that differ in case", another("images", "s2.nii.gz"), r"S2\.nii\.gz and s2\.nii\.gz would be one case; rename"),
    Row(18, "an image in train and test", dataset(same_image_in_two_splits), r"are the same image; remove all but one"),
    Row(19, "a case in two splits", lists(move_case), r"case 's\d' stands in t\w+ and t\w+; keep it in one"),
    Row(19, "a debug case that is not trained on", lists(swap_debug), r"is not a training case; list cases of train there"),
    Row(19, "lists other than the json", lists(lambda f: shutil.copy(f / "val/file_path_list.txt", f / "test/file_path_list.txt")), r"; keep it in one"),
    Row(19, "one case", dataset(one_case), r"1 cases cannot fill train, test, val: add cases"),
    Row(20, "URL", listing("https://host/a.nii\n"), r"list\.txt, line 1: 'https://host/a\.nii' is no path .*; download"),
    Row(20, "pipe", listing("pipe.nii\n"), r"list\.txt, line 1: .*pipe\.nii is not a regular file; list a NIfTI"),
    Row(20, "device", listing("/dev/zero\n"), r"list\.txt, line 1: /dev/zero is not a regular file; list a NIfTI"),
    Row(20, "folder", listing("{data}\n"), r"list\.txt, line 1: .* is not a regular file; list a NIfTI file"),
    Row(20, "newline in a name", listing('"a\\u000ab.nii"\n'), r"line 1: 'a\\nb\.nii' cannot be found; check it"),
    Row(20, "list is a pipe", list_is_a_pipe, r"list\.txt: is not a regular file; give a file"),
    Row(22, "output inside of the dataset", lambda b: ["prepare", "--dataset-path", str(b.dataset), "-o", str(b.dataset), "-dtn", "images"], r"lie in one another; choose an output_root_path outside"),
    Row(22, "output above the dataset", lambda b: ["prepare", "--dataset-path", str(b.dataset), "-o", str(b.root.parent), "-dtn", b.root.name], r"lie in one another; choose an output_root_path outside"),
    Row(22, "predictions among the images", among_the_images, r"is the folder of the images; choose another --output"),
    # ------------------------------------------------------------ NIfTI files
    Row(25, "empty", scan(b""), r"S1\.nii: is empty \(0 bytes\); copy the file again"),
    Row(25, "shorter than a header", scan(bytes(100)), r"S1\.nii: has 100 bytes and a NIfTI header has 348; copy"),
    Row(25, "text", scan(b"not a scan" * 99), r"S1\.nii: is text; put a NIfTI file in its place"),
    Row(26, "gzip named nii", scan(gzip.compress(nifti_bytes(VOXELS))), r"S1\.nii: is gzip; rename it to end in \.nii\.gz"),
    Row(26, "plain named nii.gz", scan(nifti_bytes(VOXELS), "S1.nii.gz"), r"is not compressed; rename it to end in \.nii"),
    Row(27, "truncated", scan(nifti_bytes(VOXELS)[:-7]), r"S1\.nii: ends after 465 of 472 bytes; copy the file again"),
    Row(27, "truncated gzip", scan(gzip.compress(nifti_bytes(VOXELS))[:-20], "S1.nii.gz"), r"end too early; copy the file again"),
    Row(28, "flipped bit", scan(flipped(nifti_bytes(VOXELS)), "S1.nii.gz"), r"gzip data are damaged .*; copy the file again"),
    Row(28, "wrong checksum", scan(gzip.compress(nifti_bytes(VOXELS))[:-8] + bytes(8), "S1.nii.gz"), r"damaged .*; copy the file again"),
    Row(28, "missing checksum", scan(gzip.compress(nifti_bytes(VOXELS))[:-8], "S1.nii.gz"), r"end too early; copy the file again"),
    Row(30, "no voxels", header(dim=[3, 3, 0, 5, 1, 1, 1, 1]), r"has the shape \(3, 0, 5\); every axis needs"),
    Row(31, "negative axis", header(dim=[3, 3, -4, 5, 1, 1, 1, 1]), r"has the shape \(3, -4, 5\); every axis needs"),
    Row(32, "claims 32767 cubed", header(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), r"ends after 472 of \d{14} bytes; copy"),
    Row(32, "claims 20 GB, packed", scan(gzip.compress(nifti_bytes(VOXELS, dim=[3, 2154, 2154, 2154, 1, 1, 1, 1])), "S1.nii.gz"), r"compressed bytes cannot hold; copy the file again"),
    Row(34, "no axes", header(dim=[0, 3, 4, 5, 1, 1, 1, 1]), r"has 0 axes \(dim\[0\]\); a volume has 3 or 4"),
    Row(34, "nine axes", header(dim=[9, 3, 4, 5, 1, 1, 1, 1]), r"has 9 axes \(dim\[0\]\); a volume has 3 or 4"),
    Row(35, "a slice", header(dim=[2, 3, 20, 1, 1, 1, 1, 1]), r"has 2 axes, \(3, 20\); stack the slices to a volume"),
    Row(35, "five axes", header(dim=[5, 3, 4, 1, 1, 5, 1, 1]), r"has 5 axes, .*; split it into volumes"),
    Row(36, "no voxel size and no sform", header(sform_code=0, pixdim=[1, 0, 1, 1, 0, 0, 0, 0]), r"pixdim is .*; write the file again with its voxel size"),
    Row(36, "spacing beyond 100 mm", header(srow_x=[101, 0, 0, 0]), r"should lie above 0 and up to 100: write the file again"),
    Row(37, "forms disagree in place", header(qoffset_x=0.2), r"sform and qform disagree: position.*; set the code of the wrong one to 0"),
    Row(37, "forms disagree in angle", values(VOXELS, **{f"srow_{a}": TURNED[i] for i, a in enumerate("xyz")}), r"disagree: .*; set the code"),
    Row(38, "no orientation", header(sform_code=0, qform_code=0), r"says nothing of orientation .*; copy the geometry"),
    Row(39, "sform not finite", header(srow_x=[np.nan, 0, 0, 0]), r"sform holds numbers that are not finite; write"),
    Row(39, "sform of zeros", header(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), r"sform has the spacing .* write the file again"),
    Row(39, "singular sform", header(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), r"lays two axes on one another; write the file again"),
    Row(41, "slope not a number", header(scl_slope=np.nan), r"scl_slope is nan .*; write the file again"),
    Row(41, "slope beyond float32", header(scl_slope=3e38), r"values are too large for float32 .*; replace them"),
    Row(42, "intercept not a number", header(scl_slope=1, scl_inter=np.nan), r"scl_inter nan; write the file again"),
    *(
        Row(42, f"vox_offset {offset}", header(vox_offset=offset), r"vox_offset is .*; voxels start at 352 or")
        for offset in (np.nan, 1e30, 351, 353, -352)
    ),
    Row(43, "datatype 0", header(datatype=0), r"unknown numbers \(datatype 0\); convert it to integers"),
    Row(43, "1-bit", header(datatype=1), r"1-bit numbers \(datatype 1\); convert it"),
    Row(43, "datatype 77", header(datatype=77), r"unknown numbers \(datatype 77\); convert it"),
    Row(44, "complex", header(datatype=32), r"complex numbers \(datatype 32\); convert it"),
    Row(44, "RGB", header(datatype=128), r"RGB colour numbers \(datatype 128\); convert it"),
    Row(45, "whole numbers beyond float32", values(VOXELS.astype(np.int64) + 2**24), r"float32 is exact up to 16777216; scale them down"),
    Row(45, "1e300", values(VOXELS * 1e300), r"values are too large for float32 .*; replace them"),
    Row(48, "all NaN", values(np.full(SHAPE, np.nan)), r"60 values are NaN or infinite .*; replace them by numbers"),
    Row(48, "one infinite", values(np.where(VOXELS == 7, np.inf, VOXELS)), r"1 values are NaN or infinite \(the first at voxel \(0, 1, 2\)\); replace"),
    Row(48, "constant, to train on", values(np.full(SHAPE, 7.0)), r"holds the one value 7; give a scan"),
    *(
        Row(49, f"other format {suffix}", scan(raw, f"S1{suffix}"), rf"S1{re.escape(suffix)}: is .*; convert it to NIfTI")
        for suffix, raw in {
            ".img": bytes(120), ".mgz": b"\x1f\x8b", ".nrrd": b"NRRD0004", ".dcm": b"DICM",
            ".nii.bz2": bz2.compress(nifti_bytes(VOXELS)),
        }.items()
    ),
    Row(49, "DICOM folder", dataset(scan_is_a_folder), r"S1\.nii\.gz: is a folder; name a NIfTI file \(convert a DICOM"),
    Row(50, "3000 cubed", header(dim=[3, 3000, 3000, 3000, 1, 1, 1, 1]), r"ends after 472 of \d+ bytes; copy the file again"),
    # ------------------------------------------------------------ label maps
    Row(52, "value not in the table", table("value,name\n1,a\n"), r"values 4 \(1 voxels\) that the label table does not name\n(.|\n)*add the values"),
    Row(52, "255", both(label(np.where(LABEL == 1, 255, LABEL).astype(np.uint8)), table("value,name\n1,a\n4,b\n")), r"values 255 \(6 voxels\) that the label table does not name"),
    Row(52, "negative", label(LABEL.astype(np.int16) - 1), r"holds negative label values \(-1 and more, 53 voxels\); use 0 and up"),
    Row(53, "halves", label(LABEL / 2), r"values that are not whole numbers \(0\.5\); give a label map, resampled by nearest"),
    Row(54, "NaN", label(np.where(LABEL == 4, np.nan, LABEL)), r"1 values are NaN .*; replace them by numbers"),
    Row(55, "other shape", label(LABEL[:, :, :4]), r"lie on different grids: shape .*; resample one onto the other"),
    Row(56, "shifted", label(LABEL, SHIFTED), r"different grids: position.*; resample"),
    Row(56, "flipped axis", label(LABEL, np.diag([-1, 1, 2, 1])), r"different grids: .*; resample one onto the other"),
    Row(57, "a class that is nowhere", table("value,name\n1,a\n4,b\n7,c\n"), r"names 7 \(c\), which no label map has; remove"),
    Row(58, "label map is the image", dataset(lambda d: shutil.copy(d / "images/S1.nii.gz", d / "labels/S1.nii.gz")), r"not whole numbers|same file; give the label map"),
    Row(58, "label map is a whole-number image", label(np.arange(60, dtype=np.int16).reshape(SHAPE) * 7 - 3), r"negative label values"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSED, ids=ids)
def test_a_bad_input_is_refused_with_what_to_do(row: Row, bench: Bench):
    check_refusal(row, bench)


def check_refusal(row: Row, bench: Bench) -> None:
    command = row.plant(bench)
    before = bench.tree()

    result = call(command)

    assert result.exit_code == 2, result.output
    assert re.search(row.message, result.output, re.MULTILINE), result.output
    assert "Traceback" not in result.output
    assert bench.tree() == before


# ---------------------------------------------------------------- checkpoints and bundles


def predict(plant: Callable[[Path], Path]) -> Plant:
    """`predict` with the model that `plant` leaves in a folder."""

    def planted(bench: Bench) -> Sequence[str]:
        folder = bench.root / "model"
        folder.mkdir()
        model = plant(folder)
        return ["predict", "-m", str(model), "-i", str(bench.dataset / "images" / "S1.nii.gz"), "-o", str(bench.root / "out"), "-g", "-1"]  # fmt: skip

    return planted


def one_file(raw: Callable[[], bytes]) -> Plant:
    """A model of these bytes alone."""

    def plant(folder: Path) -> Path:
        (folder / "model.pt").write_bytes(raw())
        return folder / "model.pt"

    return predict(plant)


def saying(**changes: Any) -> Plant:
    """A sound checkpoint in which these fields say something else."""
    return one_file(lambda: models.saved({**models.meaning(), **changes}))


def generations(harm: Callable[[Path], Any]) -> Plant:
    """A training's folder of two generations, harmed."""

    def plant(folder: Path) -> Path:
        loaded = as_checkpoint(models.meaning())
        for step in (3, 4):
            commit(folder, replace(loaded, step=step))
        harm(folder)
        return folder

    return predict(plant)


def with_best(harm: Callable[[Path], Any]) -> Plant:
    """A training's folder whose newest commit points to a best checkpoint, harmed."""

    def plant(folder: Path) -> Path:
        loaded = as_checkpoint(models.meaning())
        best = save_best(folder, loaded, 0.9)
        commit(folder, replace(loaded, best=best))
        harm(folder / best.file)
        return folder

    return predict(plant)


def as_checkpoint(state: dict[str, Any]) -> Checkpoint:
    return Checkpoint(**{name: value for name, value in state.items() if name != "schema_version"})


def turned(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


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


FIRST_KEY = next(iter(models.meaning()["network"]))
NARROW = json.dumps({"dataset": {"seg": {"patch_size": [8, 8, 8]}}, "tsk_set": {"network": {"channels": 4, "num_stages": 2}}})  # fmt: skip

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


# ---------------------------------------------------------------- what is put up with, and said


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
    command = predict(_sound)(bench)
    (bench.root / "flat.nii").write_bytes(nifti_bytes(np.full(SHAPE, 7, np.int16)))
    return [*command[:4], str(bench.root / "flat.nii"), *command[5:]]


def _sound(folder: Path) -> Path:
    (folder / "model.pt").write_bytes(models.sound()[0])
    return folder / "model.pt"


ACCEPTED = [
    Row(5, "byte order mark", settings(b'\xef\xbb\xbf{"tsk_set": {"epochs": 3}}'), "all keys are known and in range"),
    Row(21, "hidden files", dataset(hidden), "images: 3 hidden or temporary files ignored"),
    Row(29, "bytes after the voxels", scan(nifti_bytes(VOXELS) + b"more"), r"S1\.nii: 4 bytes follow the voxels; ignored"),
    Row(35, "fourth axis of one", values(VOXELS[..., None]), r"S1\.nii: shape \(3, 4, 5, 1\) is read as \(3, 4, 5\)"),
    Row(36, "voxel size 0 beside a sform", header(pixdim=[1, 0, 1, 2, 0, 0, 0, 0]), r"S1\.nii: pixdim is \(0\.0, 1\.0, 2\.0\); the geometry is the sform's"),
    Row(37, "forms differ a little", header(qoffset_x=0.05), r"S1\.nii: sform and qform differ a little; the sform is used"),
    Row(40, "left-handed", turned_pair(np.diag([-1, 1, 2, 1])), "written: "),
    Row(40, "oblique", turned_pair(TURNED), "written: "),
    Row(41, "slope 0", header(scl_slope=0), "written: "),
    Row(46, "bitpix", header(bitpix=7), r"S1\.nii: bitpix is 7, not 16; ignored"),
    Row(46, "sizeof_hdr", header(sizeof_hdr=1), r"S1\.nii: sizeof_hdr is 1, not 348; ignored"),
    Row(46, "magic of a pair", header(magic=b"ni1"), r"S1\.nii: its magic is that of a header/image pair; read as a single file"),
    Row(47, "big-endian", turned_pair(GRID.array, ">"), "written: "),
    Row(48, "constant, to predict", one_valued_scan, r"note: .*flat\.nii: holds one value only .*; its label map says nothing"),
    Row(51, "non-ASCII and spaces", all_named("Übung Nr. 1.nii.gz"), "written: "),
    Row(51, "name of 255 bytes", all_named("ü" * 124 + ".nii.gz"), "written: "),
    Row(53, "nearly whole labels", label(LABEL.astype(np.int16), scl_slope=0.9999), r"S1\.nii: label values rounded, by up to 0\.0004"),
    Row(57, "all background", label(FLAT), "case 'S1': its label map is all background"),
    Row(59, "inverted", label(np.where(LABEL == 4, 0, 1).astype(np.uint8)), "case 'S1': 98% of its label map is foreground; is it inverted"),
    Row(60, "newest damaged", generations(lambda f: turned(f / "step-000000004.pt")), r"note: .*step-000000004\.pt: .* the file is damaged(.|\n)*the older .*step-000000003\.pt"),
    Row(60, "newest empty", generations(lambda f: (f / "step-000000004.pt").write_bytes(b"")), r"note: .*step-000000004\.pt: (.|\n)*the older"),
    Row(60, "newest missing", generations(lambda f: (f / "step-000000004.pt").unlink()), r"note: .*step-000000004\.pt: (.|\n)*the older"),
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


# ---------------------------------------------------------------- before memory is taken


def zeros_for(mebibytes: int) -> bytes:
    """A gzip file of a few kilobytes whose header and content agree on so many."""
    engine = zlib.compressobj(1, wbits=31)
    head = nifti_bytes(np.zeros((1, 1, 1), np.uint8), dim=[3, mebibytes, 1024, 1024, 1, 1, 1, 1])
    pieces = [
        engine.compress(head[:-1]),
        *(engine.compress(bytes(1 << 20)) for _ in range(mebibytes)),
    ]
    return b"".join([*pieces, engine.flush()])


BOMBS = [
    Row(32, "20 GB claimed", scan(gzip.compress(nifti_bytes(VOXELS, dim=[3, 2154, 2154, 2154, 1, 1, 1, 1])), "S1.nii.gz"), "compressed bytes cannot hold"),
    Row(33, "200 MiB in 900 KB, over the cap", scan(zeros_for(200), "S1.nii.gz"), r"takes 0\.8 GiB in memory and may take 0\.1; crop or resample it"),
    Row(33, "goes on for 80 MiB", scan(gzip.compress(nifti_bytes(VOXELS) + bytes(80 << 20), 1), "S1.nii.gz"), "more than 64 MiB after the voxels"),
    Row(61, "deflated weights", one_file(lambda: models.packed([("archive/data.pkl", b"."), ("archive/data/0", bytes(100 << 20))], zipfile.ZIP_DEFLATED)), "claim more than"),
    Row(61, "terabytes in four bytes", saying(network={"a": torch.zeros(1).expand(10**6, 10**6)}), "not a dense tensor"),
    Row(62, "terabytes by its settings", saying(settings=NARROW.replace('"channels": 4', '"channels": 65536, "max_channels": 65536')), "do not fit the network"),
]  # fmt: skip


@pytest.mark.parametrize("row", BOMBS, ids=ids)
def test_a_bomb_is_refused_before_it_takes_memory(row: Row, bench: Bench, monkeypatch):
    monkeypatch.setattr(nifti, "default_cap_bytes", lambda: 128 << 20)
    command = row.plant(bench)

    child = in_child(lambda: call(command).output, memory_bytes=96 << 20, cpu_seconds=2)

    assert re.search(row.message, child.result), child.result
    assert child.peak_bytes < 64 << 20


# ---------------------------------------------------------------- rows of the machine


def test_memory_that_runs_out_is_told_with_what_to_lower(bench: Bench):
    command = list(predict(_sound)(bench))
    whole = np.arange(256**3, dtype=np.uint32).astype(np.int16).reshape(256, 256, 256)
    (bench.root / "large.nii").write_bytes(nifti_bytes(whole))
    command[command.index("-i") + 1] = str(bench.root / "large.nii")

    def run() -> tuple[int, str]:
        result = call(command)
        return result.exit_code, result.output

    code, output = in_child(run, memory_bytes=160 << 20).result

    assert code == 2, output
    assert "the memory ran out (" in output
    assert "or lower tsk_set.batch_size" in output
    assert not list(bench.root.glob("out/*"))


def test_another_number_of_processes_is_a_difference():
    assert difference({"world size": 2}, {"world size": 1}) == ["world size: 2 then, 1 now"]


def test_clock_time_zone_and_language_change_nothing(bench: Bench, monkeypatch):
    written = []
    for zone, language in (("UTC", "C"), ("Pacific/Kiritimati", "de_DE.UTF-8")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", language)
        time.tzset()
        shutil.rmtree(bench.root / "out", ignore_errors=True)
        assert call(bench.prepare).exit_code == 0
        written.append(bench.tree())
    monkeypatch.undo()
    time.tzset()
    assert written[0] == written[1]


def test_the_newest_checkpoint_is_the_furthest_whatever_the_clock_says(tmp_path):
    sound = as_checkpoint(models.meaning())
    for step in (3, 4):
        commit(tmp_path, replace(sound, step=step))
    for path in tmp_path.glob("step-000000004.*"):
        os.utime(path, (0, 0))

    assert newest(tmp_path).step == 4


@pytest.mark.parametrize(("name", "version"), [("torch", "2.9.1+cpu"), ("monai", "1.6.0")])
def test_versions_with_known_holes_are_refused(name, version, bench: Bench, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda asked: version if asked == name else real(asked)
    )

    result = call(predict(_sound)(bench))

    assert result.exit_code == 2
    assert re.search(
        rf"{name} {re.escape(version)} is installed.*; install {name}>=", result.output
    )


def test_the_oldest_versions_are_those_of_the_project_file():
    text = (REPOSITORY / "pyproject.toml").read_text()
    for name, numbers in OLDEST.items():
        assert f'"{name}>={".".join(map(str, numbers))}"' in text


# ---------------------------------------------------------------- no row is left out

ELSEWHERE = {
    7: ["test_a_patch_that_does_not_divide_is_refused_before_training"],
    11: ["test_a_gpu_that_is_not_there_is_refused"],
    14: [
        "test_extend_trains_longer",
        "test_a_resume_that_would_not_be_exact_is_refused_with_the_difference",
    ],
    20: ["test_a_declared_root_keeps_the_list_inside"],
    23: ["test_a_file_that_changed_or_vanished_since_the_check_stops_the_training"],
    24: ["test_what_has_changed_since_is_said_in_words"],
    50: ["test_a_scan_smaller_than_the_patch_is_labelled"],
    63: ["test_a_resume_that_would_not_be_exact_is_refused_with_the_difference"],
    66: ["test_a_finished_training_is_said_to_be_complete_and_left_alone"],
    70: [
        "test_a_full_disk_is_told_with_path_needed_and_free_bytes",
        "test_whichever_call_fails_a_generation_can_be_loaded",
        "test_a_board_on_a_full_disk_is_one_warning_and_the_training_ends_well",
        "test_a_history_on_a_full_disk_is_one_warning_and_whole_again_later",
        "test_a_log_on_a_full_disk_is_one_warning",
    ],
    71: [
        "test_a_disk_without_room_is_said_before_the_first_step",
        "test_real_disks_that_are_full_or_read_only",
        "test_a_folder_that_cannot_be_written_or_synced_is_known_by_probing",
        "test_a_disk_that_cannot_sync_is_known_before_the_first_step",
    ],
    72: [
        "test_a_second_training_is_refused_at_once_with_who_and_since_when",
        "test_a_worker_that_outlives_its_trainer_does_not_keep_the_folder_locked",
    ],
    73: ["test_a_training_that_moves_on_while_it_is_read_is_read_again"],
    74: [
        "test_a_process_that_is_signalled_finishes_its_step_and_commits",
        "test_two_processes_stop_at_one_step_and_resume_to_the_same_weights",
    ],
    75: [
        "test_a_second_interrupt_ends_at_once_with_130",
        "test_a_reader_of_a_command_that_leaves_is_no_fault",
        "test_a_second_interrupt_ends_at_once",
        "test_a_signal_asks_and_does_not_break_in",
    ],
    76: [
        "test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",
        "test_killed_at_random_times_with_workers_it_ends_as_if_nothing_had_been",
        "test_a_power_cut_at_any_moment_leaves_a_generation",
        "test_leftovers_of_a_kill_are_cleared_away_and_the_users_files_are_not",
    ],
    77: [
        "test_a_dead_or_hanging_worker_is_named_and_not_waited_for",
        "test_a_worker_that_dies_in_a_step_is_named_with_its_cases_and_a_resume_is_exact",
    ],
    78: [
        "test_memory_that_runs_out_is_told_with_what_to_lower",
        "test_memory_that_runs_out_is_said_with_the_smallest_change",
    ],
    79: ["test_the_fault_of_one_process_ends_all"],
    80: ["test_another_number_of_processes_is_a_difference"],
    81: ["test_a_loss_that_is_no_number_stops_with_the_cases_names"],
    84: ["test_modes_follow_the_umask", "test_the_umask_rules_the_modes"],
    82: [
        "test_clock_time_zone_and_language_change_nothing",
        "test_the_newest_checkpoint_is_the_furthest_whatever_the_clock_says",
    ],
    85: ["test_versions_with_known_holes_are_refused"],
}  # fmt: skip
"""Rows that other tests show, wholly or in part."""
NOT_SHOWN = {
    83: "the size of /dev/shm is the container's; the loader names a worker that died for want of it (row 77)",
}
"""Rows that no test of this machine can show, and why."""


def test_no_row_of_the_catalogue_is_left_out():
    shown = {row.number for row in (*REFUSED, *MODELS_REFUSED, *ACCEPTED, *BOMBS)}

    assert shown | ELSEWHERE.keys() | NOT_SHOWN.keys() == set(range(1, 86))
    assert not NOT_SHOWN.keys() & (shown | ELSEWHERE.keys())


def test_the_tests_that_are_named_are_there():
    tests = REPOSITORY / "tests"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in tests.rglob("test_*.py")]
    there = {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }

    assert {name for names in ELSEWHERE.values() for name in names} <= there
