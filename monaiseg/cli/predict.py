"""`monaiseg predict`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from monaiseg.cli.display import progress_bar, shown_path
from monaiseg.cli.loudness import NOW, Json, note, print_json, result_as_json, say
from monaiseg.cli.options import Device, ModelGpu, device_named, given
from monaiseg.cli.postprocessing import (
    Chosen,
    DropBelow,
    FillHoles,
    KeepLargest,
    set_rules,
    show_choices,
)
from monaiseg.errors import SettingsError, counted

if TYPE_CHECKING:
    from monaiseg.data import LabelTable
    from monaiseg.prediction import Predictor

EXAMPLES = """\
monaiseg predict work/scans/first new/*.nii.gz -o labels

monaiseg predict work/scans/first new -o labels

monaiseg predict work/scans/first new -o labels --volumes volumes.csv --confidence

monaiseg predict work/scans/first "study/sub-*/anat/T1w.nii.gz" cohort.txt -o labels --shard 2/8

monaiseg predict work/scans/first new -o labels --label-table-format itksnap

monaiseg predict model.safetensors S01_0000.nii.gz S01_0001.nii.gz -o labels --no-flips
"""


FAST_OVERLAP = 0.25


def predict(
    paths: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            metavar="MODEL IMAGES...",
            help="Run folder, checkpoint or portable model (.onnx), then images, folders of images, list files (.txt), or "
            "patterns in quotes. "
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
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Short for --overlap 0.25 --no-flips: fewer windows."),
    ] = False,
    flips: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--flips/--no-flips",
            help="Average over mirrored windows, if the run's settings ask for it. Default: if this also raised the Dice "
            "of the run's validation cases.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again and replace existing label maps.")
    ] = False,
    volumes: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the volume of each structure in each scan to this CSV file."),
    ] = None,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write NAME_confidence.nii.gz: 0 where the best two labels are equally likely, up to 1.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse scans that are far outside the range of the training data."
        ),
    ] = False,
    shard: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="N/M", help="Label the N-th of M equal parts of the scans, for array jobs."
        ),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="CPU threads to compute with. Default: one for each core."),
    ] = None,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="GB",
            min=0.1,
            help="Memory that may be used. Default: what is free.",
        ),
    ] = None,
    label_table_format: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="json|csv|tsv|itksnap|freesurfer|slicer",
            help="Also write the names and colours of the labels to --output, for this program. May be repeated.",
        ),
    ] = None,
    keep_largest: KeepLargest = None,
    drop_below: DropBelow = None,
    fill_holes: FillHoles = None,
    postprocessing: Chosen = True,
    assume_orientation: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="RAS",
            help="Orientation of scans whose headers do not give one. Their label maps have the same headers.",
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
    as_json: Json = False,
) -> None:
    """Label new scans.

    Each label map has the same grid as its scan.
    It has the label values, names and colours of the training data.
    Scans that have a label map are skipped, so you can stop the command and repeat it.
    """
    # Threads that spin while they wait for each other take the time of those that a neighbour keeps waiting: beside
    # other programs, two threads took seven times as long. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from monaiseg.prediction import Predictor, Share
    from monaiseg.training import distributed, set_threads

    result_as_json(wanted=as_json)
    words = list(paths or ())
    model = given(words.pop(0) if words and model is None else None, model, "model")
    images = [*words, *(image or ())]
    if not images:
        raise SettingsError("there are no images; give files or folders after the model")
    if output is None:
        raise SettingsError("give a folder for the label maps with --output (-o)")
    if fast:
        overlap, flips = FAST_OVERLAP if overlap is None else overlap, False
    options = {
        "overwrite": overwrite,
        "confidence": confidence,
        "strict": strict,
        "memory_bytes": None if memory is None else int(memory * 1e9),
        "share": Share() if shard is None else Share.parse(shard),
        "volumes": volumes,
    }
    with distributed.joined(torch.device("cpu")):
        set_threads(threads)
        alone = device is not None or gpu_id is not None or not distributed.is_launched()
        chosen = device_named(device, gpu_id) if alone else distributed.local_device()
        rules = (keep_largest, drop_below, fill_holes, postprocessing)
        predictor = Predictor(
            model,
            device=chosen,
            overlap=overlap,
            flips=flips,
            assume_orientation=assume_orientation,
        )
        set_rules(predictor, *rules)
        if distributed.is_first():
            show_choices(predictor)
        _predict(predictor, model, images, output, label_table_format or [], options)


def _predict(
    predictor: Predictor,
    model: Path,
    images: list[Path],
    output: Path,
    table_formats: list[str],
    options: dict[str, Any],
) -> None:
    from monaiseg.data import find_images
    from monaiseg.files import write_atomic
    from monaiseg.prediction import PredictedFile, outside_note, predict_cohort
    from monaiseg.training import distributed

    tables = _table_files(predictor.table, table_formats, output)
    cases = find_images(
        images,
        output,
        predictor.settings.dataset.num_channels,
        orientation=predictor.orientation,
    )

    def show(file: PredictedFile) -> None:
        found = sum(1 for value in file.voxels if value)
        say(f"{file.output}  ({found} of {predictor.table.num_classes - 1} labels)")
        if file.outside:
            note(outside_note([file.image], file.outside))

    def note_once(text: str) -> None:
        if distributed.is_first():
            note(text)

    try:
        with progress_bar("predicting") as advance:
            before = predict_cohort(
                predictor,
                cases,
                output,
                model=str(model),
                on_file=show,
                on_progress=lambda case_id, done, total: advance(
                    done, total, f"{case_id}, windows"
                ),
                say=note_once,
                **options,
            )
    finally:
        if NOW.as_json and distributed.is_first():
            _print_records([case.id for case in cases], output)
    if before:
        note_once(
            f"kept {counted(len(before), 'label map')} of an earlier run, such as {before[0].label_map}; use --overwrite "
            "to predict again"
        )
    if not distributed.is_first():
        return
    written = [path for path in (output / "summary.json", options["volumes"]) if path]
    for path, text in tables.items():
        write_atomic(path, text.encode())
        written.append(path)
    for path in written:
        say(f"written: {shown_path(path)}")


def _print_records(case_ids: list[str], folder: Path) -> None:
    """Print what the folder's summary.json holds of these cases, also if some could not be labelled."""
    from monaiseg.prediction import recorded

    known = recorded(folder)
    cases = {case_id: known[case_id] for case_id in case_ids if case_id in known}
    print_json({"folder": str(folder), "cases": cases})


def _table_files(table: LabelTable, formats: list[str], folder: Path) -> dict[Path, str]:
    """Path and text of the label table in each format.

    Raises:
        SettingsError: a format is unknown.
    """
    from monaiseg.data import FILE_NAMES, FORMATS, label_table_text

    if strange := [name for name in formats if name not in FORMATS]:
        raise SettingsError(
            f"--label-table-format: {strange[0]!r} is unknown; use {', '.join(FORMATS)}"
        )
    chosen = [format_ for format_ in FORMATS if format_ in formats]
    return {folder / FILE_NAMES[name]: label_table_text(table, name) for name in chosen}
