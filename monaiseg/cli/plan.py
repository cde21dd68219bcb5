"""`monaiseg plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar, show_choices, show_next
from monaiseg.cli.loudness import Json, print_json, result_as_json, say
from monaiseg.cli.options import (
    EASYREG,
    SETTINGS_FILE,
    DataTaskName,
    DataTaskPath,
    Device,
    data_task_at,
    device_named,
    device_number,
)
from monaiseg.cli.settings import check_free

EXAMPLES = """\
monaiseg plan work/scans --minutes 60

monaiseg plan work/scans --minutes 20 --memory 8 --cores 4

monaiseg plan work/scans --minutes 120 --gpu-memory 12 --output small.json

monaiseg plan work/scans --minutes 60 --device cpu --output cpu.json
"""


def plan(
    data_task: DataTaskPath = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Minutes that the whole run may take.")
    ] = 60.0,
    cores: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="CPU cores that training may use. Default: all cores."),
    ] = None,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.1, help="GiB of memory that training may use. Default: half of the free memory."
        ),
    ] = None,
    gpu_memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.1,
            help="GiB of memory of the GPU that training may use. Default: what is free on it now.",
        ),
    ] = None,
    device: Device = None,
    measurements: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Write the measurements to this file; if it exists, plan from it without measuring."
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Settings file to write. Default: settings.json in DATASET."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    output_root_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output-root-path",
            help="Folder that holds the prepared datasets.",
            rich_help_panel=EASYREG,
        ),
    ] = None,
    data_task_name: DataTaskName = None,
    as_json: Json = False,
) -> None:
    """Measure this computer and write settings that make the most of the given minutes.

    They are for the first GPU if torch sees one, otherwise for the CPU.
    Each choice is printed with its reason. The settings are a plain JSON file: edit what you like.
    """
    from monaiseg.files import write_atomic
    from monaiseg.planning import Measurements
    from monaiseg.planning import plan as plan_training
    from monaiseg.settings import dump_settings

    result_as_json(wanted=as_json)
    folder = data_task_at(data_task, output_root_path, data_task_name)
    output = output or folder / SETTINGS_FILE
    check_free(output, force=force)
    known = measurements is not None and measurements.exists()
    number = device_number(device, None)
    if not known:
        device_named(device, None)  # says which GPU it is
    with progress_bar("measuring this computer") as advance:
        planned, measured = plan_training(
            folder.parent,
            folder.name,
            minutes=minutes,
            cores=cores,
            memory_gb=memory,
            device=number,
            gpu_memory_gb=gpu_memory,
            measurements=Measurements.load(measurements) if known and measurements else None,
            on_progress=advance,
        )
    show_choices(planned.choices)
    say(planned.forecast.in_words())
    write_atomic(output, dump_settings(planned.settings).encode())
    if measurements is not None and not known:
        measured.save(measurements)
    say(f"written: {output}")
    if as_json:
        forecast = asdict(planned.forecast)
        print_json(
            {"settings": output, "choices": [*map(asdict, planned.choices)], "forecast": forecast}
        )
    own = output == folder / SETTINGS_FILE
    show_next(
        "monaiseg", "train", folder, *([] if own else ["--settings", output]), "--name", "first"
    )
