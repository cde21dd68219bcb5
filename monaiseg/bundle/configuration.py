"""Configurations of a bundle: how the parts of training, evaluation and inference are connected.

They name functions of monaiseg, under the names that MONAI's tools expect (`monai/bundle/properties.py`), and contain
no chains and no defaults. MONAI's runner executes every text that starts with `$` as code; there are few such lines.
"""

from __future__ import annotations

from typing import Any

from monaiseg.bundle.components import WEIGHTS_FILE
from monaiseg.data import Spacing

Config = dict[str, Any]
ISOTROPIC: Spacing = (1.0, 1.0, 1.0)
TORCHSCRIPT_FILE = "model.ts"
WORKFLOWS = ("train", "evaluate", "inference")
MIXINS = {"multi_gpu_train": "train", "inference_torchscript": "inference"}
"""Configurations that are merged into another one, and the name of that one."""
LOGGING = """\
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


def configurations(spacing: Spacing = ISOTROPIC) -> dict[str, Config]:
    """The configurations by name; those in `MIXINS` are merged into others."""
    return {
        "train": _train(spacing),
        "evaluate": _evaluate(spacing),
        "inference": _inference(spacing),
        "multi_gpu_train": {
            "device": _of("monaiseg.training.distributed.local_device"),
            "initialize": [
                _of("start_clock"),
                _of("plain_errors"),
                _of("monaiseg.training.distributed.join"),
            ],
            "finalize": [_of("monaiseg.training.distributed.leave")],
        },
        "inference_torchscript": {
            "network_def": {
                "_target_": "torch.jit.load",
                "f": f"$@ckpt_dir + '/{TORCHSCRIPT_FILE}'",
            },
            "handlers#0#_disabled_": True,
        },
    }


def _of(name: str, **arguments: Any) -> Config:
    """A part built by a function or class; a name without a dot is looked up in `monaiseg.bundle.components`."""
    return {"_target_": name if "." in name else f"monaiseg.bundle.components.{name}", **arguments}


def _common(spacing: Spacing) -> Config:
    """The keys that all workflows share."""
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
        "tsk_set.epochs": "@train::trainer::max_epochs",
        "tsk_set.val_period": "@val_interval",
    }
    return {
        **common,
        "resume": False,
        "accept_inexact": False,
        "max_epochs": "$@defaults.tsk_set.epochs",
        "val_interval": "$@defaults.tsk_set.val_period",
        **_data_task(),
        "loss": _of("loss", settings="@settings", labels="@labels"),
        "optimizer": _of("optimizer", network="@network", settings="@settings"),
        "train": _train_section(),
        "validate": _validate_section(),
        "recipe": _of(
            "recipe",
            settings="@settings",
            task="@data_task",
            labels="@labels",
            spacing="@spacing",
            device="@device",
        ),
        "training": _of(
            "BundleTraining",
            recipe="@recipe",
            trainer="@train::trainer",
            evaluator="@validate::evaluator",
            network="@network",
            output_dir="@output_dir",
            ckpt_dir="@ckpt_dir",
            resume="@resume",
            accept_inexact="@accept_inexact",
        ),
        "initialize": [_of("start_clock"), _of("plain_errors")],
        "run": ["$@training.run()"],
        "finalize": [],
    }


def _train_section() -> Config:
    """The section `train`: the trainer and its parts."""
    return {
        **_prepared("train", for_training=True),
        "dataloader": _of(
            "monaiseg.training.training_loader",
            dataset="@train::dataset",
            settings="@settings",
            table="@labels",
            device="@device",
        ),
        "inferer": _of("monaiseg.training.build_inferer", settings="@settings", device="@device"),
        "handlers": [],
        "trainer": _of(
            "monaiseg.training.build_trainer",
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
    """The section `validate`: the evaluator and its parts."""
    return {
        **_prepared("validate", for_training=False),
        "dataloader": _of("monaiseg.training.case_loader", dataset="@validate::dataset"),
        "inferer": _window() | {"mirrored": False},
        "key_metric": _dice(),
        "handlers": [],
        "evaluator": _of(
            "monaiseg.training.build_evaluator",
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
        **_data_task(split="@split"),
        **_whole_cases(data, settings="@reading"),
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
        **_whole_cases(data, settings="@settings"),
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


def _data_task(**split: str) -> Config:
    """The data task, and the settings for reading its volumes."""
    return {
        "data_task": _of(
            "data_task",
            dataset_dir="@dataset_dir",
            output_dir="@output_dir",
            bundle_root="@bundle_root",
            settings="@settings",
            labels="@labels",
        ),
        "reading": _of("reading_settings", task="@data_task", settings="@settings", **split),
    }


def _prepared(section: str, *, for_training: bool) -> Config:
    split = "train" if for_training else "val"
    beside = {"network": "@network"} if for_training else {"beside": "@train::dataset"}
    return {
        "preprocessing": _of(
            "monaiseg.transforms.cached_chain",
            settings="@reading",
            table="@labels",
            for_training=for_training,
        ),
        "dataset": _of(
            "training_dataset",
            data=_of("training_data", task="@data_task", split=split, settings="@settings"),
            transform=f"@{section}::preprocessing",
            settings="@reading",
            labels="@labels",
            task="@data_task",
            **beside,
        ),
    }


def _whole_cases(data: Config, settings: str) -> Config:
    return {
        "preprocessing": _of("monaiseg.transforms.inference_chain", settings=settings),
        "dataset": _of("monai.data.Dataset", data=data, transform="@preprocessing"),
        "dataloader": _of("monai.data.DataLoader", dataset="@dataset", batch_size=1),
        "inferer": _window(),
    }


def _window() -> Config:
    return _of(
        "monaiseg.networks.SlidingWindow",
        settings="@settings",
        table="@labels",
        device="@device",
    )


def _dice() -> Config:
    return {
        "dice": _of("monaiseg.training.handlers.DiceOfLabels", num_classes="$@labels.num_classes")
    }


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
