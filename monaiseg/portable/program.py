"""The stand-alone runner: label scans with a portable model, by numpy, nibabel and onnxruntime alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monaiseg.portable.model import PortableModel
from monaiseg.portable.nifti import ScanError, read_scan, scans_at, write_label_map
from monaiseg.portable.protobuf import ModelError
from monaiseg.portable.route import RouteError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 after a message for a problem that the user can fix."""
    options = _parser().parse_args(words)
    try:
        model = PortableModel(
            options.model, threads=options.threads, overlap=options.overlap, flips=options.flips
        )
        if options.verify:
            return _verify(model)
        return _label(model, options)
    except (ModelError, ScanError, RouteError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Label scans with a model that `monaiseg export` wrote.",
        epilog="Needs Python 3.10 or later and: pip install numpy nibabel onnxruntime",
    )
    add = parser.add_argument
    add("model", type=Path, help="the .onnx file")
    add(
        "scans",
        type=Path,
        nargs="*",
        help="NIfTI files, or folders of them; channels are NAME_0000, NAME_0001, ...",
    )
    add("-o", "--output", type=Path, help="folder for the label maps, NAME_pred.nii.gz")
    add("--verify", action="store_true", help="label the scan inside the model and compare")
    add("--overwrite", action="store_true", help="replace label maps that are there already")
    add("--threads", type=int, help="threads for computation; default: one per core")
    add("--overlap", type=_share, help="share of the window that its neighbours have in common")
    add("--no-flips", dest="flips", action="store_false", help="no mirrored windows")
    return parser


def _share(text: str) -> float:
    if not 0 <= float(text) <= 0.95:
        raise argparse.ArgumentTypeError("use 0 to 0.95")
    return float(text)


def _verify(model: PortableModel) -> int:
    started = time.perf_counter()
    replay = model.replay()
    seconds = time.perf_counter() - started
    verdict = "as exported" if replay.passed else "NOT as exported: do not use this installation"
    print(
        f"{replay.voxels - replay.differing} of {replay.voxels} voxels agree, {seconds:.1f} s: {verdict}"
    )
    return 0 if replay.passed else 2


def _label(model: PortableModel, options: argparse.Namespace) -> int:
    if not options.scans or options.output is None:
        raise ScanError("name the scans after the model, and the folder for label maps with -o")
    num_channels = len(model.recipe.channels)
    options.output.mkdir(parents=True, exist_ok=True)
    problems = 0
    for name, files in scans_at(options.scans, num_channels):
        output = options.output / f"{name}_pred.nii.gz"
        if output.exists() and not options.overwrite:
            print(f"{output}: exists and is kept; use --overwrite to replace it", file=sys.stderr)
            continue
        started = time.perf_counter()
        try:
            image, like = read_scan(files, num_channels)
            labels = model.label_map(image, like.affine, on_note=_note_on(files[0]))
            write_label_map(output, labels, like, model.recipe.table_xml)
        except (ScanError, RouteError) as error:
            print(error, file=sys.stderr)
            problems += 1
            continue
        print(f"{output}  ({time.perf_counter() - started:.1f} s)")
    return 2 if problems else 0


def _note_on(file: Path) -> Callable[[str], None]:
    def note(text: str) -> None:
        print(f"{file}: {text}", file=sys.stderr)

    return note
