"""Settings, words, folders, lists, scans and label maps that are refused with what to do about them."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import shutil
from collections.abc import Callable, Sequence
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
    check_refusal,
    dataset,
    header,
    ids,
    label,
    scan,
    settings,
    table,
    task,
    values,
    words,
)
from bench_models import sound_model
from drawings import LABEL, SHAPE, nifti_bytes

SHIFTED = nib.affines.from_matvec(np.diag([1, 1, 2]), [1, 0, 0])


# ---------------------------------------------------------------- plants


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
    model = str(sound_model(bench.root))
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


# ---------------------------------------------------------------- rows


REFUSED = [
    # ------------------------------------------------------------ settings and command line
    Row(1, "unknown key", settings('{"tsk_set": {"optim": {"lrr": 1}}}'), r"json: tsk_set\.optim\.lrr: .*did you mean 'lr'"),
    Row(2, "key twice", settings('{"tsk_set": {"epochs": 1,\n"epochs": 2}}'), r"json: key 'epochs' .*\(lines 1, 2\); keep one"),
    Row(3, "NaN", settings('{"tsk_set": {"optim": {"lr": NaN}}}'), r"NaN is not a number in JSON; write a finite"),
    Row(3, "Infinity", settings('{"tsk_set": {"optim": {"lr": Infinity}}}'), r"Infinity is not .*; write a finite"),
    Row(3, "1e999", settings('{"tsk_set": {"optim": {"lr": 1e999}}}'), r"1e999 is not a number in JSON; write"),
    Row(4, "text for a number", task(epochs="3"), r'epochs: "3" is not a whole number of at least 1'),
    Row(4, "true for a number", task(epochs=True), r"epochs: true is not a whole number of at least 1"),
    Row(4, "3.0 for a count", task(epochs=3.0), r"epochs: 3\.0 is not a whole number of at least 1"),
    Row(5, "empty", settings(""), r"json: is empty; `monaiseg settings init`"),
    Row(5, "a list", settings("[]"), r"json: is \[\]; a settings file is a JSON object"),
    Row(5, "null", settings("null"), r"json: is null; a settings file is a JSON object"),
    Row(5, "UTF-16", settings("{}".encode("utf-16")), r"json: is UTF-16; save it as UTF-8"),
    Row(5, "comma at the end", settings('{"tsk_set": {},}'), r"column \d+: not valid JSON .*no comma after the last"),
    Row(5, "comment", settings('{} // why'), r"column \d+: not valid JSON .*JSON has no comments"),
    Row(6, "deep nesting", settings(DEEP), r"nested too deeply; settings are 8 levels deep"),
    Row(6, "number of 5000 digits", settings(f'{{"a": {HUGE}}}'), r"write a smaller number"),
    Row(6, "more than a mebibyte", settings(" " * (1 << 20) + "{}"), r"json: has \d+ bytes, but at most 1048576 are read"),
    Row(7, "batch of 0", task(batch_size=0), r"batch_size: 0 is not a whole number of at least 1"),
    Row(7, "no epochs", task(epochs=0), r"epochs: 0 is not a whole number of at least 1"),
    Row(7, "learning rate 0", task(optim={"lr": 0}), r"lr: 0 is not a number above 0"),
    Row(7, "patch of no voxels", settings('{"dataset": {"seg": {"patch_size": [0, 16, 16]}}}'), r"each a whole number of at least 1"),
    Row(8, "key of a later version", task(attention="flash"), r"attention: unknown key; tsk_set has train, "),
    *(
        Row(9, f"name {number}", words("-dtn", name), r"data_task_name: .* is not a valid name; use 1 to 64 letters")
        for number, name in enumerate(
            ["a/b", "..", "-x", "x" * 300, "\U0001f9e0", "$(id)", "@a", "%b", "a\0b", "CON", "x.", "a\nb"]
        )
    ),
    Row(9, "label name that is code", table("value,name\n1,$import os\n4,b\n"), r"csv: label name: '\$import os' contains \$, which could run as code"),
    Row(9, "channel name that is code", dataset(lambda d: (d / "dataset.json").write_text('{"channel_names": {"0": "@T1"}}')), r"dataset\.json: channel name: '@T1' contains @.*; rename it"),
    Row(10, "label name twice", table("value,name\n1,a\n4,a\n"), r"csv: label name 'a' is used twice; give each"),
    Row(10, "label value twice", table("value,name\n1,a\n1,b\n4,c\n"), r"csv: a label value appears twice; list each value once"),
    Row(10, "negative label value", table("value,name\n-1,a\n"), r"csv: label value -1 is negative; label values start at 0"),
    Row(10, "number of classes that is another", settings('{"dataset": {"seg": {"interested_label_list": [1, 4]}}, "tsk_set": {"seg": {"class_num": 4}}}'), r"makes 3 classes, with background; use 3 or -1"),
    Row(12, "negative seed", task(seed=-1), r"seed: -1 is not a whole number of at least 0"),
    Row(12, "seed beyond 63 bits", task(seed=2**63), r"seed: 9223372036854775808 is not a whole number"),
    Row(12, "negative seed of a split", words("--seed", "-1"), r"--seed'.*(greater than or equal to 0|range x>=0)"),
    Row(13, "scans listed in two ways", lambda _: ["eval-seg", "-txt", "a.txt", "-i", "b.nii", "-m", "m.pt", "-o", "out"], r"either as a list file with -txt, or one by one with -i"),
    Row(13, "sizes beyond 100 per cent", words("--train-size", "90"), r"90, 33 and 33; use percentages that sum to 100"),
    # ------------------------------------------------------------ folders, lists, splits
    Row(15, "dataset missing", dataset(shutil.rmtree), r"data: is not a folder; give the folder that holds the dataset"),
    Row(15, "dataset is a file", dataset(as_file), r"data: is not a folder; give the folder"),
    Row(15, "dataset is empty", dataset(emptied), r"images: has no NIfTI files .* no files; put the scans there"),
    Row(15, "dataset is a dangling link", dataset(as_link_to_nowhere), r"data: is not a folder; give the folder"),
    Row(15, "dataset is a ring of links", dataset(loop), r"data: is not a folder; give the folder"),
    Row(15, "scan is a dangling link", dataset(scan_is_a_link_to_nowhere), r"S1\.nii\.gz: is a link that leads nowhere; check"),
    Row(16, "image without label map", another("images", "S4.nii.gz"), r"image S4\.nii\.gz has no label map|do not match; give an image and its label map the same name"),
    Row(16, "label map without image", another("labels", "S4.nii.gz"), r"do not match; give an image and its label map the same name\n.*label map S4\.nii\.gz has no image"),
    Row(17, "id twice", another("images", "S2.nii"), r"S2\.nii and S2\.nii\.gz have the same name but for the ending; rename or remove one"),
    Row(17, "ids that differ in case", another("images", "s2.nii.gz"), r"S2\.nii\.gz and s2\.nii\.gz have the same name but for the ending; rename"),
    Row(18, "an image in train and test", dataset(same_image_in_two_splits), r"3 cases in 2 groups cannot fill the splits train, test, val"),
    Row(19, "a case in two splits", lists(move_case), r"case 's\d' is in t\w+ and t\w+; keep it in one"),
    Row(19, "a debug case that is not trained on", lists(swap_debug), r"is not a training case; list only training cases there"),
    Row(19, "lists other than the json", lists(lambda f: shutil.copy(f / "val/file_path_list.txt", f / "test/file_path_list.txt")), r"; keep it in one"),
    Row(19, "one case", dataset(one_case), r"1 case cannot fill the splits train, test, val; add cases"),
    Row(20, "URL", listing("https://host/a.nii\n"), r"list\.txt, line 1: 'https://host/a\.nii' is not a path .*; download"),
    Row(20, "pipe", listing("pipe.nii\n"), r"list\.txt, line 1: .*pipe\.nii is not a regular file; list a NIfTI"),
    Row(20, "device", listing("/dev/zero\n"), r"list\.txt, line 1: /dev/zero is not a regular file; list a NIfTI"),
    Row(20, "folder", listing("{data}\n"), r"list\.txt, line 1: .* is not a regular file; list a NIfTI file"),
    Row(20, "newline in a name", listing('"a\\u000ab.nii"\n'), r"line 1: 'a\\nb\.nii' cannot be found; check it"),
    Row(20, "list is a pipe", list_is_a_pipe, r"list\.txt: is not a regular file; give a file"),
    Row(22, "output inside of the dataset", lambda b: ["prepare", "--dataset-path", str(b.dataset), "-o", str(b.dataset), "-dtn", "images"], r"overlap; choose an output_root_path outside"),
    Row(22, "output above the dataset", lambda b: ["prepare", "--dataset-path", str(b.dataset), "-o", str(b.root.parent), "-dtn", b.root.name], r"overlap; choose an output_root_path outside"),
    Row(22, "predictions among the images", among_the_images, r"is the folder of the images; choose another --output"),
    # ------------------------------------------------------------ NIfTI files
    Row(25, "empty", scan(b""), r"S1\.nii: is empty \(0 bytes\); copy the file again"),
    Row(25, "shorter than a header", scan(bytes(100)), r"S1\.nii: has 100 bytes, but a NIfTI header has 348; copy"),
    Row(25, "text", scan(b"not a scan" * 99), r"S1\.nii: is text; put a NIfTI file in its place"),
    Row(26, "gzip named nii", scan(gzip.compress(nifti_bytes(VOXELS))), r"S1\.nii: is compressed; rename it to end in \.nii\.gz"),
    Row(26, "plain named nii.gz", scan(nifti_bytes(VOXELS), "S1.nii.gz"), r"is not compressed; rename it to end in \.nii"),
    Row(27, "truncated", scan(nifti_bytes(VOXELS)[:-7]), r"S1\.nii: ends after 465 of 472 bytes; copy the file again"),
    Row(27, "truncated gzip", scan(gzip.compress(nifti_bytes(VOXELS))[:-20], "S1.nii.gz"), r"end too early; copy the file again"),
    Row(28, "flipped bit", scan(flipped(nifti_bytes(VOXELS)), "S1.nii.gz"), r"compressed data are damaged .*; copy the file again"),
    Row(28, "wrong checksum", scan(gzip.compress(nifti_bytes(VOXELS))[:-8] + bytes(8), "S1.nii.gz"), r"damaged .*; copy the file again"),
    Row(28, "missing checksum", scan(gzip.compress(nifti_bytes(VOXELS))[:-8], "S1.nii.gz"), r"end too early; copy the file again"),
    Row(30, "no voxels", header(dim=[3, 3, 0, 5, 1, 1, 1, 1]), r"has the shape \(3, 0, 5\); every axis needs"),
    Row(31, "negative axis", header(dim=[3, 3, -4, 5, 1, 1, 1, 1]), r"has the shape \(3, -4, 5\); every axis needs"),
    Row(32, "claims 32767 cubed", header(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), r"ends after 472 of \d{14} bytes; copy"),
    Row(32, "claims 20 GB, packed", scan(gzip.compress(nifti_bytes(VOXELS, dim=[3, 2154, 2154, 2154, 1, 1, 1, 1])), "S1.nii.gz"), r"compressed bytes cannot hold; copy the file again"),
    Row(34, "no axes", header(dim=[0, 3, 4, 5, 1, 1, 1, 1]), r"has 0 axes \(dim\[0\]\); a volume has 3 or 4"),
    Row(34, "nine axes", header(dim=[9, 3, 4, 5, 1, 1, 1, 1]), r"has 9 axes \(dim\[0\]\); a volume has 3 or 4"),
    Row(35, "a slice", header(dim=[2, 3, 20, 1, 1, 1, 1, 1]), r"has 2 axes, \(3, 20\); stack the slices into a volume"),
    Row(35, "five axes", header(dim=[5, 3, 4, 1, 1, 5, 1, 1]), r"has 5 axes, .*; split it into volumes"),
    Row(36, "no voxel size and no sform", header(sform_code=0, pixdim=[1, 0, 1, 1, 0, 0, 0, 0]), r"pixdim is .*; write the file again with its voxel size"),
    Row(36, "spacing beyond 100 mm", header(srow_x=[101, 0, 0, 0]), r"must be above 0 and at most 100; write the file again"),
    Row(37, "forms disagree in place", header(qoffset_x=0.2), r"sform and qform disagree: position.*; set the code of the wrong one to 0"),
    Row(37, "forms disagree in angle", values(VOXELS, **{f"srow_{a}": TURNED[i] for i, a in enumerate("xyz")}), r"disagree: .*; set the code"),
    Row(38, "no orientation", header(sform_code=0, qform_code=0), r"has no orientation .*; copy the geometry"),
    Row(39, "sform not finite", header(srow_x=[np.nan, 0, 0, 0]), r"sform has numbers that are not finite; write"),
    Row(39, "sform of zeros", header(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), r"sform has the spacing .* write the file again"),
    Row(39, "singular sform", header(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), r"gives two axes the same direction; write the file again"),
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
    Row(45, "whole numbers beyond float32", values(VOXELS.astype(np.int64) + 2**24), r"float32 is exact only up to 16777216; scale them down"),
    Row(45, "1e300", values(VOXELS * 1e300), r"values are too large for float32 .*; replace them"),
    Row(48, "all NaN", values(np.full(SHAPE, np.nan)), r"60 values are NaN or infinite .*; replace them with numbers"),
    Row(48, "one infinite", values(np.where(VOXELS == 7, np.inf, VOXELS)), r"1 values are NaN or infinite \(the first at voxel \(0, 1, 2\)\); replace"),
    Row(48, "constant, to train on", values(np.full(SHAPE, 7.0)), r"all voxels have the value 7; give a scan"),
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
    Row(52, "value not in the table", table("value,name\n1,a\n"), r"the values 4 \(1 voxel\), which the label table does not name\n(.|\n)*add the values"),
    Row(52, "255", both(label(np.where(LABEL == 1, 255, LABEL).astype(np.uint8)), table("value,name\n1,a\n4,b\n")), r"the values 255 \(6 voxels\), which the label table does not name"),
    Row(52, "negative", label(LABEL.astype(np.int16) - 1), r"has negative label values \(from -1, in 53 voxels\); use values of 0 or more"),
    Row(53, "halves", label(LABEL / 2), r"values that are not whole numbers \(0\.5\); give a label map; if it was resampled, use nearest"),
    Row(54, "NaN", label(np.where(LABEL == 4, np.nan, LABEL)), r"1 values are NaN .*; replace them with numbers"),
    Row(55, "other shape", label(np.pad(LABEL, ((0, 0), (0, 0), (0, 2)))), r"lie on different grids: shape .*; resample one onto the other"),
    Row(56, "shifted", label(LABEL, SHIFTED), r"different grids: position.*; resample"),
    Row(56, "flipped axis", label(LABEL, np.diag([-1, 1, 2, 1])), r"different grids: .*; resample one onto the other"),
    Row(58, "label map is the image", dataset(lambda d: shutil.copy(d / "images/S1.nii.gz", d / "labels/S1.nii.gz")), r"not whole numbers|same file; give the label map"),
    Row(58, "label map is a whole-number image", label(np.arange(60, dtype=np.int16).reshape(SHAPE) * 7 - 3), r"negative label values"),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSED, ids=ids)
def test_a_bad_input_is_refused_with_what_to_do(row: Row, bench: Bench):
    check_refusal(row, bench)
