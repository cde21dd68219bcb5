"""Cohort: many scans, labelled one after the other."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from monaiseg.data import LabelTable, planned_outputs, read_header
from monaiseg.errors import DataError, MonaisegError, collecting, lack_of_memory, listed
from monaiseg.files import make_folder
from monaiseg.machine import free_memory
from monaiseg.prediction.predictor import PredictedFile, Predictor, prediction_bytes


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
