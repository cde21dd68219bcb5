"""`monaiseg bundle`: build, check and pack MONAI bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from monaiseg.cli.display import progress_bar, show_next
from monaiseg.cli.loudness import say
from monaiseg.cli.options import LabelTablePath, ModelOption, ModelPath, given, read_settings
from monaiseg.errors import SettingsError

bundle_app = typer.Typer(no_args_is_help=True, help="Write, check and pack MONAI bundles.")


@bundle_app.command("build")
def bundle_build(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the bundle; existing documents in it are kept."
        ),
    ],
    settings: Annotated[
        Path,
        typer.Option(
            "--settings",
            "--setting-folder-path",
            "-ts",
            help="Settings file, or the folder that holds it.",
        ),
    ],
    label_table: LabelTablePath = None,
    data_task: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of a prepared dataset, which gives the labels and the voxel size."
        ),
    ] = None,
) -> None:
    """Write a MONAI bundle from a settings file and the labels of the data."""
    from monaiseg.bundle import build_bundle
    from monaiseg.data import load_label_table, read_data_task
    from monaiseg.training import network_spacing

    if (label_table is None) == (data_task is None):
        raise SettingsError("give the labels either by --label-table or by --data-task")
    chosen = read_settings(settings)
    if data_task is None:
        build_bundle(chosen, load_label_table(label_table or ""), output)
    else:
        task = read_data_task(data_task)
        spacing = network_spacing(task, chosen)
        build_bundle(chosen, task.table, output, spacing=spacing, channels=task.channel_names)
    say(f"written: {output}")
    show_next("monaiseg", "bundle", "lint", output)
    config = f"{output}/configs/train.json"
    run = ("python", "-m", "monai.bundle", "run", "--config_file", config)
    show_next(*run, "--bundle_root", output, "--dataset_dir", "SCANS")


@bundle_app.command("lint")
def bundle_lint(folder: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Check a MONAI bundle without a network and report all faults, one per line."""
    from monaiseg.bundle import lint_bundle

    faults = lint_bundle(folder)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(2)
    say(f"{folder}: no faults")


@bundle_app.command("pack")
def bundle_pack(
    run: ModelPath = None,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="New folder, folder of a bundle, or file that ends in .zip."
        ),
    ],
    documents: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a bundle whose card, licences and about.json are copied."),
    ] = None,
    model: ModelOption = None,
) -> None:
    """Pack a trained network as a MONAI bundle, with its weights and as TorchScript."""
    from monaiseg.bundle import pack_bundle

    with progress_bar("packing"):
        packed = pack_bundle(given(run, model, "model"), output, documents)
    say(f"written: {packed}")
