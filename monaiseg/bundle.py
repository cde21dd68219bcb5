"""Bundles for MONAI's bundle runner: written from a settings file and a label table, and packed with trained weights.

A chain or a default stands in `configs/settings.json` alone. The configurations name functions of monaiseg that read
it, and say how the parts hang together, under the names that MONAI's tools look for (`monai/bundle/properties.py`).
Whatever starts with `$` in them is code to MONAI's runner: there are few such lines, and no text of a user's becomes one.
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

from monaiseg.bundle_metadata import metadata_of, read_about
from monaiseg.checkpoint import Best, Checkpoint, load_checkpoint, newest
from monaiseg.errors import SettingsError
from monaiseg.files import write_atomic
from monaiseg.geometry import Spacing
from monaiseg.labels import LabelTable
from monaiseg.network import plan_topology
from monaiseg.settings import Settings, changed, dump_settings, parse_settings
from monaiseg.workflow import LABELS_FILE, SETTINGS_FILE, WEIGHTS_FILE, write_weights

Config = dict[str, Any]
ABOUT_FILE = "configs/about.json"
ISOTROPIC: Spacing = (1.0, 1.0, 1.0)
TORCHSCRIPT_FILE = "model.ts"
WORKFLOWS = ("train", "evaluate", "inference")
MIXINS = {"multi_gpu_train": "train", "inference_torchscript": "inference"}
"""Configurations that are laid over another one."""
_LOGGING = """\
[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=line

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
formatter=line
args=(sys.stderr,)

[formatter_line]
format=%(asctime)s %(levelname)s %(name)s %(message)s
"""


def build_bundle(
    settings: Settings,
    table: LabelTable,
    folder: str | Path,
    *,
    spacing: Spacing | None = None,
    channels: tuple[str, ...] = (),
    eval_metrics: Mapping[str, float] | None = None,
) -> Path:
    """Write a bundle's configurations, and what else of it is missing: documents that are there stay as they are.

    What settings and labels do not say, such as name and source of the data, is taken from `configs/about.json` in
    the folder; where that is missing it is written with nothing stated.

    Args:
        settings: every choice of the training.
        table: the labels of the data; the network has those that the settings keep.
        folder: of the bundle; made where it is not there.
        spacing: voxel size in mm along X, Y, Z that the network is laid out for. None: the settings' or, where these
            leave scans as they are, 1 mm.
        channels: names of the image channels.
        eval_metrics: what was measured, for the metadata.

    Returns:
        The folder.

    Raises:
        SettingsError: settings and labels do not go together, a name is code to MONAI's runner, or the folder holds
            something else.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    settings = _without_places(settings)
    labels = _kept(table, settings)
    spacing = spacing or settings.spacing_mm or ISOTROPIC
    plan_topology(settings.tsk_set.network, settings.patch_shape, spacing)
    about = read_about(folder / ABOUT_FILE)
    metadata = metadata_of(settings, labels, about, channels, eval_metrics)
    documents = {f"configs/{name}.json": config for name, config in configurations(spacing).items()}
    files = {
        SETTINGS_FILE: dump_settings(settings),
        LABELS_FILE: table.to_csv(),
        ABOUT_FILE: _json(about.model_dump()),
        "configs/logging.conf": _LOGGING,
        "configs/metadata.json": _json(metadata),
        **{name: _json(document) for name, document in documents.items()},
    }
    once = {
        "LICENSE": distribution("monaiseg").read_text("licenses/LICENSE") or "Apache-2.0\n",
        "docs/README.md": _card(metadata),
        "docs/data_license.txt": f"Data: {metadata['data_source']}. Its licence is its owner's to say.\n",
        "models/.gitignore": "*\n!.gitignore\n",
    }
    files |= {name: text for name, text in once.items() if not (folder / name).exists()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, text.encode())
    return folder


def pack_bundle(checkpoint: str | Path, output: str | Path) -> Path:
    """A bundle of what a training has made: weights and TorchScript in `models`, for all who have MONAI and monaiseg.

    Args:
        checkpoint: its file, or the folder of a training (then the best is taken).
        output: folder, new or of a bundle whose documents are kept; or a `.zip` file, the same bytes every time.

    Returns:
        `output`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        SettingsError: as `build_bundle`.
    """
    saved, output = load_checkpoint(checkpoint), Path(output)
    # A best checkpoint does not know its own score: the training's newest commit does.
    best = newest(checkpoint).best if Path(checkpoint).is_dir() else None
    if output.suffix.lower() != ".zip":
        return _fill(saved, best, output)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _fill(saved, best, Path(scratch) / output.stem)
        write_atomic(output, _zipped(folder))
    return output


def _fill(checkpoint: Checkpoint, best: Best | None, folder: Path) -> Path:
    """Write the bundle of a checkpoint into a folder."""
    settings = parse_settings(checkpoint.settings, source=str(checkpoint.path))
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
    export_torchscript(folder, settings, checkpoint.spacing)
    return folder


def export_torchscript(folder: Path, settings: Settings, spacing: Spacing) -> Path:
    """`models/model.ts` of a bundle with weights, by MONAI's own `ckpt_export`; it takes patches of any valid size."""
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


def configurations(spacing: Spacing = ISOTROPIC) -> dict[str, Config]:
    """The configurations by name; `MIXINS` are laid over others."""
    return {
        "train": _train(spacing),
        "evaluate": _evaluate(spacing),
        "inference": _inference(spacing),
        "multi_gpu_train": {
            "device": _of("monaiseg.distributed.local_device"),
            "initialize": [_of("plain_errors"), _of("monaiseg.distributed.join")],
            "finalize": [_of("monaiseg.distributed.leave")],
        },
        "inference_torchscript": {
            "network_def": {
                "_target_": "torch.jit.load",
                "f": f"$@ckpt_dir + '/{TORCHSCRIPT_FILE}'",
            },
            "handlers#0#_disabled_": True,
        },
    }


# ---------------------------------------------------------------- the configurations


def _of(name: str, **arguments: Any) -> Config:
    """A part that a function or class makes; short names are those of `monaiseg.workflow`."""
    return {"_target_": name if "." in name else f"monaiseg.workflow.{name}", **arguments}


def _common(spacing: Spacing) -> Config:
    """What all of them begin with."""
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "ckpt_dir": "$@bundle_root + '/models'",
        "defaults": _of("bundle_settings", bundle_root="@bundle_root"),
        "settings": _of("changed_settings", settings="@defaults"),
        "labels": _of("bundle_labels", bundle_root="@bundle_root", settings="@settings"),
        "spacing": list(spacing),
        "device": _of("device", settings="@settings"),
        "network_def": _of("network", settings="@settings", labels="@labels", spacing="@spacing"),
        "network": "$@network_def.to(@device)",
    }


def _train(spacing: Spacing) -> Config:
    common = _common(spacing)
    common["settings"] |= {
        "tsk_set.epochs": "@max_epochs",
        "tsk_set.val_period": "@val_interval",
    }
    return {
        **common,
        "resume": False,
        "max_epochs": "$@defaults.tsk_set.epochs",
        "val_interval": "$@defaults.tsk_set.val_period",
        "data_task": _data_task(),
        "loss": _of("loss", settings="@settings", labels="@labels"),
        "optimizer": _of("optimizer", network="@network", settings="@settings"),
        "train": _train_section(),
        "validate": _validate_section(),
        "training": _of(
            "BundleTraining",
            settings="@settings",
            task="@data_task",
            trainer="@train::trainer",
            evaluator="@validate::evaluator",
            spacing="@spacing",
            output_dir="@output_dir",
            ckpt_dir="@ckpt_dir",
            resume="@resume",
        ),
        "initialize": [_of("plain_errors")],
        "run": ["$@training.run()"],
        "finalize": [],
    }


def _train_section() -> Config:
    """What trains."""
    return {
        **_prepared("train", for_training=True),
        "dataloader": _of(
            "monaiseg.loaders.training_loader",
            dataset="@train::dataset",
            settings="@settings",
            table="@labels",
            device="@device",
        ),
        "inferer": _of("monaiseg.engines.build_inferer", settings="@settings", device="@device"),
        "handlers": [],
        "trainer": _of(
            "monaiseg.engines.build_trainer",
            settings="@settings",
            network="@network",
            optimizer="@optimizer",
            loss_function="@loss",
            train_data_loader="@train::dataloader",
            device="@device",
            max_epochs="@max_epochs",
            inferer="@train::inferer",
            train_handlers="@train::handlers",
        ),
    }


def _validate_section() -> Config:
    """What validates."""
    return {
        **_prepared("validate", for_training=False),
        "dataloader": _of("monaiseg.loaders.case_loader", dataset="@validate::dataset"),
        "inferer": _window(),
        "key_metric": _dice(),
        "handlers": [],
        "evaluator": _of(
            "monaiseg.engines.build_evaluator",
            network="@network",
            loader="@validate::dataloader",
            settings="@settings",
            table="@labels",
            device="@device",
            inferer="@validate::inferer",
            key_val_metric="@validate::key_metric",
            val_handlers="@validate::handlers",
        ),
    }


def _evaluate(spacing: Spacing) -> Config:
    data = _of("evaluation_data", task="@data_task", split="@split")
    return {
        **_common(spacing),
        "split": "test",
        "ckpt_path": f"$@ckpt_dir + '/{WEIGHTS_FILE}'",
        "data_task": _data_task(),
        **_whole_cases(data),
        "postprocessing": _chain(
            _of("monaiseg.transforms.ToFileGridd", chain="@preprocessing"),
            _of("monaiseg.transforms.ReadReferenced", table="@labels"),
        ),
        "key_metric": _dice(),
        "handlers": [
            _weights(),
            _of(
                "ReportScores",
                folder="@output_dir",
                labels="@labels",
                split="@split",
                model="@ckpt_path",
            ),
        ],
        "evaluator": _engine(key_val_metric="@key_metric"),
        "initialize": [_of("plain_errors")],
        "run": ["$@evaluator.run()"],
    }


def _inference(spacing: Spacing) -> Config:
    data = _of(
        "inference_data",
        dataset_dir="@dataset_dir",
        output_dir="@output_dir",
        settings="@settings",
    )
    return {
        **_common(spacing),
        "ckpt_path": f"$@ckpt_dir + '/{WEIGHTS_FILE}'",
        **_whole_cases(data),
        "postprocessing": _chain(
            _of("monaiseg.transforms.ToFileGridd", chain="@preprocessing"),
            _of("monaiseg.transforms.LabelValuesd", table="@labels"),
        ),
        "handlers": [
            _weights(),
            _of("WriteLabelMaps", folder="@output_dir", labels="@labels"),
        ],
        "evaluator": _engine(),
        "initialize": [_of("plain_errors")],
        "run": ["$@evaluator.run()"],
    }


def _data_task() -> Config:
    return _of(
        "data_task",
        dataset_dir="@dataset_dir",
        output_dir="@output_dir",
        bundle_root="@bundle_root",
        settings="@settings",
        labels="@labels",
    )


def _prepared(section: str, *, for_training: bool) -> Config:
    split = "train" if for_training else "val"
    beside = {} if for_training else {"beside": "@train::dataset"}
    return {
        "preprocessing": _of(
            "monaiseg.transforms.cached_chain",
            settings="@settings",
            table="@labels",
            for_training=for_training,
        ),
        "dataset": _of(
            "training_dataset",
            data=_of("training_data", task="@data_task", split=split, settings="@settings"),
            transform=f"@{section}::preprocessing",
            settings="@settings",
            labels="@labels",
            task="@data_task",
            **beside,
        ),
    }


def _whole_cases(data: Config) -> Config:
    return {
        "preprocessing": _of("monaiseg.transforms.inference_chain", settings="@settings"),
        "dataset": _of("monai.data.Dataset", data=data, transform="@preprocessing"),
        "dataloader": _of("monai.data.DataLoader", dataset="@dataset", batch_size=1),
        "inferer": _window(),
    }


def _window() -> Config:
    return _of(
        "monaiseg.inference.SlidingWindow",
        settings="@settings",
        num_classes="$@labels.num_classes",
        device="@device",
    )


def _dice() -> Config:
    return {"dice": _of("monaiseg.handlers.DiceOfLabels", num_classes="$@labels.num_classes")}


def _weights() -> Config:
    return _of(
        "monai.handlers.CheckpointLoader",
        load_path="@ckpt_path",
        load_dict={"model": "@network"},
        map_location="@device",
    )


def _chain(*transforms: Config) -> Config:
    return _of("monai.transforms.Compose", transforms=list(transforms))


def _engine(**more: Any) -> Config:
    return _of(
        "monai.engines.SupervisedEvaluator",
        device="@device",
        val_data_loader="@dataloader",
        network="@network",
        inferer="@inferer",
        postprocessing="@postprocessing",
        val_handlers="@handlers",
        **more,
    )


# ---------------------------------------------------------------- files


def _kept(table: LabelTable, settings: Settings) -> LabelTable:
    """The labels that the settings keep, as many as they say."""
    values = settings.dataset.seg.interested_label_list
    labels = table if -1 in values else table.restricted_to(values)
    class_num = settings.tsk_set.seg.class_num
    if class_num not in (-1, labels.num_classes):
        raise SettingsError(
            f"tsk_set.seg.class_num: {class_num}, but there are {labels.num_classes} labels with background; use "
            f"{labels.num_classes}, or -1"
        )
    return labels


def _without_places(settings: Settings) -> Settings:
    """The settings without what belongs to one computer or one training."""
    places = ("output_root_path", "data_task_name", "task_name", "model_path")
    return changed(
        settings, {f"tsk_set.{name}": "" for name in places} | {"tsk_set.continue_train": False}
    )


def _check_replaceable(folder: Path) -> None:
    """Raises SettingsError where a folder holds something that is no bundle."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder}: is a file; give a folder, or a name that ends in .zip")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "configs").is_dir():
        raise SettingsError(f"{folder}: holds something that is no bundle; give a new folder")


def _json(document: Any) -> str:
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def _card(metadata: Mapping[str, Any]) -> str:
    """A model card to be completed by who knows the data."""
    return f"""\
# {metadata["name"]}

{metadata["description"]}

Intended use: {metadata["intended_use"]}

Data: {metadata["data_source"]}. No score of this bundle has been stated; this measures it on held-out scans:

```bash
python -m monai.bundle run --config_file configs/evaluate.json --dataset_dir SCANS
```

Train, and label new scans:

```bash
python -m monai.bundle run --config_file configs/train.json --dataset_dir SCANS
python -m monai.bundle run --config_file configs/inference.json --dataset_dir NEW_SCANS
```

`configs/settings.json` holds every choice; `monaiseg bundle lint .` finds faults.
"""


def _zipped(folder: Path) -> bytes:
    """The folder as a zip file; equal folders give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(Path(folder.name) / path.relative_to(folder))
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_STORED)
    return buffer.getvalue()
