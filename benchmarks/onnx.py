"""A portable model against the checkpoint that it was exported from: label maps, scores and seconds.

    python benchmarks/onnx.py work/scans/first                       the test cases of the dataset
    python benchmarks/onnx.py work/scans/first --cases 10 --weights  also with smaller weights
    python benchmarks/onnx.py work/scans/first --openvino            also onnxruntime beside OpenVINO

Label maps are compared voxel by voxel: by torch and MONAI, by `monaiseg predict model.onnx`, and by the stand-alone
runner, whose preprocessing is NumPy. With --weights, the weights are rounded to float16, or to int8 with a scale for
each output channel, and computed with in float32: what a smaller file would cost in Dice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.append(sys.path.pop(0))  # this file's folder last: it has the name of a package
import onnx
import torch
from common import machine, table
from numpy.typing import NDArray

from monaiseg.data import check_unchanged, read_data_task, read_label_map
from monaiseg.evaluation import score_case
from monaiseg.export import export_onnx
from monaiseg.export.model_file import payload_of
from monaiseg.portable import PortableModel
from monaiseg.portable.nifti import read_scan
from monaiseg.prediction import Predictor

Labeller = Callable[[tuple[Path, ...]], NDArray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder in the folder of its dataset")
    parser.add_argument("--data", type=Path, help="the dataset, if it is elsewhere")
    parser.add_argument("--split", default="test")
    parser.add_argument("--cases", type=int, default=10**6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--openvino", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        started = time.perf_counter()
        export_onnx(Predictor(options.run, device="cpu"), model)
        print(machine())
        print(f"exported in {time.perf_counter() - started:.0f} s, {model.stat().st_size / 2**20:.1f} MiB")  # fmt: skip
        compare(options, labellers(options, model))
        if options.openvino:
            runtimes(model, options.threads)


def labellers(options: argparse.Namespace, model: Path) -> dict[str, Labeller]:
    """What labels a case, by name; torch is the first."""
    alone = PortableModel(model, threads=options.threads)
    found: dict[str, Labeller] = {
        "torch": Predictor(options.run, device="cpu").predict,
        "monaiseg predict model.onnx": Predictor(model).predict,
        "stand-alone runner": by_runner(alone),
    }
    if options.weights:
        for name, rounded in (("float16", as_float16), ("int8", as_int8)):
            payload = with_weights(model, rounded)
            found[f"runner, {name} weights"] = by_runner(PortableModel(payload, threads=options.threads))  # fmt: skip
    return found


def by_runner(model: PortableModel) -> Labeller:
    def label(files: tuple[Path, ...]) -> NDArray:
        image, like = read_scan(files, len(model.recipe.channels))
        return model.label_map(image, like.affine)

    return label


def compare(options: argparse.Namespace, contenders: dict[str, Labeller]) -> None:
    task = read_data_task(options.data or options.run.parent)
    cases = task.cases[options.split][: options.cases]
    check_unchanged(cases, task.facts)
    known = Predictor(options.run, device="cpu").table
    seconds = dict.fromkeys(contenders, 0.0)
    dice: dict[str, list[float]] = {name: [] for name in contenders}
    differing: dict[str, list[float]] = {name: [] for name in contenders}
    for case in cases:
        reference, header = read_label_map(case.label)
        by_torch: NDArray | None = None
        for name, label in contenders.items():
            started = time.perf_counter()
            found = label(case.images)
            seconds[name] += time.perf_counter() - started
            by_torch = found if by_torch is None else by_torch
            differing[name].append(float((found != by_torch).mean()))
            scores = score_case(case.id, reference, found, known, header.grid.spacing)
            dice[name].append(scores.mean_dice)
    print(f"{len(cases)} cases of {task.name}, {options.threads} threads")
    rows = [
        [
            name,
            f"{1 - np.mean(differing[name]):.6%}",
            f"{1 - np.max(differing[name]):.4%}",
            f"{np.mean(dice[name]):.5f}",
            f"{seconds[name] / len(cases):.2f}",
        ]
        for name in contenders
    ]
    print(
        table(["by", "voxels as torch", "in the worst case", "mean Dice", "seconds a case"], rows)
    )


# ---------------------------------------------------------------- smaller weights


def with_weights(model: Path, rounded: Callable[[NDArray], NDArray]) -> bytes:
    """The model with the kernels of its convolutions rounded."""
    import json  # noqa: PLC0415

    changed = onnx.load(model)
    kernels = {node.input[1] for node in changed.graph.node if node.op_type.startswith("Conv")}
    for tensor in changed.graph.initializer:
        if tensor.name in kernels:
            values = rounded(onnx.numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return payload_of(changed, json.loads(changed.metadata_props[0].value))


def as_float16(kernel: NDArray) -> NDArray:
    return kernel.astype(np.float16)


def as_int8(kernel: NDArray) -> NDArray:
    scale = np.abs(kernel).max(axis=tuple(range(1, kernel.ndim)), keepdims=True) / 127
    return np.rint(kernel / np.maximum(scale, 1e-12)) * scale


# ---------------------------------------------------------------- runtimes


def runtimes(model: Path, threads: int) -> None:
    """Seconds a window of onnxruntime and of OpenVINO, with the same file."""
    import openvino  # noqa: PLC0415

    portable = PortableModel(model, threads=threads)
    recipe = portable.recipe
    shape = (1, len(recipe.channels), *recipe.patch)
    window = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    compiled = openvino.Core().compile_model(
        str(model), "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    )
    runs = {"onnxruntime": portable.network, "OpenVINO": lambda w: compiled([w])[0]}
    best = dict.fromkeys(runs, np.inf)
    for _ in range(10):  # in turns: the computer's speed changes
        for name, run in runs.items():
            started = time.perf_counter()
            run(window)
            best[name] = min(best[name], time.perf_counter() - started)
    difference = float(np.abs(runs["OpenVINO"](window) - runs["onnxruntime"](window)).max())
    print(table(["runtime", "seconds a window"], [[name, f"{s:.4f}"] for name, s in best.items()]))
    print(f"largest difference between features: {difference:.2g}")


if __name__ == "__main__":
    main()
