"""Components that the configurations of a bundle use: the parts of training, evaluation and inference.

A *bundle* is a folder for MONAI's bundle runner. Its `configs/settings.json` and `configs/labels.csv` hold all
settings and labels. The other configurations connect the parts built from them, and the command line can replace any
part. `defaults` are the settings in the file; `settings` also include the changes from the command line.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator
from monai.engines.trainer import SupervisedTrainer
from torch import Tensor, nn
from torch.optim import Optimizer

from monaiseg.data import (
    CACHE_FOLDER,
    PATHS_FILE,
    DataTask,
    LabelTable,
    Spacing,
    case_id_of,
    check_unchanged,
    find_images,
    kept_labels,
    load_label_table,
    planned_outputs,
    prediction_name,
    read_data_task,
    read_header,
    write_label_map,
)
from monaiseg.errors import DataError, SettingsError, own_error
from monaiseg.evaluation import CaseScores, Evaluation, score_case, write_report
from monaiseg.files import make_folder, write_atomic
from monaiseg.networks import ResidualUNet, SegmentationLoss, build_loss
from monaiseg.preparation import prepare
from monaiseg.settings import Settings, changed, load_settings
from monaiseg.training import (
    CachedCases,
    Recipe,
    RunFolder,
    TrainingResult,
    build_optimizer,
    case_ids,
    device_of,
    distributed,
    first_state,
    fit,
    initial_network,
    limited,
    load_checkpoint,
    opened,
    placed,
    prepare_items,
    train_handlers,
    validated,
)
from monaiseg.transforms import CaseChain, Item, case_item

SETTINGS_FILE = "configs/settings.json"
LABELS_FILE = "configs/labels.csv"
WEIGHTS_FILE = "model.pt"
DATA_FOLDER = "data"
"""Folder in `output_dir` for the data task prepared from a raw dataset."""
RUN_FOLDER = "training"
"""Folder in `output_dir` for the checkpoints, history and log of a run."""

log = logging.getLogger("monaiseg")
_begun: dict[str, float] = {}
"""Start time of the training workflow in this process, by `time.monotonic`."""


def start_clock() -> None:
    """Start the clock of a time budget, which includes reading and preparing the data."""
    _begun["training"] = time.monotonic()


def plain_errors() -> None:
    """Show only the message of an error that a user can fix; all other errors keep their traceback.

    MONAI's runner wraps each exception of a part in its own, with a long traceback.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = own_error(error)
        if cause is None:
            sys.__excepthook__(kind, error, trace)
        else:
            sys.stderr.write(f"{cause}\n")

    sys.excepthook = show


def bundle_settings(bundle_root: str) -> Settings:
    """The settings of a bundle."""
    return load_settings(Path(bundle_root) / SETTINGS_FILE)


def changed_settings(settings: Settings, **changes: Any) -> Settings:
    """The settings with changed values, given by path as in `--settings#tsk_set.batch_size 4`.

    Raises:
        SettingsError: the settings have no such path, or do not allow the value.
    """
    return changed(settings, changes, source="command line")


def bundle_labels(bundle_root: str, settings: Settings) -> LabelTable:
    """The labels of a bundle's network."""
    table = load_label_table(Path(bundle_root) / LABELS_FILE)
    return kept_labels(table, settings, LABELS_FILE)


def device(settings: Settings) -> torch.device:
    """The device in the settings or, if they name none, the first GPU or else the CPU."""
    return device_of(settings)


def network(
    settings: Settings, labels: LabelTable, spacing: Sequence[float], **changes: Any
) -> ResidualUNet:
    """The network before its first step.

    Raises:
        SettingsError: `changes` are given; `--network_def#channels 16`, for example, would bypass the settings.
    """
    _refuse("network_def", "tsk_set.network", changes)
    return initial_network(settings, labels, as_spacing(spacing))


def loss(settings: Settings, labels: LabelTable) -> SegmentationLoss:
    """The loss in the settings. Its sums over a batch include all processes that train together."""
    return build_loss(
        settings.tsk_set.loss,
        labels.num_classes,
        has_ignored=labels.ignored_index is not None,
        summed=distributed.summed,
    )


def optimizer(network: nn.Module, settings: Settings, **changes: Any) -> Optimizer:
    """The optimiser in the settings.

    Raises:
        SettingsError: `changes` are given; `--optimizer#lr 0.01`, for example, would bypass the settings.
    """
    _refuse("optimizer", "tsk_set.optim", changes)
    return build_optimizer(network, settings.tsk_set.optim)


def _refuse(part: str, section: str, changes: Mapping[str, Any]) -> None:
    """Raise SettingsError if `changes` are given: all parts use the settings that are saved with the run."""
    for name, value in changes.items():
        raise SettingsError(
            f"--{part}#{name}: give it as --settings#{section}.{name} {value}, so that it is saved with the run"
        )


def as_spacing(spacing: Sequence[float]) -> Spacing:
    """Voxel size in mm along X, Y, Z from three numbers."""
    x, y, z = (float(size) for size in spacing)
    return x, y, z


def data_task(
    dataset_dir: str, output_dir: str, bundle_root: str, settings: Settings, labels: LabelTable
) -> DataTask:
    """The data task in `dataset_dir`. If that is a raw dataset, a data task is prepared from it in `output_dir`.

    A dataset is prepared with the defaults of `monaiseg prepare` and the labels of the bundle.

    Raises:
        SettingsError: the labels of the data task differ from those of the bundle.
        DataError, SettingsError: see `read_data_task` and `prepare`.
    """
    folder = Path(dataset_dir)
    if any((folder / split / PATHS_FILE).is_file() for split in ("train", "val", "test")):
        task = read_data_task(folder)
        if task.label_table(settings).digest() != labels.digest():
            raise SettingsError(
                f"{folder}: does not have the labels of {LABELS_FILE} (values, names or partners); prepare the data with "
                f"`--label-table {LABELS_FILE}`, or build the bundle for these data with `monaiseg bundle build`"
            )
        return task
    if not folder.is_dir():
        raise DataError(
            f"{folder}: is not a folder; give the folder of a dataset, raw or prepared, as --dataset_dir"
        )
    if distributed.is_first():
        prepare(folder, output_dir, DATA_FOLDER, label_table=Path(bundle_root) / LABELS_FILE)
    distributed.exchanged("prepared")  # the other processes wait here
    return read_data_task(Path(output_dir) / DATA_FOLDER)


def reading_settings(task: DataTask, settings: Settings, split: str = "train") -> Settings:
    """The settings for reading the cases of a split. Volumes from `prepare --preprocess` are not preprocessed again.

    Raises:
        SettingsError: the volumes were prepared with different settings.
    """
    return task.as_read(settings, split)


def training_data(task: DataTask, split: str, settings: Settings) -> list[Item]:
    """The items of train or val, up to the limits in the settings. Each of several processes validates a share."""
    chosen = limited if split == "train" else validated
    return [case_item(case) for case in chosen(task, split, settings)]


def training_dataset(
    data: Sequence[Item],
    transform: CaseChain,
    settings: Settings,
    labels: LabelTable,
    task: DataTask,
    beside: Any = None,
    network: nn.Module | None = None,
) -> CachedCases:
    """Items after the deterministic chain, kept where the settings say.

    Args:
        data: items from `training_data`.
        transform: the deterministic chain.
        settings: settings for reading the cases.
        labels: label table of the network.
        task: data task of the cases.
        beside: items already kept in memory.
        network: the network that learns from these items, if they are to be placed in its atlas.
    """
    folder = task.folder / CACHE_FOLDER
    taken = getattr(beside, "memory_bytes", 0)
    cases = prepare_items(data, transform, settings, labels, folder, taken_bytes=taken)
    prior = getattr(network, "prior", None)
    return cases if prior is None else placed(cases, prior, labels, task.persons)


def evaluation_data(task: DataTask, split: str) -> list[Item]:
    """Items of a split, each with its image and reference files.

    Raises:
        DataError: the split is empty, or some cases have no reference.
    """
    cases = task.cases.get(split, ())
    lone = [case.id for case in cases if case.label is None]
    if not cases or lone:
        raise DataError(
            f"{task.folder}: split {split!r} has {f'no label map for {lone[0]}' if lone else 'no cases'}; choose "
            "another split, or prepare the data again"
        )
    check_unchanged(cases, task.facts)
    return [
        {
            "image": [str(path) for path in case.images],
            "reference": str(case.label),
            "case_id": case.id,
        }
        for case in cases
    ]


def inference_data(dataset_dir: str, output_dir: str, settings: Settings) -> list[Item]:
    """Items of the images in a folder.

    Raises:
        SettingsError: there are no images, or predictions in `output_dir` would overwrite each other or an image.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise SettingsError(
            f"{folder}: is not a folder; give the folder of the images as --dataset_dir"
        )
    images = find_images([folder], Path(output_dir), settings.dataset.num_channels)
    planned_outputs(images, output_dir)
    return [case_item(case) for case in images]


def recipe(
    settings: Settings,
    task: DataTask,
    labels: LabelTable,
    spacing: Sequence[float],
    device: torch.device | str,
) -> Recipe:
    """The recipe of the run. `device` can be a name, as in `--device cpu`."""
    place = torch.device(device)
    return Recipe.of(settings, task, place, table=labels, spacing=as_spacing(spacing))


class BundleTraining:
    """Training of a bundle's network: runs in `output_dir` and writes the best weights to `ckpt_dir`.

    Args:
        recipe: recipe of the run.
        trainer: trainer built by `monaiseg.training.build_trainer`.
        evaluator: evaluator for the validation; not used if there are no validation cases.
        network: network to train, from `network`.
        output_dir: folder that contains the run folder.
        ckpt_dir: folder of `model.pt`.
        resume: continue the run in `output_dir` from its last commit.
        accept_inexact: with `resume`, continue even if threads, versions or settings have changed.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainer: SupervisedTrainer,
        evaluator: SupervisedEvaluator,
        network: nn.Module,
        output_dir: str,
        ckpt_dir: str,
        resume: bool = False,
        accept_inexact: bool = False,
    ) -> None:
        self.recipe, self.trainer, self.network = recipe, trainer, network
        self.resume, self.accept_inexact = resume, accept_inexact
        self.weights = Path(ckpt_dir) / WEIGHTS_FILE
        self.folder = RunFolder(Path(output_dir).absolute() / RUN_FOLDER)
        self.evaluators = {"val": evaluator} if evaluator.state.epoch_length else {}
        self.started = _begun.pop("training", None)

    def run(self) -> TrainingResult:
        """Train to the end, and write the best weights.

        Raises:
            SystemExit: a signal asked to stop. The exit code is 130; the step has been committed, and the best weights
                so far have been written.
        """
        with opened(self.folder, resume=self.resume):
            result = self._train()
            if distributed.is_first():
                write_weights(load_checkpoint(self.folder.path).weights, self.weights)
        if result.interrupted:
            step = self.trainer.state.iteration
            self._say(
                f"stopped and saved after step {step}; to continue, add --resume True to the same command"
            )
            distributed.leave()
            raise SystemExit(130)
        return result

    def _train(self) -> TrainingResult:
        state = first_state(
            self.recipe,
            self.network,
            self.trainer.optimizer,
            self.folder,
            steps=self.trainer.state.epoch_length,
            started=self.started,
            resume=self.resume,
            accept_inexact=self.accept_inexact,
        )
        for handler in train_handlers(self.recipe, state, self.folder, self.evaluators):
            handler.attach(self.trainer)
        return fit(self.trainer, self.recipe, state, self.folder, self._say)

    def _say(self, line: str) -> None:
        if distributed.is_first():
            log.info(line)


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as in MONAI's bundles: a plain dictionary of tensors, for `torch.load(weights_only=True)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(weights), buffer)
    write_atomic(path, buffer.getvalue())


class ReportScores:
    """Writes `scores.csv` and `summary.json` of an evaluation. Its cases must have `label` and `spacing`.

    Args:
        folder: folder to write to.
        labels: label table of the network.
        split: name of the split, for the report.
        model: name of the model, for the report.
    """

    def __init__(self, folder: str, labels: LabelTable, split: str, model: str) -> None:
        self.folder, self.labels, self.split, self.model = Path(folder), labels, split, model
        self._cases: list[CaseScores] = []
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Score each case, and write the report at the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self._cases = []

    def _start_clock(self) -> None:
        self._since = time.perf_counter()

    def _score(self, engine: Engine) -> None:
        seconds = time.perf_counter() - self._since
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        for case_id, maps in zip(case_ids(batch), output, strict=True):
            known = maps["label"][0].numpy()
            labelled = known < self.labels.num_classes  # all others are ignored
            reference, prediction = (
                self.labels.label_values(np.where(labelled, classes, 0))
                for classes in (known, maps["pred"][0].numpy())
            )
            scored = score_case(case_id, reference, prediction, self.labels, maps["spacing"])
            self._cases.append(replace(scored, seconds=seconds))

    def _write(self) -> None:
        report = Evaluation(tuple(self._cases), self.labels, self.model, self.split)
        write_report(report, self.folder)


class WriteLabelMaps:
    """Writes `pred` of each case, with label values on the grid of its file, to `<name>_pred.nii.gz`.

    The file also contains the names and colours of the labels.

    Args:
        folder: folder to write to.
        labels: label table of the network.
    """

    def __init__(self, folder: str, labels: LabelTable) -> None:
        self.folder, self.labels = Path(folder), labels

    def attach(self, engine: Engine) -> None:
        """Write each case after its inference."""
        engine.add_event_handler(Events.STARTED, make_folder, self.folder)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, made in zip(batch, output, strict=True):
            image = item["image"].meta["filename_or_obj"]
            write_label_map(
                self.folder / prediction_name(item.get("case_id") or case_id_of([Path(image)])),
                made["pred"][0].numpy(),
                read_header(image).grid,
                like=image,
                table=self.labels,
            )
