"""Bundles for MONAI's bundle runner: built from a settings file and a label table, and packed with trained weights.

All settings of a bundle are in `configs/settings.json`. The configurations name functions of monaiseg that read it and
connect the parts, under the names that MONAI's tools expect (`monai/bundle/properties.py`). MONAI's runner executes
every text in them that starts with `$` as code. There are few such lines, and none contains text from a user.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from monai.bundle.scripts import ckpt_export

from monaiseg.bundle.components import LABELS_FILE, SETTINGS_FILE, WEIGHTS_FILE, write_weights
from monaiseg.bundle.configuration import ISOTROPIC, LOGGING, TORCHSCRIPT_FILE, configurations
from monaiseg.bundle.metadata import metadata_of, read_about
from monaiseg.data import LabelTable, Spacing, kept_labels, label_table_text
from monaiseg.errors import SettingsError
from monaiseg.files import write_atomic
from monaiseg.networks import plan_topology
from monaiseg.settings import Settings, changed, dump_settings, parse_settings
from monaiseg.training import (
    Best,
    Checkpoint,
    load_checkpoint,
    newest,
    prediction_flips,
    read_mirroring,
)

ABOUT_FILE = "configs/about.json"
DOCUMENTS = (ABOUT_FILE, "LICENSE", "docs/README.md", "docs/data_license.txt")
"""Files of a bundle that people write."""


def build_bundle(
    settings: Settings,
    table: LabelTable,
    folder: str | Path,
    *,
    spacing: Spacing | None = None,
    channels: tuple[str, ...] = (),
    eval_metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write the configurations of a bundle and any documents that are missing; existing documents are kept.

    Information that settings and labels do not contain, such as the name and the source of the data, is read from
    `configs/about.json` in the folder. If that file is missing, one with default entries is written.

    Args:
        settings: all settings of the training.
        table: labels of the data; the network has those that the settings keep.
        folder: folder of the bundle; created if needed.
        spacing: voxel size in mm along X, Y, Z that the network is designed for. None: as in the settings or, if these
            do not resample scans, 1 mm.
        channels: names of the image channels.
        eval_metrics: measured scores, for the metadata.

    Returns:
        The folder.

    Raises:
        SettingsError: settings and labels do not match, a name would be code for MONAI's runner, or the folder holds
            something other than a bundle.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    settings = _without_places(settings)
    labels = kept_labels(table, settings, "the label table")
    spacing = spacing or settings.spacing_mm or ISOTROPIC
    plan_topology(settings.tsk_set.network, settings.patch_shape, spacing)
    about = read_about(folder / ABOUT_FILE)
    metadata = metadata_of(settings, labels, about, channels, eval_metrics)
    documents = {f"configs/{name}.json": config for name, config in configurations(spacing).items()}
    files = {
        SETTINGS_FILE: dump_settings(settings),
        LABELS_FILE: label_table_text(table, "csv"),
        ABOUT_FILE: _json(about.model_dump()),
        "configs/logging.conf": LOGGING,
        "configs/metadata.json": _json(metadata),
        **{name: _json(document) for name, document in documents.items()},
    }
    once = {
        "LICENSE": distribution("monaiseg").read_text("licenses/LICENSE") or "Apache-2.0\n",
        "docs/README.md": _card(metadata),
        "docs/data_license.txt": f"Data: {metadata['data_source']}. See its owner for the licence.\n",
        "models/.gitignore": "*\n!.gitignore\n",
    }
    files |= {name: text for name, text in once.items() if not (folder / name).exists()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, text.encode())
    return folder


def pack_bundle(
    checkpoint: str | Path, output: str | Path, documents: str | Path | None = None
) -> Path:
    """Pack a trained network into a bundle, with weights and, for networks without an atlas, TorchScript in `models`.

    Using the bundle requires MONAI and monaiseg.

    Args:
        checkpoint: a checkpoint file, or the folder of a run, whose best checkpoint is used.
        output: a new folder, the folder of a bundle whose documents are kept, or a `.zip` file. The same input always
            gives the same bytes in the `.zip` file.
        documents: folder of a bundle whose model card, licences and `about.json` are copied into the new one.

    Returns:
        `output`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        SettingsError: see `build_bundle`.
    """
    saved, output = load_checkpoint(checkpoint), Path(output)
    # A best checkpoint does not contain its own score; the newest commit of the run does.
    best = newest(checkpoint).best if Path(checkpoint).is_dir() else None
    if output.suffix.lower() != ".zip":
        _take_documents(documents, output)
        return _fill(saved, best, output)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / output.stem
        _take_documents(documents, folder)
        write_atomic(output, _zipped(_fill(saved, best, folder)))
    return output


def _take_documents(bundle: str | Path | None, folder: Path) -> None:
    """Copy the documents that people have written in a bundle to the folder of another."""
    if bundle is None:
        return
    if not (Path(bundle) / ABOUT_FILE).is_file():
        raise SettingsError(f"{bundle}: is not a bundle; give the folder that has {ABOUT_FILE}")
    _check_replaceable(folder)
    for name in DOCUMENTS:
        if (Path(bundle) / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, (Path(bundle) / name).read_bytes())


def _fill(checkpoint: Checkpoint, best: Best | None, folder: Path) -> Path:
    """Write the bundle of a checkpoint into a folder."""
    settings = parse_settings(checkpoint.settings, source=str(checkpoint.path))
    mirroring = None if checkpoint.path is None else read_mirroring(checkpoint.path)
    if not prediction_flips(settings, mirroring):
        settings = changed(settings, {"dataset.seg.partition.flips": ()})
    table = LabelTable.from_records(checkpoint.labels)
    build_bundle(
        settings,
        table,
        folder,
        spacing=checkpoint.spacing,
        channels=tuple(checkpoint.channels),
        eval_metrics=None if best is None else {"validation_mean_dice": round(best.value, 4)},
    )
    write_weights(checkpoint.weights, folder / "models" / WEIGHTS_FILE)
    if not settings.tsk_set.network.atlas:  # a trace would fix the number of classes at a place
        export_torchscript(folder, settings, checkpoint.spacing)
    return folder


def export_torchscript(folder: Path, settings: Settings, spacing: Spacing) -> Path:
    """Write `models/model.ts` from the weights of a bundle, by MONAI's `ckpt_export`; it takes any valid patch size."""
    target = folder / "models" / TORCHSCRIPT_FILE
    stride = plan_topology(settings.tsk_set.network, settings.patch_shape, spacing).total_stride
    shape = [min(size, 2 * step) for size, step in zip(settings.patch_shape, stride, strict=True)]
    ckpt_export(
        "network_def",
        filepath=str(target),
        ckpt_file=str(folder / "models" / WEIGHTS_FILE),
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.json"),
        use_trace=True,
        input_shape=[1, settings.dataset.num_channels, *shape],
        bundle_root=str(folder),
    )
    return target


def _without_places(settings: Settings) -> Settings:
    """The settings without those that belong to one computer or one run."""
    places = ("output_root_path", "data_task_name", "task_name", "model_path")
    none: dict[str, Any] = {f"tsk_set.{name}": "" for name in places}
    return changed(settings, none | {"tsk_set.continue_train": False, "tsk_set.gpu_id": None})


def _check_replaceable(folder: Path) -> None:
    """Raise SettingsError if a folder holds something other than a bundle."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder}: is a file; give a folder, or a name that ends in .zip")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT_FILE).is_file():
        raise SettingsError(f"{folder}: has files in it but is not a bundle; give a new folder")


def _json(document: Any) -> str:
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def _card(metadata: Mapping[str, Any]) -> str:
    """A model card, to be completed by someone who knows the data."""
    return f"""\
# {metadata["name"]}

{metadata["description"]}

Intended use: {metadata["intended_use"]}

Data: {metadata["data_source"]}.

Evaluate the network on held-out scans:

```bash
python -m monai.bundle run --config_file configs/evaluate.json --dataset_dir SCANS
```

Train, and label new scans:

```bash
python -m monai.bundle run --config_file configs/train.json --dataset_dir SCANS
python -m monai.bundle run --config_file configs/inference.json --dataset_dir NEW_SCANS
```

All settings are in `configs/settings.json`. `monaiseg bundle lint .` checks the bundle.
"""


def _zipped(folder: Path) -> bytes:
    """The folder as a zip file; identical folders give identical bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(Path(folder.name) / path.relative_to(folder))
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_STORED)
    return buffer.getvalue()
