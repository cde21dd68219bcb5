"""Prediction: apply a checkpoint to an image, giving a label map with the image's own grid.

The label map has the same label values as the training data, in the smallest integer type, and the names and colours of
the label table in its header.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    read_header,
    write_label_map,
)
from monaiseg.errors import (
    CheckpointError,
    DataError,
    MonaisegWarning,
    SettingsError,
)
from monaiseg.networks import network_of, sliding_window_class_map, window_options, window_shape
from monaiseg.settings import Settings, parse_settings
from monaiseg.training import Checkpoint, check_weights, choose_device, load_checkpoint
from monaiseg.transforms import (
    case_item,
    inference_chain,
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


def prediction_bytes(settings: Settings, grid: Grid) -> int:
    """Least memory in bytes to predict a scan on `grid`: the scan as read and as resampled, and two copies of each.

    MONAI resamples in float64. The sliding window also keeps a slab of features, which is small in comparison.
    """
    channels = settings.dataset.num_channels
    voxels, resampled = math.prod(grid.shape), math.prod(target_shape(grid, settings))
    return channels * (8 * voxels + 16 * resampled) + 4 * voxels
