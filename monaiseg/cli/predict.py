"""`monaiseg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar
from monaiseg.cli.options import Model, ModelGpu, device_named


def predict(
    model: Model,
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            "-i",
            help="Images, or folders of them. Of several channels: NAME_0000, NAME_0001, ... in a folder, or files one "
            "after the other.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the label maps.")],
    overlap: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.0, max=0.95, help="Share of the patch that windows have in common."),
    ] = None,
    flips: Annotated[
        bool,
        typer.Option(help="Average over mirrored windows, where the settings of the training do."),
    ] = True,
    gpu_id: ModelGpu = None,
) -> None:
    """Label new scans: each label map comes back on its scan's own grid."""
    from monaiseg.prediction import Predictor, find_images, predict_files

    predictor = Predictor(
        model, device=device_named(gpu_id), overlap=overlap, flips=None if flips else ()
    )
    grouped = find_images(image, output, predictor.settings.dataset.num_channels)
    with progress_bar("predicting") as advance:
        for number, file in enumerate(predict_files(predictor, grouped, output), start=1):
            advance(number, len(grouped))
            found = sum(1 for value in file.voxels if value)
            typer.echo(f"{file.output}  ({found} of {predictor.table.num_classes - 1} labels)")
