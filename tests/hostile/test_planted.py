"""Planted files: whatever a user is handed, no code in it runs, no socket opens, and nothing is written elsewhere.

Each artefact is fed to the command line in a child process whose audit events are listened to (`audit.py`). A canary is
a file that its code would make, or a word in its text that must not travel.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import checkpoint_files
from audit import listen
from children import in_child
from drawings import GRID, LABEL, SHAPE, nifti_bytes, write_case
from fuzz import models
from monaiseg.cli import app
from monaiseg.data.data_tasks import read_data_task
from monaiseg.settings.settings import Settings
from monaiseg.settings.writing import dump_settings

VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
CODE = "__import__('os').mkdir('canary')"


class Canary:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


def call(words: Sequence[object]) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a dataset of three cases in `data`."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 3):
        name = f"S{number}.nii.gz"
        write_case(tmp_path / "data/images" / name, tmp_path / "data/labels" / name, seed=number)
    return tmp_path


PREPARE = [
    "prepare",
    "--dataset-path",
    "data",
    "-o",
    "out",
    "-dtn",
    "task",
    "--train-size",
    "34",
    "--test-size",
    "33",
    "--val-size",
    "33",
]
PREDICT = ["predict", "-m", "model.pt", "-i", "data/images/S1.nii.gz", "-o", "out", "-g", "-1"]

# ---------------------------------------------------------------- plants


def model(raw: bytes, name: str = "model.pt") -> list[str]:
    """The model's bytes, under the name of one of torch's or of ours."""
    Path(name).write_bytes(raw)
    return [name if word == "model.pt" else word for word in PREDICT]


def pickled(protocol: int) -> list[str]:
    return with_pickle(pickle.dumps(Canary(), protocol))


def with_pickle(code: bytes) -> list[str]:
    """A zip file of torch's around this pickle."""
    return model(of_torch({"archive/data.pkl": code}))


def of_torch(changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The sound weights as torch.save writes them, with these entries of the zip file in place of its own."""
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save(dict(models.meaning()["network"]), buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", compression) as target:
        entries = {name: source.read(name) for name in source.namelist()}
        for name, entry in {**entries, **changes}.items():
            target.writestr(name, entry)
    return packed.getvalue()


def legacy() -> list[str]:
    buffer = io.BytesIO()
    torch.save({"a": Canary()}, buffer, _use_new_zipfile_serialization=False)
    return model(buffer.getvalue())


def saying(**changes: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoint({**models.meaning(), **changes})


def checkpoint(state: dict[str, Any]) -> list[str]:
    return model(checkpoint_files.saying(state), "model.safetensors")


def holding(plant: Callable[[], Any]) -> list[str]:
    """A file of torch.save with such a tensor, which ours cannot hold."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({**models.meaning(), "optimizer": {"planted": plant()}}, buffer)
    return model(buffer.getvalue())


def with_entry(name: str) -> list[str]:
    return model(of_torch({name: CODE.encode()}))


def with_header(change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """A safetensors file whose header was changed."""
    header, data = checkpoint_files.apart(models.sound()[0])
    change(header)
    return model(checkpoint_files.joined(header, data), "model.safetensors")


def sound_model() -> list[str]:
    return model(models.sound()[0], "model.safetensors")


def record_is_a_device() -> list[str]:
    words = sound_model()
    Path("model.json").symlink_to("/dev/zero")
    return words


def linked(path: str, target: str, words: Callable[[], list[str]]) -> list[str]:
    ready = words()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).unlink(missing_ok=True)
    Path(path).symlink_to(target)
    return ready


def piped(path: str, words: list[str]) -> list[str]:
    Path(path).unlink(missing_ok=True)
    os.mkfifo(path)
    return words


def settings(**keys: Any) -> list[str]:
    Path("settings.json").write_text(json.dumps(keys))
    return ["settings", "check", "settings.json"]


def listed(line: str) -> list[str]:
    Path("list.txt").write_text(line + "\n")
    return ["eval-seg", "-txt", "list.txt", "-m", "model.pt", "-o", "out"]


def scan(raw: bytes) -> list[str]:
    Path("data/images/S1.nii.gz").write_bytes(gzip.compress(raw))
    return PREPARE


def extended(content: bytes, code: int = 6) -> list[str]:
    image = nib.Nifti1Image(VOXELS, GRID.array)
    image.header["descrip"] = CODE[:80].encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    return scan(image.to_bytes())


def label_extension(xml: str) -> list[str]:
    image = nib.Nifti1Image(LABEL, GRID.array)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", xml.encode()))
    Path("data/labels/S1.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    return PREPARE


def table(text: str) -> list[str]:
    Path("labels.csv").write_text(text)
    return [*PREPARE, "--label-table", "labels.csv"]


def renamed(name: str) -> list[str]:
    for kind in ("images", "labels"):
        Path(f"data/{kind}/S1.nii.gz").rename(f"data/{kind}/{name}.nii.gz")
    return PREPARE


def described(**keys: Any) -> list[str]:
    Path("data/dataset.json").write_text(json.dumps(keys))
    return PREPARE


def bundle() -> list[str]:
    for name, text in {
        "scripts/__init__.py": CODE,
        "configs/train.json": json.dumps(
            {"a": f"${CODE}", "b": {"_target_": "os.mkdir", "path": "canary"}}
        ),
        "configs/logging.conf": f"[handlers]\nkeys=h\n[handler_h]\nargs=({CODE},)",
        "models/model.pt": "x",
        "model.ts": "x",
    }.items():
        Path("bundle", name).parent.mkdir(parents=True, exist_ok=True)
        Path("bundle", name).write_text(text)
    return [*PREDICT[:2], "bundle", *PREDICT[3:]]


LABELS = [{"value": 0, "name": "background"}, {"value": 1, "name": f"${CODE}"}, {"value": 2, "name": "b"}]  # fmt: skip
LAUGHS = (
    '<!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><CaretExtension><LabelTable><Label Key='1'>&i;</Label></LabelTable></CaretExtension>"
)
OUTSIDE = '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><CaretExtension><Label Key="1">&a;</Label></CaretExtension>'

REFUSED: dict[str, Callable[[], list[str]]] = {
    **{f"checkpoint: code in a pickle of protocol {p}": lambda p=p: pickled(p) for p in range(6)},
    "checkpoint: code in the legacy format": legacy,
    "checkpoint: a bare pickle": lambda: model(pickle.dumps(Canary())),
    "checkpoint: eval by opcodes": lambda: with_pickle(b"cbuiltins\neval\n(V" + CODE.encode() + b"\ntR."),
    "checkpoint: getattr up to os": lambda: with_pickle(b"cbuiltins\ngetattr\n(ctorch\nserialization\nVos\ntR."),
    "checkpoint: torch.load inside": lambda: with_pickle(b"ctorch.serialization\nload\n(Vother.pt\ntR."),
    "checkpoint: TorchScript": lambda: with_entry("archive/code/__torch__.py"),
    "checkpoint: constants": lambda: with_entry("archive/constants.pkl"),
    "checkpoint: an entry that leads out": lambda: with_entry("../../canary"),
    "checkpoint: an absolute entry": lambda: with_entry("/canary"),
    "checkpoint: sparse rows": lambda: holding(lambda: torch.eye(3).to_sparse_csr()),
    "checkpoint: sparse": lambda: holding(lambda: torch.eye(3).to_sparse()),
    "checkpoint: quantized": lambda: holding(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
    "checkpoint: 10^12 elements in four bytes": lambda: holding(lambda: torch.zeros(1).expand(10**6, 10**6)),
    "checkpoint: on no device": lambda: holding(lambda: torch.zeros(4, device="meta")),
    "checkpoint: deflated": lambda: model(of_torch({}, zipfile.ZIP_DEFLATED)),
    "checkpoint: a tensor beyond the file": lambda: with_header(lambda header: header["network.head.conv.conv.bias"].update(data_offsets=[0, 2**40])),
    "checkpoint: a tensor of terabytes": lambda: with_header(lambda header: header["network.head.conv.conv.bias"].update(shape=[2**40])),
    "checkpoint: a tensor's name leads out": lambda: with_header(lambda header: header.update({"../../canary": header.pop("network.head.conv.conv.bias")})),
    "checkpoint: its header is code": lambda: with_header(lambda header: header.update(__metadata__={"monaiseg": CODE})),
    "checkpoint: a label name is code": lambda: saying(labels=LABELS),
    "checkpoint: settings of terabytes": lambda: saying(settings='{"tsk_set": {"network": {"channels": 65536, "max_channels": 65536}}}'),
    "checkpoint: its record is a device": record_is_a_device,
    "checkpoint: a link to a device": lambda: linked("model.safetensors", "/dev/zero", sound_model),
    "checkpoint: a link to a device, of torch's name": lambda: linked("model.pt", "/dev/zero", lambda: PREDICT),
    "checkpoint: a pipe": lambda: piped("model.safetensors", sound_model()),
    "bundle: scripts, configurations, logging.conf": bundle,
    "settings: a target to call": lambda: settings(dataset={"_target_": "os.mkdir", "path": "canary"}),
    "settings: an expression for a number": lambda: settings(tsk_set={"epochs": f"${CODE}"}),
    "settings: a link to a device": lambda: linked("settings.json", "/dev/zero", settings),
    "settings: a pipe": lambda: piped("settings.json", ["settings", "check", "settings.json"]),
    "list: a device": lambda: listed("/dev/zero"),
    "list: a URL": lambda: listed("http://127.0.0.1:1/a.nii.gz"),
    "list: a file URL": lambda: listed("file:///etc/passwd"),
    "list: a share": lambda: listed("\\\\\\\\host\\\\share\\\\a.nii"),
    "list: a command": lambda: listed('"$(mkdir canary)"'),
    "list: standard input": lambda: listed("/dev/stdin"),
    "dataset: a path that leads out": lambda: described(training=[{"image": "../../etc/passwd", "label": "/etc/passwd"}]),
    "dataset: a channel name is code": lambda: described(channel_names={"0": f"${CODE}"}),
    "dataset: a label name is a reference": lambda: described(labels={"@network": 1}),
    "scan: a link to a device": lambda: linked("data/images/S1.nii.gz", "/dev/zero", lambda: PREPARE),
    "scan: a pipe": lambda: piped("data/images/S1.nii.gz", PREPARE),
    "scan: a bomb": lambda: scan(nifti_bytes(VOXELS, dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])),
    "scan: text of a program": lambda: scan(f"#!/bin/sh\nmkdir canary\n{CODE}\n".encode() * 30),
    "label table: a name is code": lambda: table(f"value,name\n1,${CODE}\n4,b\n"),
    "label table: a macro": lambda: table("value,name\n1,%train.json\n4,b\n"),
    "label table: a link to a device": lambda: linked("labels.csv", "/dev/zero", lambda: table("value,name\n")),
    "label table: a pipe": lambda: piped("labels.csv", [*PREPARE, "--label-table", "labels.csv"]),
    "name: leads out": lambda: [*PREPARE, "-dtn", "../canary"],
    "name: a command": lambda: [*PREPARE, "-dtn", "$(mkdir canary)"],
}  # fmt: skip
TAKEN: dict[str, Callable[[], list[str]]] = {
    "scan: a pickle in its extension": lambda: extended(pickle.dumps(Canary())),
    "scan: XML entities in its extension": lambda: extended(LAUGHS.encode(), 30),
    "label map: entities of a table": lambda: label_extension(LAUGHS),
    "label map: an outside entity": lambda: label_extension(OUTSIDE),
    "scan: its name is a command": lambda: renamed("$(mkdir canary)"),
    "scan: its name is an option's value": lambda: renamed("S1; mkdir canary"),
    "label table: a spreadsheet's formula": lambda: table("value,name\n1,=cmd|'mkdir canary'!A1\n4,b\n"),
    "output: a link under the prediction's name": lambda: linked("out/S1_pred.nii.gz", "../outside", sound_model),
}  # fmt: skip


GUARDS_OFF = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "MONAI_ALLOW_PICKLE")


@pytest.fixture(scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that the commands load is loaded, so that no child compiles what is none of the planted."""
    home = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("warm"))
    write_case(Path("data/images/S1.nii.gz"), Path("data/labels/S1.nii.gz"))
    for words in (PREPARE, sound_model(), settings(unknown=1), listed("a.nii")):
        call(words)
    os.chdir(home)


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize(
    ("name", "switches"),
    [
        *((name, ()) for name in (*REFUSED, *TAKEN)),
        *((name, GUARDS_OFF) for name in REFUSED if name.startswith("checkpoint: code")),
    ],
)
def test_what_is_planted_neither_runs_nor_writes_elsewhere(name, switches, place, monkeypatch):
    for switch in switches:
        monkeypatch.setenv(switch, "1")
    words = (REFUSED | TAKEN)[name]()
    Path("outside").write_text("as it was")

    def listened() -> tuple[int, str, list[str]]:
        ear, output = listen(), io.StringIO()
        command = typer.main.get_command(app)  # compiles the annotations of the options
        with redirect_stdout(output), redirect_stderr(output), ear.armed(place / "out") as heard:
            exit_code = command.main(words, standalone_mode=False)
        return exit_code or 0, output.getvalue(), heard

    code, output, heard = in_child(listened, memory_bytes=512 << 20).result

    assert code == (2 if name in REFUSED else 0), output
    assert heard == []
    assert not list(place.rglob("canary"))
    assert Path("outside").read_text() == "as it was"
    assert {path.name for path in place.iterdir()} <= {
        "data", "out", "outside", "model.pt", "model.safetensors", "model.json", "bundle", "settings.json", "list.txt", "labels.csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    "work",
    [
        lambda: os.system("true"),  # noqa: S605
        lambda: subprocess.run(["true"], check=True),
        lambda: eval("1 + 1"),  # noqa: S307
        lambda: pickle.loads(pickle.dumps(Canary())),  # noqa: S301
        lambda: Path("elsewhere").write_text("x"),
        lambda: Path("a").symlink_to("b"),
        lambda: __import__("socket").socket().connect_ex(("127.0.0.1", 9)),
    ],
)
def test_the_ear_hears(work, place):
    def listened() -> list[str]:
        ear = listen()
        with ear.armed(place / "out") as heard:
            work()
        return heard

    assert in_child(listened).result


# ---------------------------------------------------------------- the current folder, links in the run folder


def test_modules_in_the_current_folder_are_not_imported(place):
    for name in (
        "json",
        "torch",
        "monai",
        "numpy",
        "nibabel",
        "pydantic",
        "typer",
        "sitecustomize",
        "pickle",
    ):
        (place / f"{name}.py").write_text(CODE)
    (place / "settings.json").write_text("{}")
    program = Path(sys.executable).with_name("monaiseg")

    done = subprocess.run(
        [program, "settings", "check", "settings.json"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert not (place / "canary").exists()


@pytest.fixture
def small(settings: Settings, place: Path) -> list[str]:
    """The words of a training of one epoch on the prepared dataset."""
    document = json.loads(dump_settings(settings))
    document["tsk_set"].update(epochs=1, save_fig_on=True, save_val_fig_epoch=1)
    (place / "settings.json").write_text(json.dumps(document))
    return ["train", "-ts", "settings.json", "-o", "out", "-dtn", "task", "-tn", "first"]


def test_links_planted_in_a_run_folder_are_not_followed(place, small):
    assert call(PREPARE).exit_code == 0
    run = place / "out/task/first"
    (run / "checkpoints").mkdir(parents=True)
    (place / "outside").write_text("as it was")
    names = ("cur_task_setting.json", "history.csv", "log.txt", "checkpoints/best-epoch-0001.json")
    for name in names:
        (run / name).symlink_to(place / "outside")

    result = call(small)

    assert result.exit_code == 0, result.output
    assert "log.txt: cannot be written" in result.output
    assert (place / "outside").read_text() == "as it was"


def test_a_file_that_changed_or_vanished_since_the_check_stops_the_training(place, small):
    assert call(PREPARE).exit_code == 0
    (case,) = read_data_task(place / "out/task").cases["train"]
    assert case.label is not None
    moved = np.roll(LABEL, 1, axis=0)
    write_case(place / "other.nii.gz", place / "other_seg.nii.gz", values=moved)

    shutil.copy(place / "other_seg.nii.gz", case.label)
    changed = call(small)
    case.images[0].unlink()
    vanished = call(small)

    assert (changed.exit_code, vanished.exit_code) == (2, 2)
    assert "changed after `prepare` had checked them; prepare the data again" in changed.output
    assert f"'{case.images[0]}' cannot be found" in vanished.output


# ---------------------------------------------------------------- words that must not travel


def test_no_text_of_a_header_reaches_outputs_logs_or_tensorboard(place, small):
    for path in (place / "data").rglob("*.nii.gz"):
        image: Any = nib.load(path)
        image.header["descrip"] = image.header["aux_file"] = b"Canary, Jane"
        image.header["db_name"] = image.header["intent_name"] = b"Canary"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Canary 1970"))
        path.write_bytes(gzip.compress(image.to_bytes()))
    shown = ""
    for words in (
        PREPARE,
        small,
        ["evaluate", "-m", "out/task/first", "-o", "out", "-dtn", "task", "--save-predictions"],
        ["predict", "-m", "out/task/first", "-i", "data/images", "-o", "out/predictions"],
    ):
        result = call(words)
        assert result.exit_code == 0, result.output
        shown += result.output

    written = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert {".safetensors", ".json", ".csv", ".txt", ".gz"} <= {path.suffix for path in written}
    assert any("tfevents" in path.name for path in written)
    assert any("Canary" in gzip.decompress(p.read_bytes()).decode("latin-1") for p in (place / "data").rglob("*.gz"))  # fmt: skip
    assert "Canary" not in shown
    for path in written:
        raw = path.read_bytes()
        assert b"Canary" not in (gzip.decompress(raw) if path.suffix == ".gz" else raw), path
