"""Fuzzers of text files: settings, list files, dataset.json of datasets and of data tasks, label tables."""

from __future__ import annotations

import functools
import json
import os
import stat
import tempfile
import warnings
from pathlib import Path
from random import Random
from typing import Any

from drawings import write_case, write_empty
from fuzz import Fuzzer
from fuzz.mutators import as_json, mutated, mutated_document, mutated_text
from monaiseg.data.cases import find_cases
from monaiseg.data.data_tasks import read_data_task
from monaiseg.data.label_files import label_table_text, load_label_table
from monaiseg.data.labels import LabelTable
from monaiseg.data.list_files import read_list_file
from monaiseg.errors import MonaisegWarning
from monaiseg.preparation import prepare
from monaiseg.settings.reading import load_settings, parse_settings
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

SCRIPTS = Path(__file__).parents[2] / "scripts"
warnings.simplefilter("ignore", MonaisegWarning)

# ---------------------------------------------------------------- settings


@functools.cache
def settings_documents() -> tuple[dict[str, Any], ...]:
    """Every key at its default, and the settings that are shipped, some of them in EasyReg's spelling."""
    shipped = sorted(SCRIPTS.rglob("*.json"))
    return (json.loads(dump_settings(Settings())), *(json.loads(p.read_text()) for p in shipped))


def draw_settings(rng: Random) -> bytes:
    """A settings file with harmed values, keys or text."""
    return as_json(mutated_document(rng.choice(settings_documents()), rng, 4), rng)


def feed_settings(raw: bytes, folder: Path) -> None:
    """Settings that load set the same when they are written and read again, and answer every question."""
    path = folder / "settings.json"
    path.write_bytes(raw)
    settings = load_settings(path)
    assert parse_settings(dump_settings(settings)) == settings
    for question in ("patch_shape", "image_shape", "spacing_mm", "window_overlap", "batch_size"):
        getattr(settings, question)
    assert len(settings.digest()) == 64


# ---------------------------------------------------------------- list files

_LIST = 'a.nii a_seg.nii\n"b 1.nii"     a_seg.nii\nc.nii None\n'
_LIST_WORDS = (
    "a.nii", "a_seg.nii", '"b 1.nii"', "None", " ", ",", "|", "+", "\t", "\n", "\r", "\f", "\x85", "\u2028", '"', "\\",
    '\\u0000"', '"\\ud800"', "pipe.nii", "folder.nii", "link.nii", "loop.nii", "gone.nii", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", "../a.nii", "./a.nii", "folder.nii/../a.nii", "x" * 5000, "a/" * 3000,
)  # fmt: skip


def draw_list(rng: Random) -> bytes:
    """A list file with harmed lines."""
    return mutated_text(_LIST, rng, _LIST_WORDS)


def feed_list(raw: bytes, folder: Path) -> None:
    """Whatever a list names is a regular file, and inside the root where one is declared."""
    inside = folder / "inside"
    if not inside.exists():
        write_empty(*(inside / n for n in ("a.nii", "a_seg.nii", "b 1.nii", "c.nii")))
        write_empty(folder / "outside.nii")
        os.mkfifo(inside / "pipe.nii")
        (inside / "folder.nii").mkdir()
        (inside / "link.nii").symlink_to(folder / "outside.nii")
        (inside / "loop.nii").symlink_to("loop.nii")
    path = inside / "file_path_list.txt"
    path.write_bytes(raw)
    for case in read_list_file(path):
        assert case.id.isprintable()
        assert all(stat.S_ISREG(file.stat().st_mode) for file in case.files)
    for case in read_list_file(path, root=inside):
        assert all(inside.resolve() in file.resolve().parents for file in case.files)


# ---------------------------------------------------------------- dataset.json

_DATASET = {
    "name": "drawn",
    "labels": {"0": "background", "1": "left", "2": "right"},
    "modality": {"0": "T1", "1": "T2"},
    "training": [{"image": f"./imagesTr/{n}.nii", "label": f"./labelsTr/{n}.nii"} for n in "ab"],
    "test": ["./imagesTs/c.nii"],
}


def draw_dataset(rng: Random) -> bytes:
    """A dataset's description with harmed values, keys or text."""
    return as_json(mutated_document(_DATASET, rng), rng)


def feed_dataset(raw: bytes, folder: Path) -> None:
    """Whatever a dataset names lies in its folder, under an id that can be a file name."""
    (folder / "dataset.json").write_bytes(raw)
    found = find_cases(folder)
    for case in found.cases:
        assert case.id.isprintable()
        assert "/" not in case.id
        assert all(folder in Path(os.path.normpath(file)).parents for file in case.files)
    assert all(type(value) is int for value in found.label_names)


@functools.cache
def data_task() -> Path:
    """A prepared data task of three cases."""
    home = Path(tempfile.mkdtemp(prefix="monaiseg-fuzz-"))
    for number in range(3):
        write_case(home / f"d/images/{number}.nii", home / f"d/labels/{number}.nii", seed=number)
    return prepare(home / "d", home / "tasks", "t", train_size=34, test_size=33, val_size=33).folder


def draw_data_task(rng: Random) -> bytes:
    """A data task's dataset.json with harmed values, keys or text."""
    return as_json(
        mutated_document(json.loads((data_task() / "dataset.json").read_bytes()), rng), rng
    )


def feed_data_task(raw: bytes, folder: Path) -> None:
    """A data task that is read has a label table and facts of its cases."""
    home = data_task()
    sound = (home / "dataset.json").read_bytes()
    try:
        (home / "dataset.json").write_bytes(raw)
        task = read_data_task(home)
    finally:
        (home / "dataset.json").write_bytes(sound)
    assert LabelTable.from_records(task.table.to_records()) == task.table
    for cases in task.cases.values():
        for case in cases:
            assert min(task.facts[case.id].shape) > 0


# ---------------------------------------------------------------- label tables

_CSV = 'value,name,partner,color\n0,background,,#000000\n21,left insula,22,#ff0000\n22,"right, insula",21,#00ff00\n'
_TABLES = (
    _CSV,
    '{"labels": [{"value": 21, "name": "left insula", "color": [255, 0, 0], "group": "insula", "tolerance_mm": 1.5}]}',
    "index\tname\tcolor\tlesion\tsnomed\n21\tleft insula\t#ff0000\tyes\t36169008\n22\tright\tn/a\tn/a\tn/a\n",
    '# ITK-SnAP\n    0     0    0    0        0  0  0    "Clear Label"\n   21   255    0    0      0.5  1  1    "left insula"\n',
    "#No. Label Name: R G B A\n0 Unknown 0 0 0 0\n21 Left-Insula 255 0 0 0\n22 Right-Insula 255 0 0 127\n",
    "# Color table file a.ctbl\n0 background 0 0 0 0\n21 left_insula 255 0 0 255\n",
)
_CSV_WORDS = (
    ",", ";", "\t", "\n", "\r", '"', '""', "value", "name", "partner", "color", "21", "22", "0", "-1", "1.0", "1e3", "٣",
    "2147483647", "2147483648", "99999999999999999999", "#ff00ff", "#ff", "#٣٣٣٣٣٣", "left insula", "L", "x" * 140_000,
)  # fmt: skip


def draw_table(rng: Random) -> bytes:
    """A label table of any format with harmed cells."""
    text = rng.choice(_TABLES)
    return (
        mutated_text(text, rng, _CSV_WORDS) if rng.random() < 0.9 else mutated(text.encode(), rng)
    )


def feed_table(raw: bytes, folder: Path) -> None:
    """A table that is read survives its journey through records and CSV, and its names can be shown."""
    path = folder / "labels.csv"
    path.write_bytes(raw)
    table = load_label_table(path)
    assert LabelTable.from_records(table.to_records()) == table
    assert table.values[0] == 0
    assert table.values[-1] < 2**31
    assert all(name == name.strip() and name.isprintable() and name for name in table.names)
    table.digest()
    path.write_text(label_table_text(table, "csv"), encoding="utf-8")
    assert load_label_table(path).values == table.values


FUZZERS = (
    Fuzzer("settings", lambda: dump_settings(Settings()).encode(), draw_settings, feed_settings),
    Fuzzer("list_files", _LIST.encode, draw_list, feed_list),
    Fuzzer("datasets", lambda: json.dumps(_DATASET).encode(), draw_dataset, feed_dataset),
    Fuzzer(
        "data_tasks",
        lambda: (data_task() / "dataset.json").read_bytes(),
        draw_data_task,
        feed_data_task,
    ),
    Fuzzer("label_tables", _CSV.encode, draw_table, feed_table),
)
