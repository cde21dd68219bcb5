"""`monaiseg eval-seg`: EasyReg's `eval_seg.py`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar, show_scores
from monaiseg.cli.loudness import note, say
from monaiseg.cli.options import Gpu, read_settings
from monaiseg.errors import SettingsError

if TYPE_CHECKING:
    from monaiseg.data import Case


def eval_seg(
    task_output_path: Annotated[
        Path, typer.Option("--task-output-path", "-o", help="Folder for all output.")
    ],
    setting_folder_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--setting-folder-path",
            "-ts",
            help="Settings file with the model (unless -m names it), the image size and the windows.",
        ),
    ] = None,
    model_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--model-path", "-m", help="Checkpoint, or run folder."),
    ] = None,
    file_txt_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--file-txt-path",
            "-txt",
            help="List file with one image per line, followed by its label map if there is one.",
        ),
    ] = None,
    image_list: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--image-list", "-i", help="Images."),
    ] = None,
    limage_list: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--limage-list", "-li", help="Their label maps, in the same order."),
    ] = None,
    gpu_id: Gpu = None,
) -> None:
    """Label listed scans and score those with label maps: EasyReg's eval_seg.py."""
    from monaiseg.evaluation import TOLERANCE_MM, Unfinished, check_references, write_report
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.files import sha256_of
    from monaiseg.prediction import Predictor, as_evaluated, predict_files
    from monaiseg.settings import Settings, dump_settings
    from monaiseg.training import device_of, load_checkpoint

    settings = Settings() if setting_folder_path is None else read_settings(setting_folder_path)
    model_path = model_path or Path(settings.tsk_set.model_path)
    if not model_path.name:
        raise SettingsError(
            "there is no model; give its checkpoint with -m, or as tsk_set.model_path in the settings"
        )
    cases = _listed_cases(file_txt_path, image_list or [], limage_list or [])
    checkpoint, notes = as_evaluated(load_checkpoint(model_path), settings)
    for text in notes:
        note(text)
    predictor = Predictor(checkpoint, device=device_of(settings, gpu_id))
    records = task_output_path / "seg" / "res" / "records"
    assert checkpoint.path is not None
    network = (
        sha256_of(checkpoint.path),
        dump_settings(predictor.settings),
        str((predictor.rules, predictor.flips)),
        str(predictor.device),
    )
    known = [case for case in cases if case.label is not None]
    unknown = [case.images for case in cases if case.label is None]
    check_references(known)
    with progress_bar("labelling") as advance:
        counter = itertools.count(1)
        for file in predict_files(predictor, unknown, records / "3D") if unknown else ():
            advance(next(counter), len(cases))
            say(str(file.output))
        if known:
            evaluation = evaluate_cases(
                predictor,
                known,
                model=str(checkpoint.path),
                predictions=records / "3D",
                unfinished=Unfinished.of(records, predictor.table, TOLERANCE_MM, *network),
                on_case=lambda _: advance(next(counter), len(cases)),
            )
            write_report(evaluation, records)
            show_scores(evaluation)
    say(f"written: {records}")


def _listed_cases(
    list_file: Path | None, images: list[Path], labels: list[Path]
) -> tuple[Case, ...]:
    from monaiseg.data import Case, check_ids, read_list_file, volume_stem

    if (list_file is None) == (not images):
        raise SettingsError("give the scans either as a list file with -txt, or one by one with -i")
    if list_file is not None:
        return read_list_file(list_file)
    if labels and len(labels) != len(images):
        raise SettingsError(
            f"{len(images)} images and {len(labels)} label maps; give one label map for each image, or none"
        )
    known: list[Path | None] = [*labels] if labels else [None] * len(images)
    ids = [volume_stem(image) for image in images]
    check_ids(ids, "-i")
    return tuple(
        Case(name, (image,), label) for name, image, label in zip(ids, images, known, strict=True)
    )
