"""Prediction: apply a checkpoint to an image, giving a label map with the image's own grid.

The label map has the same label values as the training data, in the smallest integer type, and the names and colours of
the label table in its header.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monaiseg.data import (
    Case,
    Grid,
    LabelTable,
    case_id_of,
    files_of,
    planned_outputs,
    read_header,
    write_label_map,
)
from monaiseg.errors import (
    CheckpointError,
    DataError,
    MonaisegError,
    MonaisegWarning,
    SettingsError,
    collecting,
    lack_of_memory,
    listed,
)
from monaiseg.files import make_folder
from monaiseg.machine import free_memory
from monaiseg.networks import network_of, sliding_window_class_map, window_options, window_shape
from monaiseg.settings import Settings, dump_settings, parse_settings, settings_from_dict
from monaiseg.training import Checkpoint, check_weights, choose_device, load_checkpoint
from monaiseg.transforms import (
    case_item,
    inference_chain,
    resize_note,
    target_shape,
    to_file_grid,
)

Progress = Callable[[int, int], None]
"""Called with the number of windows done and the number of all windows."""

OTHER_SPACING = 1.25
"""Voxel sizes that differ by more than this factor cause a warning: augmentation rarely scales by more."""


@dataclass(frozen=True)
class PredictedFile:
    """A prediction that was written."""

    image: Path
    """The case's first image."""
    output: Path
    """The label map."""
    voxels: dict[int, int]
    """Number of voxels of each label value in the label map."""
    voxel_ml: float
    """Volume of a voxel in millilitres."""


class Predictor:
    """A trained network with everything needed to use it: settings, label table and transform chain.

    Args:
        checkpoint: a checkpoint, its file, or the folder of a training run (then the best checkpoint is used).
        device: "cpu", "cuda:0", ...; None for the first GPU if there is one, else the CPU.
        overlap: share of the patch that neighbouring windows have in common; None for that of the training run.
        flips: axes (0 X, 1 Y, 2 Z) along which windows are also flipped, averaging the scores (test-time augmentation);
            None for those in the settings of the training run.

    Raises:
        CheckpointError: the checkpoint is damaged, or its weights do not fit the network that it describes.
        SettingsError: `overlap` is not in [0, 1), or `flips` has other values than the axes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | Path,
        *,
        device: str | torch.device | None = None,
        overlap: float | None = None,
        flips: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = load_checkpoint(checkpoint)
        self.settings, self.table = _described(checkpoint)
        self.device = choose_device(device)
        self.spacing = checkpoint.spacing
        if overlap is not None and not 0 <= overlap < 1:
            raise SettingsError(f"overlap: {overlap} is no share of the patch; use 0 to 0.95")
        if strange := set(flips or ()) - {0, 1, 2}:
            raise SettingsError(f"flips: {min(strange)} is no axis; use 0 (X), 1 (Y) and 2 (Z)")
        self._window = window_options(
            self.settings, self.table, None if flips is None else tuple(flips)
        )
        if overlap is not None:
            self._window["overlap"] = (overlap,) * 3
        network = network_of(self.settings, self.table, checkpoint.spacing)
        network.load_state_dict(checkpoint.weights)
        self.network = network.to(self.device).eval()
        self._chain = inference_chain(self.settings)

    def predict(
        self, image: str | Path | Sequence[str | Path], on_progress: Progress | None = None
    ) -> NDArray[Any]:
        """Predict the label map of one case: label values (X, Y, Z) in the axis order of its file.

        Args:
            image: the image file, or one file per channel in the same order as in training.
            on_progress: called after each window with the number of windows done and of all windows.

        Raises:
            DataError: an image cannot be used, or there are more or fewer channels than the network takes.
        """
        files = files_of(image)
        case = Case(id=case_id_of(files), images=files)
        item = self._chain(case_item(case))
        volume = item["image"]
        self._check_spacing(files[0])
        if float(volume.min()) == float(volume.max()):
            warnings.warn(
                f"{', '.join(map(str, files))}: holds one value only where the network looks; its label map says nothing",
                MonaisegWarning,
                stacklevel=2,
            )
        class_map = sliding_window_class_map(
            self.network,
            volume.as_tensor()[None],
            window_shape(self.settings, volume.shape[1:]),
            device=self.device,
            on_progress=on_progress,
            **self._window,
        )
        classes = to_file_grid(class_map, item, self._chain)
        expected = read_header(files[0]).grid.shape
        assert classes.shape == expected, f"{classes.shape} came back for {expected}"
        return self.table.label_values(classes)

    def _check_spacing(self, image: Path) -> None:
        """Warn if the voxel size differs from that of the training data and the image is not resampled."""
        settings = self.settings
        if settings.spacing_mm is not None or settings.image_shape is not None:
            return
        _, found = read_header(image).grid.along_ras
        pairs = zip(found, self.spacing, strict=True)
        if any(max(pair) > OTHER_SPACING * min(pair) for pair in pairs):
            words = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (found, self.spacing))
            warnings.warn(
                f"{image}: voxels of {' mm, where the network was laid out for '.join(words)} mm; its settings have no "
                "dataset.spacing, so it works on them as they are: look at what it labels",
                MonaisegWarning,
                stacklevel=3,
            )

    def predict_file(
        self,
        image: str | Path | Sequence[str | Path],
        output: str | Path,
        on_progress: Progress | None = None,
    ) -> PredictedFile:
        """Predict one case and write its label map as NIfTI, with the image's grid and header codes.

        Raises:
            DataError: as `predict`.
            StorageError: `output` cannot be written.
        """
        files = files_of(image)
        labels = self.predict(files, on_progress)
        grid = read_header(files[0]).grid
        write_label_map(output, labels, grid, like=files[0], table=self.table)
        values, counts = np.unique(labels, return_counts=True)
        voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
        return PredictedFile(files[0], Path(output), voxels, grid.voxel_volume_mm3 / 1000)


FROM_TRAINING = (
    "num_channels",
    "spacing",
    "intensity",
    "seg.patch_size",
    "seg.interested_label_list",
    "seg.use_whole_img_as_input",
)
"""Keys of `dataset` that always keep their values from training."""


def as_evaluated(checkpoint: Checkpoint, wanted: Settings) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with the settings for an evaluation applied, and notes.

    If set, the settings for the evaluation determine the size that images are resampled to and how volumes are tiled,
    as in EasyReg, where training may have read images that were resized beforehand. All other settings stay as in
    training.

    Raises:
        SettingsError: the tiles do not fit the patch size of the training run.
    """
    trained = parse_settings(checkpoint.settings, source=str(checkpoint.path))
    document, said = trained.model_dump(mode="json"), wanted.model_dump(exclude_unset=True)
    dataset, said_of_data = document["dataset"], said.get("dataset", {})
    if wanted.image_shape is not None:
        dataset["img_after_resize"] = wanted.image_shape
    if partition := said_of_data.get("seg", {}).get("partition"):
        if partition.get("overlap_size") is None and "overlap" in partition:
            partition["overlap_size"] = None  # or that from training would win
        dataset["seg"]["partition"] |= partition
    kept = [f"dataset.{key}" for key in FROM_TRAINING if _differs(said_of_data, dataset, key)]
    notes = [f"{', '.join(kept)}: as in training, not as these settings say"] if kept else []
    settings = settings_from_dict(document, "settings of the evaluation")
    if wanted.image_shape is not None and (note := resize_note(settings)):
        notes.append(note)
    return with_settings(checkpoint, settings), notes


def _differs(said: Any, holds: Any, path: str) -> bool:
    """Whether `said` has a value at or below the path that differs from that in `holds`."""
    name, _, rest = path.partition(".")
    if name not in said:
        return False
    value, held = said[name], holds[name]
    if rest:
        return _differs(value, held, rest)
    if isinstance(value, dict):
        return any(_differs(value, held, key) for key in value)
    return bool(value != (tuple(held) if isinstance(held, list) else held))


def with_settings(checkpoint: Checkpoint, settings: Settings) -> Checkpoint:
    """The same network with other settings."""
    return replace(checkpoint, settings=dump_settings(settings))


def _described(checkpoint: Checkpoint) -> tuple[Settings, LabelTable]:
    """Settings and label table of a checkpoint, after checking that its weights fit the network they describe.

    The network is first built on the meta device, without memory: a file may describe one too large for any computer.
    """
    try:
        settings = parse_settings(checkpoint.settings, source="its settings")
        table = LabelTable.from_records(checkpoint.labels)
        with torch.device("meta"):
            network = network_of(settings, table, checkpoint.spacing)
    except (SettingsError, DataError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: describes no network that can be built: {error}; use another checkpoint"
        ) from error
    check_weights(checkpoint.weights, network.state_dict(), checkpoint.path)
    return settings, table


def predict_files(
    predictor: Predictor,
    images: Iterable[Sequence[str | Path]],
    folder: str | Path,
    *,
    overwrite: bool = False,
) -> Iterator[PredictedFile]:
    """Predict cases one after the other and write the label maps to `folder` as `<name>_pred.nii.gz`.

    Existing label maps are kept, as they may have been corrected by hand. If a case cannot be predicted, the others are
    predicted nevertheless.

    Args:
        predictor: the trained network.
        images: the files of each case.
        folder: folder for the label maps; created if missing.
        overwrite: predict cases with an existing label map again.

    Raises:
        SettingsError: two label maps would have the same path, or an output would overwrite an input.
        DataError: headers cannot be read, reported before the first prediction; or volumes cannot be used or need more
            memory than there is, reported after all other cases are predicted.
        StorageError: `folder` cannot be written to.
    """
    plan = planned_outputs(images, folder)
    problems: list[str] = []
    for file in (file for files, _ in plan for file in files):
        with collecting(problems):
            read_header(file)
    if problems:
        raise DataError(listed(problems))
    make_folder(folder)
    for files, output in plan:
        if output.exists() and not overwrite:
            continue
        with collecting(problems):
            yield _predicted(predictor, files, output)
    if problems:
        raise DataError(listed(problems))


def _predicted(predictor: Predictor, files: tuple[Path, ...], output: Path) -> PredictedFile:
    """Predict one case; a lack of memory becomes a DataError of this case, so that the other cases continue."""
    need, free = prediction_bytes(predictor.settings, read_header(files[0]).grid), free_memory()
    if need > free:
        raise DataError(
            _too_large(
                files[0],
                f"needs about {need / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are free",
            )
        )
    try:
        return predictor.predict_file(files, output)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MonaisegError) or (lack := lack_of_memory(error)) is None:
            raise
        raise DataError(
            _too_large(files[0], f"memory ran out on {predictor.device} ({lack})")
        ) from error


def _too_large(image: Path, why: str) -> str:
    return (
        f"{image}: {why}; close other programs, crop the scan, or use a computer with more memory. The other scans were "
        "predicted"
    )


def prediction_bytes(settings: Settings, grid: Grid) -> int:
    """Least memory in bytes to predict a scan on `grid`: the scan as read and as resampled, and two copies of each.

    MONAI resamples in float64. The sliding window also keeps a slab of features, which is small in comparison.
    """
    channels = settings.dataset.num_channels
    voxels, resampled = math.prod(grid.shape), math.prod(target_shape(grid, settings))
    return channels * (8 * voxels + 16 * resampled) + 4 * voxels


def volumes_csv(files: Iterable[PredictedFile], table: LabelTable) -> str:
    """CSV text with a row per scan and foreground label: number of voxels and volume in ml, 0 if it was not found."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "value", "name", "voxels", "volume_ml"])
    for file in files:
        for label in table.foreground:
            voxels = file.voxels.get(label.value, 0)
            writer.writerow(
                [file.image.name, label.value, label.name, voxels, f"{voxels * file.voxel_ml:.6g}"]
            )
    return text.getvalue()
