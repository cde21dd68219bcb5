"""`monaiseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar
from monaiseg.cli.options import Device, ModelGpu, device_named, given
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import LabelTable

EXAMPLES = """\
monaiseg predict work/scans/first new/*.nii.gz -o labels

monaiseg predict work/scans/first new -o labels

monaiseg predict work/scans/first new -o labels --volumes volumes.csv

monaiseg predict work/scans/first new -o labels --label-table-format itksnap

monaiseg predict model.safetensors S01_0000.nii.gz S01_0001.nii.gz -o labels --no-flips
"""


def predict(
    paths: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            metavar="MODEL IMAGES...",
            help="Run folder or checkpoint, then images or folders of images. "
            "Give several channels as NAME_0000, NAME_0001, ... in a folder, or as files in order.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder for the label maps.", show_default=False),
    ] = None,
    overlap: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.0,
            max=0.95,
            help="Share of the window that neighbouring windows have in common. Default: as in the run's settings.",
        ),
    ] = None,
    flips: Annotated[
        bool,
        typer.Option(help="Average over mirrored windows, if the run's settings ask for it."),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again and replace existing label maps.")
    ] = False,
    volumes: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the volume of each structure in each scan to this CSV file."),
    ] = None,
    label_table_format: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="json|csv|tsv|itksnap|freesurfer|slicer",
            help="Also write the names and colours of the labels to --output, for this program. May be repeated.",
        ),
    ] = None,
    device: Device = None,
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--model", "--model-path", "-m", help="The model, if not given as the first argument."
        ),
    ] = None,
    image: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--image", "-i", help="An image, if not given as an argument."),
    ] = None,
    gpu_id: ModelGpu = None,
) -> None:
    """Label new scans.

    Each label map has the same grid as its scan.
    It has the label values, names and colours of the training data.
    """
    from monaiseg.data import find_images, planned_outputs
    from monaiseg.files import write_atomic
    from monaiseg.prediction import PredictedFile, Predictor, predict_files, volumes_csv

    words = list(paths or ())
    model = given(words.pop(0) if words and model is None else None, model, "model")
    images = [*words, *(image or ())]
    if not images:
        raise SettingsError("no images: name files or folders of them after the model")
    if output is None:
        raise SettingsError("name the folder for the label maps with --output (-o)")
    predictor = Predictor(
        model, device=device_named(device, gpu_id), overlap=overlap, flips=None if flips else ()
    )
    tables = _table_files(predictor.table, label_table_format or [], output)
    grouped = find_images(images, output, predictor.settings.dataset.num_channels)
    there = [path for _, path in planned_outputs(grouped, output) if path.exists()]
    left = [] if overwrite else there
    predicted: list[PredictedFile] = []
    with progress_bar("predicting") as advance:
        for file in predict_files(predictor, grouped, output, overwrite=overwrite):
            predicted.append(file)
            advance(len(predicted), len(grouped) - len(left))
            found = sum(1 for value in file.voxels if value)
            typer.echo(f"{file.output}  ({found} of {predictor.table.num_classes - 1} labels)")
    if left:
        typer.echo(
            f"note: {len(left)} label maps were there already and are left, such as {left[0]}; --overwrite repeats them",
            err=True,
        )
    if volumes is not None:
        write_atomic(volumes, volumes_csv(predicted, predictor.table).encode())
        typer.echo(f"written: {volumes}")
    for path, text in tables.items():
        write_atomic(path, text.encode())
        typer.echo(f"written: {path}")


def _table_files(table: LabelTable, formats: list[str], folder: Path) -> dict[Path, str]:
    """Path and text of the label table in each format.

    Raises:
        SettingsError: a format is unknown.
    """
    from monaiseg.data import FILE_NAMES, FORMATS, label_table_text

    if strange := [name for name in formats if name not in FORMATS]:
        raise SettingsError(
            f"--label-table-format: {strange[0]!r} is not known; use {', '.join(FORMATS)}"
        )
    chosen = [format_ for format_ in FORMATS if format_ in formats]
    return {folder / FILE_NAMES[name]: label_table_text(table, name) for name in chosen}
