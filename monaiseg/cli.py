"""The command line: each command is a docstring, typed options and one call.

Imports of torch and MONAI wait inside the commands, so that `--help` answers at once. `print` lives here alone.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from monaiseg.errors import MonaisegError, MonaisegWarning, SettingsError, lack_of_memory

if TYPE_CHECKING:
    from monaiseg.cases import Case
    from monaiseg.data_tasks import DataTask
    from monaiseg.evaluation import Evaluation
    from monaiseg.settings import Settings

SEVERAL = {"-i", "--image", "--image-list", "-li", "--limage-list"}
"""Options that are followed by one value or more."""


class _Commands(TyperGroup):
    """Ends every command with the project's exit codes: 2 for what the user can put right, 130 when interrupted."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        command = self.commands.get(args[0]) if args else None
        options = {name: p for p in command.params for name in p.opts} if command else {}
        return super().parse_args(ctx, _spread([_written_out(word, options) for word in args]))

    def invoke(self, ctx: Any) -> Any:
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except MonaisegError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except (MemoryError, RuntimeError) as error:
            lack = lack_of_memory(error)
            if lack is None:
                raise
            reason = next(iter(str(lack).splitlines()), "") or "no room for another array"
            typer.echo(
                f"the memory ran out ({reason[:200]}); close other programs, or lower tsk_set.batch_size, "
                "dataset.seg.patch_size or tsk_set.num_workers",
                err=True,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:  # `monaiseg ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error


def _written_out(word: str, options: Mapping[str, object]) -> str:
    """An option that is cut short, as argparse lets EasyReg's be, in full; what is no option or several stays.

    >>> _written_out("--data_task=lpba", {"--data-task-name": 1, "--dataset-path": 2})
    '--data-task-name=lpba'
    """
    name, equals, value = word.partition("=")
    name = _with_hyphens(name)
    if not name.startswith("-") or name in options or name.strip("-") == "":
        return word
    meant = [option for option in options if option.startswith(name)]
    unique = len({id(options[option]) for option in meant}) == 1
    return meant[0] + equals + value if unique else word


def _spread(words: list[str]) -> list[str]:
    """`-i a b` as `-i a -i b`: options that take several values, as EasyReg's do.

    >>> _spread(["predict", "-i", "a", "b", "-o", "out"])
    ['predict', '-i', 'a', '-i', 'b', '-o', 'out']
    """
    spread: list[str] = []
    option, values = "", 0
    for word in words:
        if word.startswith("-") and word[1:2] not in {"", *"0123456789"}:
            option, values = word, 0
        elif _with_hyphens(option) in SEVERAL:
            values += 1
            if values > 1:
                spread.append(option)
        spread.append(word)
    return spread


def _with_hyphens(name: str) -> str:
    return name.replace("_", "-")


# `--data_task_name` is EasyReg's way of writing `--data-task-name`: every option answers to both.
_CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": _with_hyphens}

app = typer.Typer(
    cls=_Commands,
    context_settings=_CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Train, evaluate and hand on networks that label 3-D medical images.",
)
settings_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write, check and show settings files."
)
app.add_typer(settings_app, name="settings")
bundle_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write, check and pack MONAI bundles."
)
app.add_typer(bundle_app, name="bundle")

OutputRoot = Annotated[
    Path, typer.Option("--output-root-path", "-o", help="Folder of all data tasks.")
]
DataTaskName = Annotated[
    str, typer.Option("--data-task-name", "-dtn", help="Name of the dataset's folder.")
]
TaskName = Annotated[str, typer.Option("--task-name", "-tn", help="Name of the training's folder.")]
SettingsPath = Annotated[
    Path,
    typer.Option(
        "--setting-folder-path",
        "--settings",
        "-ts",
        help="Settings file, or the folder that holds it.",
    ),
]
Gpu = Annotated[
    Optional[int],  # noqa: UP045 - typer on Python 3.10 reads Optional
    typer.Option("--gpu-id", "-g", help="CUDA device; -1 is the CPU. Default: as in the settings."),
]
ModelGpu = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--gpu-id", "-g", help="CUDA device; -1 is the CPU. Default: the first GPU if there is one."
    ),
]
Registrations = Annotated[
    bool, typer.Option("--atlas", "--im2im", "--keep-current", hidden=True, help="EasyReg's.")
]
RegistrationsPath = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--atlas-image-path", "--atlas-label-path", hidden=True, help="EasyReg's."),
]
Model = Annotated[
    Path,
    typer.Option("--model", "--model-path", "-m", help="Checkpoint, or the folder of a training."),
]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    """Train, evaluate and hand on networks that label 3-D medical images."""
    if version:
        from monaiseg import __version__

        typer.echo(f"monaiseg {__version__}")
        raise typer.Exit


@app.command()
def prepare(
    dataset_path: Annotated[Path, typer.Option(help="Folder with the images and label maps.")],
    output_root_path: OutputRoot,
    data_task_name: DataTaskName,
    task_type: Annotated[str, typer.Option(help="The one kind of task: seg.")] = "seg",
    train_size: Annotated[int, typer.Option(help="Per cent of the cases to train on.")] = 70,
    test_size: Annotated[
        int, typer.Option(help="Per cent of the cases held out for the test.")
    ] = 20,
    val_size: Annotated[int, typer.Option(help="Per cent of the cases to validate on.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The split follows from this number.")] = 0,
    label_table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file with the columns value, name and, as wanted, partner, color."),
    ] = None,
    preprocess: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Settings to check the cases against and to resample them by, once for all."
        ),
    ] = None,
    registration: Registrations = False,
    atlas: RegistrationsPath = None,
) -> None:
    """Organise a dataset: pair, check and split its cases, and write the lists that training reads."""
    from monaiseg.preparation import prepare as prepare_task

    if registration or atlas:
        typer.echo("note: flags of registration have no effect here", err=True)
    with _progress("reading cases") as advance:
        task = prepare_task(
            dataset_path,
            output_root_path,
            data_task_name,
            task_type=task_type,
            train_size=train_size,
            test_size=test_size,
            val_size=val_size,
            seed=seed,
            label_table=label_table,
            preprocess=preprocess,
            on_progress=advance,
        )
    _show_task(task)
    _next(
        f'monaiseg plan --output-root-path "{output_root_path}" -dtn "{data_task_name}" --minutes 60 -o settings.json',
        "or write settings of your own: `monaiseg settings init settings.json`",
    )


@app.command()
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

    _check_free(output, force=force)
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
    _next(
        f'monaiseg train -ts "{output}" -o "{output_root_path}" -dtn "{data_task_name}" -tn first'
    )


@app.command()
def train(
    setting_folder_path: SettingsPath,
    output_root_path: OutputRoot,
    data_task_name: DataTaskName,
    task_name: TaskName,
    gpu_id: Gpu = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where this training stopped.")
    ] = False,
    extend: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="With --resume: train so many epochs more than the settings say."),
    ] = None,
    accept_inexact: Annotated[
        bool,
        typer.Option(
            "--accept-inexact",
            help="With --resume: go on although threads, versions or settings have changed.",
        ),
    ] = False,
) -> None:
    """Train a network on a prepared data task; under tsk_set.train false evaluate tsk_set.model_path."""
    started = time.monotonic()  # importing torch takes seconds of the budget
    from monaiseg.training import train as train_network

    settings = _load(setting_folder_path)
    if not settings.tsk_set.train:
        _evaluate_instead(settings, output_root_path / data_task_name, task_name, gpu_id)
        return
    result = train_network(
        settings,
        output_root_path=output_root_path,
        data_task_name=data_task_name,
        task_name=task_name,
        gpu_id=gpu_id,
        resume=resume,
        extend=extend,
        accept_inexact=accept_inexact,
        started=started,
        say=typer.echo,
    )
    if result.interrupted:
        _next(
            f'monaiseg train --resume -ts "{setting_folder_path}" -o "{output_root_path}" '
            f'-dtn "{data_task_name}" -tn "{task_name}"'
            + (f" -g {gpu_id}" if gpu_id is not None else "")
        )
        raise typer.Exit(130)
    if result.best is not None:
        typer.echo(
            f"best mean Dice {result.best.value:.4f} on the validation cases, epoch {result.best.epoch}"
        )
    typer.echo(f"written: {result.run_folder}")
    _next(
        f'monaiseg evaluate -m "{result.run_folder}" -o "{output_root_path}" -dtn "{data_task_name}"',
        f'tensorboard --logdir "{result.run_folder}"',
    )


@app.command()
def evaluate(
    model: Model,
    output_root_path: OutputRoot,
    data_task_name: DataTaskName,
    split: Annotated[str, typer.Option(help="train, val, test or debug.")] = "test",
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for scores.csv and summary.json. Default: records/<split> of the training; of one on another data "
            "task records/<data task>-<split>."
        ),
    ] = None,
    save_predictions: Annotated[
        bool, typer.Option("--save-predictions", help="Write the label maps beside the scores.")
    ] = False,
    gpu_id: ModelGpu = None,
) -> None:
    """Score a trained network on the held-out cases of its data task."""
    from monaiseg.data_tasks import read_data_task

    task = read_data_task(output_root_path / data_task_name)
    if split not in task.cases:
        raise SettingsError(f"split {split!r} is not there; use one of {', '.join(task.cases)}")
    folder = report or _records(model) / _named_after(task, split, model)
    _evaluate(
        model,
        task,
        task.cases[split],
        split,
        folder,
        _device(gpu_id),
        save_predictions=save_predictions,
    )
    _next(f'monaiseg predict -m "{model}" -i IMAGE.nii.gz -o predictions')


@app.command()
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
        model, device=_device(gpu_id), overlap=overlap, flips=None if flips else ()
    )
    grouped = find_images(image, output, predictor.settings.dataset.num_channels)
    with _progress("predicting") as advance:
        for number, file in enumerate(predict_files(predictor, grouped, output), start=1):
            advance(number, len(grouped))
            found = sum(1 for value in file.voxels if value)
            typer.echo(f"{file.output}  ({found} of {predictor.table.num_classes - 1} labels)")


@app.command("eval-seg")
def eval_seg(
    task_output_path: Annotated[
        Path, typer.Option("--task-output-path", "-o", help="Folder for everything it writes.")
    ],
    setting_folder_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--setting-folder-path",
            "-ts",
            help="Settings: the model, where -m does not name it, the size of images and the windows.",
        ),
    ] = None,
    model_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--model-path", "-m", help="Checkpoint, or the folder of a training."),
    ] = None,
    file_txt_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--file-txt-path",
            "-txt",
            help="List file: an image and, if known, its label map a line.",
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
    from monaiseg.checkpoint import load_checkpoint
    from monaiseg.devices import device_of
    from monaiseg.evaluation import check_references
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.prediction import Predictor, as_evaluated, predict_files
    from monaiseg.report import write_report
    from monaiseg.settings import Settings

    settings = Settings() if setting_folder_path is None else _load(setting_folder_path)
    model_path = model_path or Path(settings.tsk_set.model_path)
    if not model_path.name:
        raise SettingsError(
            "no model: give its checkpoint with -m, or as tsk_set.model_path in the settings"
        )
    cases = _listed_cases(file_txt_path, image_list or [], limage_list or [])
    checkpoint, notes = as_evaluated(load_checkpoint(model_path), settings)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    predictor = Predictor(checkpoint, device=device_of(settings, gpu_id))
    records = task_output_path / "seg" / "res" / "records"
    known = [case for case in cases if case.label is not None]
    unknown = [case.images for case in cases if case.label is None]
    check_references(known)
    with _progress("labelling") as advance:
        counter = itertools.count(1)
        for file in predict_files(predictor, unknown, records / "3D") if unknown else ():
            advance(next(counter), len(cases))
            typer.echo(str(file.output))
        if known:
            evaluation = evaluate_cases(
                predictor,
                known,
                model=str(checkpoint.path),
                predictions=records / "3D",
                on_case=lambda _: advance(next(counter), len(cases)),
            )
            write_report(evaluation, records)
            _show_scores(evaluation)
    typer.echo(f"written: {records}")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new folder for everything it makes.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 12,
    seed: Annotated[
        int, typer.Option(min=0, help="Brains, split and training follow from this number.")
    ] = 0,
) -> None:
    """See the whole of it in a few minutes: made brains, prepare, train, evaluate, predict, pictures."""
    from monaiseg.demo import run_demo

    evaluation, pictures = run_demo(output, epochs=epochs, seed=seed, say=typer.echo)
    _show_scores(evaluation, most=12)
    typer.echo(f"pictures: {', '.join(map(str, pictures))}")
    _next(f'tensorboard --logdir "{output}"')


@settings_app.command("init")
def settings_init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("settings.json"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a settings file with every key at its default."""
    from monaiseg.files import write_atomic
    from monaiseg.settings import Settings, dump_settings

    _check_free(file, force=force)
    write_atomic(file, dump_settings(Settings()).encode())
    typer.echo(f"written: {file}")
    _next(f'monaiseg settings check "{file}"')


@settings_app.command("check")
def settings_check(
    file: Annotated[Path, typer.Argument(help="Settings file, or the folder that holds it.")],
) -> None:
    """Check a settings file: every fault at once, each with what to use instead."""
    from monaiseg.settings import find_settings

    settings = _load(file)
    if settings.image_shape is not None:
        from monaiseg.transforms import resize_note

        if note := resize_note(settings):
            typer.echo(f"note: {note}", err=True)
    if settings.tsk_set.continue_train and not settings.tsk_set.model_path:
        raise SettingsError(
            f"{file}: tsk_set.continue_train is true and tsk_set.model_path empty; name the checkpoint"
        )
    _check_network(settings)
    typer.echo(f"{find_settings(file)}: all keys are known and in range")


@settings_app.command("show")
def settings_show(
    file: Annotated[Path, typer.Argument(help="Settings file, or the folder that holds it.")],
) -> None:
    """Print the settings as they resolve: EasyReg's spellings translated, defaults filled in."""
    from monaiseg.settings import dump_settings

    typer.echo(dump_settings(_load(file)), nl=False)


@settings_app.command("schema")
def settings_schema() -> None:
    """Print the JSON Schema that editors complete and check settings files with."""
    import json

    from monaiseg.settings import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@bundle_app.command("build")
def bundle_build(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the bundle; documents in it are kept.")
    ],
    settings: SettingsPath,
    label_table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="CSV file with the columns value, name and, as wanted, partner, color."),
    ] = None,
    data_task: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a prepared data task, whose labels and voxel size it takes."),
    ] = None,
) -> None:
    """Write a MONAI bundle from a settings file and the labels of the data."""
    from monaiseg.bundle import build_bundle
    from monaiseg.data_tasks import read_data_task
    from monaiseg.engines import network_spacing
    from monaiseg.labels import LabelTable

    if (label_table is None) == (data_task is None):
        raise SettingsError("give the labels either by --label-table or by --data-task")
    chosen = _load(settings)
    if data_task is None:
        build_bundle(chosen, LabelTable.read_csv(label_table or ""), output)
    else:
        task = read_data_task(data_task)
        spacing = network_spacing(task, chosen)
        build_bundle(chosen, task.table, output, spacing=spacing, channels=task.channel_names)
    typer.echo(f"written: {output}")
    _next(
        f'monaiseg bundle lint "{output}"',
        f'python -m monai.bundle run --config_file "{output}/configs/train.json" --bundle_root "{output}" '
        "--dataset_dir SCANS",
    )


@bundle_app.command("lint")
def bundle_lint(folder: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Check a MONAI bundle without a network: every fault at once, one line each."""
    from monaiseg.bundle_lint import lint_bundle

    faults = lint_bundle(folder)
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise typer.Exit(2)
    typer.echo(f"{folder}: no faults")


@bundle_app.command("pack")
def bundle_pack(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder, new or of a bundle, or a file that ends in .zip."
        ),
    ],
    documents: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a bundle whose card, licences and about.json it has."),
    ] = None,
) -> None:
    """Hand on a trained network as a MONAI bundle, with its weights and as TorchScript."""
    from monaiseg.bundle import pack_bundle

    typer.echo(f"written: {pack_bundle(model, output, documents)}")


# ---------------------------------------------------------------- helpers of the commands


def _evaluate(
    model: Path,
    task: DataTask,
    cases: Sequence[Case],
    split: str,
    folder: Path,
    device: Any,
    *,
    save_predictions: bool,
    wanted: Settings | None = None,
) -> None:
    """Score cases of a data task, write the report and show it; `wanted` are settings for it, as `as_evaluated` has them."""
    from monaiseg.checkpoint import load_checkpoint
    from monaiseg.evaluation import evaluate as evaluate_cases
    from monaiseg.facts import check_unchanged
    from monaiseg.files import make_folder
    from monaiseg.prediction import Predictor, as_evaluated, with_settings
    from monaiseg.report import write_report
    from monaiseg.settings import parse_settings

    checkpoint = load_checkpoint(model)
    if wanted is not None:
        checkpoint, notes = as_evaluated(checkpoint, wanted)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    settings = parse_settings(checkpoint.settings, str(checkpoint.path))
    predictor = Predictor(with_settings(checkpoint, task.as_read(settings, split)), device=device)
    if clash := predictor.table.contradiction(task.table):
        raise SettingsError(
            f"{model}: label {clash[0]} is {clash[1]!r} in the model and {clash[2]!r} in {task.folder}; evaluate it "
            "on data with its labels, or name them alike"
        )
    check_unchanged(cases, task.facts)
    make_folder(folder)
    with _progress("evaluating") as advance:
        counter = itertools.count(1)
        evaluation = evaluate_cases(
            predictor,
            cases,
            split=split,
            model=str(checkpoint.path),
            data_task=str(task.folder),
            predictions=folder / "predictions" if save_predictions else None,
            on_case=lambda _: advance(next(counter), len(cases)),
        )
    table, summary = write_report(evaluation, folder)
    _show_scores(evaluation)
    typer.echo(f"written: {table}, {summary}")


def _evaluate_instead(
    settings: Settings, data_task: Path, task_name: str, gpu_id: int | None
) -> None:
    """What EasyReg's training program does under `train` false: score `model_path` on the test split."""
    from monaiseg.data_tasks import read_data_task
    from monaiseg.devices import device_of
    from monaiseg.loaders import limited
    from monaiseg.workspace import RunFolder

    if not settings.tsk_set.model_path:
        raise SettingsError(
            "tsk_set.train is false and tsk_set.model_path empty; name the model to evaluate, or set train to true"
        )
    task = read_data_task(data_task)
    _evaluate(
        Path(settings.tsk_set.model_path),
        task,
        limited(task, "test", settings),
        "test",
        RunFolder.of(task.folder, task_name).records / "test",
        device_of(settings, gpu_id),
        save_predictions=settings.tsk_set.save_running_resolution_3d_img,
        wanted=settings,
    )


def _load(path: Path) -> Settings:
    from monaiseg.settings import find_settings, load_settings

    return load_settings(find_settings(path))


def _check_network(settings: Settings) -> None:
    """Whether the network can halve the patch; how often an axis is halved depends on the voxel size, if that is known."""
    from monaiseg.network import plan_topology

    spacing, network = settings.spacing_mm, settings.tsk_set.network
    if spacing is None:
        network = network.model_copy(update={"num_stages": None})
    plan_topology(network, settings.patch_shape, spacing or (1.0, 1.0, 1.0))


def _check_free(file: Path, *, force: bool) -> None:
    if file.exists() and not force:
        raise SettingsError(
            f"{file}: is there already; choose another name, or replace it with --force"
        )


def _device(gpu_id: int | None) -> Any:
    from monaiseg.devices import choose_device

    return choose_device(gpu_id)


def _records(model: Path) -> Path:
    """The records folder of the training that a checkpoint belongs to."""
    if model.is_dir():
        return (model.parent if model.name == "checkpoints" else model) / "records"
    return (model.parent.parent if model.parent.name == "checkpoints" else model.parent) / "records"


def _named_after(task: DataTask, split: str, model: Path) -> str:
    """Name of the folder of a split's scores; that of another data task than the training's says which."""
    own = task.folder.resolve() in model.resolve().parents
    return split if own else f"{task.folder.name}-{split}"


def _listed_cases(
    list_file: Path | None, images: list[Path], labels: list[Path]
) -> tuple[Case, ...]:
    from monaiseg.cases import Case, check_ids
    from monaiseg.lists import read_list_file
    from monaiseg.volumes import volume_stem

    if (list_file is None) == (not images):
        raise SettingsError("give the scans either as a list file with -txt, or one by one with -i")
    if list_file is not None:
        return read_list_file(list_file)
    if labels and len(labels) != len(images):
        raise SettingsError(
            f"{len(images)} images and {len(labels)} label maps; give one label map an image, or none"
        )
    known: list[Path | None] = [*labels] if labels else [None] * len(images)
    ids = [volume_stem(image) for image in images]
    check_ids(ids, "-i")
    return tuple(
        Case(name, (image,), label) for name, image, label in zip(ids, images, known, strict=True)
    )


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A bar on a terminal, with time left; silent otherwise."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """The project's own warnings as one plain line each on stderr, once."""
    original = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **named: Any) -> None:
        if issubclass(category, MonaisegWarning):
            typer.echo(f"note: {message}", err=True)
        else:
            original(message, category, *rest, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("once", MonaisegWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\.")
        warnings.showwarning = show
        yield


def _next(*commands: str) -> None:
    typer.echo("next:")
    for command in commands:
        typer.echo(f"  {command}")


def _print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _show_task(task: DataTask) -> None:
    for note in task.notes:
        typer.echo(f"note: {note}")
    rows = [[split, str(len(cases))] for split, cases in task.cases.items()]
    _print_table(f"{task.name}: cases", ["split", "cases"], rows)
    facts = list(task.facts.values())
    if facts:
        typer.echo(f"shape (voxels): {_ranges([fact.shape for fact in facts])}")
        typer.echo(f"spacing (mm): {_ranges([fact.spacing for fact in facts])}")
    typer.echo(f"labels: {task.table.num_classes - 1} and background")
    typer.echo(f"written: {task.folder}")


def _ranges(triples: Sequence[tuple[float, float, float]]) -> str:
    """Least and greatest along each axis.

    >>> _ranges([(31, 54, 34), (43, 42, 34)])
    '31 to 43, 42 to 54, 34'
    """
    ends = ((min(axis), max(axis)) for axis in zip(*triples, strict=True))
    return ", ".join(
        f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in ends
    )


def _show_scores(evaluation: Evaluation, most: int | None = None) -> None:
    from monaiseg.report import label_rows

    labels = list(label_rows(evaluation))
    rows = [
        [
            row["name"],
            *(f"{row[key]:.4f}" for key in ("dice", "dice_sd", "precision", "recall")),
            f"{row['volume_error_ml']:.3f}",
            f"{row['cases']}",
        ]
        for row in labels[:most]
    ]
    header = ["label", "Dice", "sd", "precision", "recall", "volume error (ml)", "cases"]
    _print_table(f"{evaluation.split}: {len(evaluation.cases)} cases", header, rows)
    if most is not None and len(labels) > most:
        typer.echo(f"... and {len(labels) - most} more labels in scores.csv")
    typer.echo(f"mean Dice over labels: {evaluation.mean_dice:.4f}")
