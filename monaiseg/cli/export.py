"""`monaiseg export` and `monaiseg verify`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from monaiseg.cli.display import show_next
from monaiseg.cli.loudness import say
from monaiseg.cli.options import ModelOption, ModelPath, given
from monaiseg.errors import CheckpointError, SettingsError

EXPORT_EXAMPLES = """\
monaiseg export work/scans/first -o model.onnx

monaiseg export work/scans/first -o model.onnx --runner
"""
VERIFY_EXAMPLES = """\
monaiseg verify model.onnx
"""


def export(
    run: ModelPath = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write; its name ends in .onnx.")
    ],
    runner: Annotated[
        bool,
        typer.Option(
            "--runner",
            help="Also write a Python program that labels scans with the model, beside it. It needs only numpy, nibabel and onnxruntime.",
        ),
    ] = False,
    model: ModelOption = None,
) -> None:
    """Write a trained network as one file that runs without torch.

    The file is ONNX. It also holds the preprocessing, the labels, and a synthetic scan with its label map for `verify`.
    """
    if output.suffix.lower() != ".onnx":
        raise SettingsError(f"--output: {output} does not end in .onnx; give the file such a name")
    _check_installed()
    from monaiseg.export import export_onnx, runner_script
    from monaiseg.files import write_atomic
    from monaiseg.prediction import Predictor

    source = given(run, model, "model")
    say("exporting; this takes about half a minute")
    replay = export_onnx(Predictor(source, device="cpu"), output)
    say(f"written: {output}  ({output.stat().st_size / 2**20:.1f} MiB)")
    typer.echo(
        f"verified: onnxruntime agrees with torch on {replay.voxels - replay.differing} of {replay.voxels} voxels of a "
        "synthetic scan"
    )
    if runner:
        program = output.with_name(f"{output.stem}_runner.py")
        write_atomic(program, runner_script(program.name).encode())
        say(f"written: {program}")
        show_next("python", program, output, "SCANS", "-o", "labels")
        return
    show_next("monaiseg", "predict", output, "SCANS", "-o", "labels")


def verify(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="A file that `export` wrote.")
    ],
) -> None:
    """Check that a portable model gives the right label map on this computer.

    The file contains a synthetic scan and its label map, to compare with.
    """
    from monaiseg.prediction import read_portable

    started = time.perf_counter()
    replay = read_portable(model).replay()
    seconds = time.perf_counter() - started
    agreeing = f"{replay.voxels - replay.differing} of {replay.voxels} voxels agree"
    if not replay.passed:
        raise CheckpointError(
            f"{model}: {agreeing} with the export: do not use it here. Copy the file again, or install another version of "
            "onnxruntime"
        )
    typer.echo(f"{model}: {agreeing} with the export, {seconds:.1f} s")
    show_next("monaiseg", "predict", model, "SCANS", "-o", "labels")


def _check_installed() -> None:
    """Raise SettingsError before any work if a package of the extra is missing."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"export needs {', '.join(missing)}, which is not installed: pip install 'monaiseg[onnx]'"
        )
