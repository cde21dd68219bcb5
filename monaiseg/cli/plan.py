"""`monaiseg plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.options import DataTaskName
from monaiseg.cli.settings import check_free


def plan(
    output_root_path: Annotated[
        Path, typer.Option("--output-root-path", help="Folder of all data tasks.")
    ],
    data_task_name: DataTaskName,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Wall-clock minutes of the whole training.")
    ],
    cores: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Cores that it may use. Default: all that this process may."),
    ] = None,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.1, help="GiB of memory that it may take. Default: half of what is free."
        ),
    ] = None,
    gpu_memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.1, help="GiB of the GPU to train on. Default: train on the processor."),
    ] = None,
    measurements: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of measurements to plan from; if not there, they are kept in it."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Settings file to write.")] = Path(
        "settings.json"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the settings that make the most of the minutes, cores and memory there are, and say why."""
    import torch

    from monaiseg.files import write_atomic
    from monaiseg.planning import Measurements
    from monaiseg.planning import plan as plan_training
    from monaiseg.settings import dump_settings

    check_free(output, force=force)
    known = measurements is not None and measurements.exists()
    planned, measured = plan_training(
        output_root_path,
        data_task_name,
        minutes=minutes,
        cores=cores,
        memory_gb=memory,
        gpu_memory_gb=gpu_memory,
        measurements=Measurements.load(measurements) if known and measurements else None,
    )
    for choice in planned.choices:
        typer.echo(f"{choice.what}: {choice.why}")
    if gpu_memory is None and torch.cuda.is_available():
        typer.echo("note: for the processor; --gpu-memory GIB plans for the GPU of this computer")
    typer.echo(planned.prediction.in_words())
    write_atomic(output, dump_settings(planned.settings).encode())
    if measurements is not None and not known:
        measured.save(measurements)
    typer.echo(f"written: {output}")
    show_next(
        f'monaiseg train -ts "{output}" -o "{output_root_path}" -dtn "{data_task_name}" -tn first'
    )
