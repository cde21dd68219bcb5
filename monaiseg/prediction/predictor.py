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
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from monaiseg.data import (
    Case,
    ChannelProfile,
    Grid,
    VolumeHeader,
    apply_rules,
    as_files,
    axis_directions,
    case_id_of,
    files_of,
    like_image,
    read_header,
    write_label_map,
)
from monaiseg.errors import (
    MonaisegWarning,
    SettingsError,
)
from monaiseg.networks import (
    count_windows,
    window_options,
    window_shape,
)
from monaiseg.portable import LabelRule
from monaiseg.prediction.fitting import FittingWay
from monaiseg.prediction.models import opened
from monaiseg.settings import Settings
from monaiseg.training import Checkpoint
from monaiseg.transforms import (
    CERTAIN,
    Item,
    case_item,
    inference_chain,
    nearest_on_file_grid,
    preparing_bytes,
    target_shape,
    to_file_grid,
)

Progress = Callable[[int, int], None]
"""Called with the number of windows done and the number of all windows."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A case as the network takes it."""

    files: tuple[Path, ...]
    grid: Grid
    """Grid of the files."""
    item: Item
    """Output of the inference chain."""
    outside: tuple[str, ...]
    """In which ways the scan lies far outside of what the training saw, see `InputRange`."""


@dataclass(frozen=True, eq=False)
class Inference:
    """What the network finds in a scan, on its own grid."""

    classes: torch.Tensor
    """Class indices (X, Y, Z)."""
    margins: torch.Tensor | None
    """Margin between the best two classes (X, Y, Z) in 255ths, if asked for."""


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
    outside: tuple[str, ...] = ()
    """In which ways the scan lies far outside of what the training saw."""


class Predictor:
    """A trained network with everything needed to use it: settings, label table and transform chain.

    ```python
    import monaiseg
    import nibabel

    predictor = monaiseg.Predictor("work/scans/first")
    labels = predictor.predict("scan.nii.gz")  # a NumPy array of label values
    image = predictor.predict(nibabel.load("scan.nii.gz"))  # a nibabel image on the grid of the scan
    labels = predictor.predict((image.get_fdata(), image.affine))
    predictor.predict_file("scan.nii.gz", "scan_labels.nii.gz")
    ```

    Args:
        checkpoint: a checkpoint, its file, the folder of a training run (then the best checkpoint is used), or a portable
            model (.onnx).
        device: "cpu", "cuda:0", ...; None for the first GPU if there is one, else the CPU.
        overlap: share of the patch that neighbouring windows have in common; None for that of the training run.
        flips: axes (0 X, 1 Y, 2 Z) along which windows are also flipped, averaging the scores (test-time augmentation).
            True for those in the settings of the training run, False for none. None: those in the settings, unless the
            end of the training run showed that they do not raise the Dice of its validation cases.
        postprocessing: rules for the components of labels; None for those that were chosen on validation cases, if any.
        assume_orientation: axis directions, such as RAS, of scans whose headers do not give any; None refuses these.

    Raises:
        CheckpointError: the checkpoint is damaged, or its weights do not fit the network that it describes.
        SettingsError: `overlap` is not in [0, 1), `flips` has other values than the axes, or `assume_orientation` names
            no three directions.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | str | Path,
        *,
        device: str | torch.device | None = None,
        overlap: float | None = None,
        flips: Sequence[int] | bool | None = None,
        postprocessing: Sequence[LabelRule] | None = None,
        assume_orientation: str | None = None,
    ) -> None:
        model = opened(checkpoint)
        self.rules = model.rules if postprocessing is None else tuple(postprocessing)
        self.settings, self.table = model.settings, model.table
        self.spacing, self.channels = model.spacing, model.channels
        self.inputs = model.inputs
        if overlap is not None and not 0 <= overlap < 1:
            raise SettingsError(f"overlap: {overlap} is not a share of the patch; use 0 to 0.95")
        is_asked_for = flips is None and bool(self.settings.window_flips)
        self.mirroring = model.mirroring if is_asked_for else None
        if flips is None:
            flips = model.flips
        elif isinstance(flips, bool):
            flips = self.settings.window_flips if flips else ()
        if strange := set(flips) - {0, 1, 2}:
            raise SettingsError(f"flips: {min(strange)} is not an axis; use 0 (X), 1 (Y) and 2 (Z)")
        self.flips = tuple(flips)
        self._window = window_options(self.settings, self.table, self.flips)
        if overlap is not None:
            self._window["overlap"] = (overlap,) * 3
        self.network, self.device = model.on(device)
        self._way = FittingWay()
        self.orientation = assume_orientation and axis_directions(assume_orientation)
        self._chain = inference_chain(self.settings, profiled=True, orientation=self.orientation)

    def header(self, image: Path) -> VolumeHeader:
        """The header of an image, with the assumed orientation if it has none; raises DataError as `read_header`."""
        return read_header(image, orientation=self.orientation)

    @overload
    def predict(
        self, image: str | Path | Sequence[str | Path], on_progress: Progress | None = None
    ) -> NDArray[Any]: ...

    @overload
    def predict(self, image: Any, on_progress: Progress | None = None) -> Any: ...

    def predict(self, image: Any, on_progress: Progress | None = None) -> Any:
        """Predict the label map of one case: label values (X, Y, Z) in the axis order of its image.

        Args:
            image: the image file; one file per channel in the same order as in training; or an image in memory: a
                nibabel image, a pair of an array and an affine, a MONAI `MetaTensor`, or a TorchIO `Subject`.
            on_progress: called after each window with the number of windows done and of all windows.

        Returns:
            A NumPy array for files and arrays; otherwise a nibabel image, `MetaTensor` (1, X, Y, Z) or TorchIO `LabelMap`
            on the grid of the image.

        Raises:
            DataError: an image cannot be used, or there are more or fewer channels than the network takes.
        """
        with as_files(image) as files:
            scan = self.read(files)
            if scan.outside:
                warnings.warn(outside_note(scan.files, scan.outside), MonaisegWarning, stacklevel=2)
            return like_image(
                self.label_map(scan, self.infer(scan, on_progress)), image, self.table
            )

    def read(self, image: str | Path | Sequence[str | Path]) -> Scan:
        """Read one case and bring it to the network grid.

        Raises:
            DataError: as `predict`.
        """
        files = files_of(image)
        item = self._chain(case_item(Case(id=case_id_of(files), images=files)))
        grid = self.header(files[0]).grid
        outside = self.far_outside(grid, item["profiles"])
        volume = item["image"].as_tensor()
        if not outside and float(volume.min()) == float(volume.max()):
            outside = ["contains a single value where the network looks"]
        return Scan(files, grid, item, tuple(outside))

    def far_outside(self, grid: Grid, profiles: Sequence[ChannelProfile]) -> list[str]:
        """In which ways a scan lies far outside of what the training saw, in words."""
        settings = self.settings
        resampled = settings.spacing_mm is not None or settings.image_shape is not None
        return self.inputs.far_outside(grid, profiles, resampled=resampled)

    def count_windows(self, grid: Grid) -> int:
        """Number of windows that cover a scan on `grid`, mirrored ones not counted."""
        shape = target_shape(grid, self.settings)
        window = window_shape(self.settings, shape)
        block = getattr(self.network, "block", (1, 1, 1))
        return count_windows(shape, window, self._window["overlap"], block)

    def infer(
        self, scan: Scan, on_progress: Progress | None = None, *, confidence: bool = False
    ) -> Inference:
        """Class of every voxel on the network grid and, with `confidence`, the margin between the best two."""
        volume = scan.item["image"].as_tensor()
        shape = volume.shape[1:]
        margins = torch.empty(shape, dtype=torch.uint8) if confidence else None
        classes = self._way.class_map(
            self.network,
            volume[None],
            window_shape(self.settings, shape),
            device=self.device,
            on_progress=on_progress,
            margins=margins,
            name=str(next(iter(scan.files), "the image")),
            **self._window,
        )
        return Inference(classes, margins)

    def label_map(self, scan: Scan, found: Inference) -> NDArray[Any]:
        """Label values (X, Y, Z) on the grid of the scan's files."""
        classes = to_file_grid(found.classes, scan.item, self._chain)
        assert classes.shape == scan.grid.shape, f"{classes.shape} for {scan.grid.shape}"
        labels = self.table.label_values(classes)
        return apply_rules(labels, self.rules, scan.grid.voxel_volume_mm3)

    def confidence_map(self, scan: Scan, found: Inference) -> NDArray[np.uint8]:
        """Confidences (X, Y, Z) in 255ths on the grid of the scan's files."""
        assert found.margins is not None
        return nearest_on_file_grid(found.margins, scan.item, self._chain)

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
        scan = self.read(image)
        if scan.outside:
            warnings.warn(outside_note(scan.files, scan.outside), MonaisegWarning, stacklevel=2)
        return self.write(scan, self.infer(scan, on_progress), output)

    def write(self, scan: Scan, found: Inference, output: str | Path) -> PredictedFile:
        """Write the label map of a scan.

        Raises:
            StorageError: `output` cannot be written.
        """
        labels = self.label_map(scan, found)
        write_label_map(output, labels, scan.grid, like=scan.files[0], table=self.table)
        return PredictedFile(
            scan.files[0],
            Path(output),
            voxel_counts(labels),
            scan.grid.voxel_volume_mm3 / 1000,
            scan.outside,
        )


def voxel_counts(label_map: NDArray[Any]) -> dict[int, int]:
    """Number of voxels of each label value."""
    if label_map.dtype.itemsize > 2:
        values, counts = np.unique(label_map, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    counts = np.bincount(label_map.ravel(order="K"))  # many times faster than sorting
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def outside_note(
    files: Sequence[Path], outside: Sequence[str], advice: str = "look at what it labels"
) -> str:
    """One line about a scan that lies far outside of what the training saw."""
    names = ", ".join(map(str, files))
    return f"{names}: far outside the range of the training data: {'; '.join(outside)}; {advice}"


def prediction_bytes(settings: Settings, grid: Grid) -> int:
    """Memory in bytes that it certainly takes to predict a scan on `grid`: to prepare it, and its label map.

    The sliding window also keeps a slab of features, which is small in comparison.
    """
    return int(CERTAIN * preparing_bytes(grid, settings, labelled=False)) + math.prod(grid.shape)
