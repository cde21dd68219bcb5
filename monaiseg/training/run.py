"""Run: train a network from settings and a data task, and leave a folder with the best network.

A *step* is one batch, counted from 1 over the whole run; an *epoch* is a fixed number of steps. The order of cases,
their augmentation and the learning rate depend only on the step and the seed. A run that was killed and resumed
therefore ends with the same weights, bit for bit. With a budget of minutes, the last step depends on the clock as
well; each decision about it is saved in the commits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from monai.engines.trainer import SupervisedTrainer

from monaiseg.data import CACHE_FOLDER, read_data_task
from monaiseg.errors import MonaisegError, OutOfMemoryError, SettingsError, counted, lack_of_memory
from monaiseg.networks import build_loss
from monaiseg.progress import progress_bar
from monaiseg.settings import Settings
from monaiseg.training import distributed
from monaiseg.training.checkpoint import Best
from monaiseg.training.devices import (
    check_planned_device,
    device_in_words,
    device_of,
    gpu_to_plan_for,
)
from monaiseg.training.engines import (
    build_evaluator,
    build_optimizer,
    build_trainer,
    initial_network,
)
from monaiseg.training.handlers.batches import in_words
from monaiseg.training.handlers.steps import is_interrupted
from monaiseg.training.loaders import (
    CaseLoader,
    build_case_loader,
    build_training_loader,
    worker_fault,
)
from monaiseg.training.mirroring import Mirroring, write_mirroring
from monaiseg.training.needs import check_needs
from monaiseg.training.recipe import Recipe
from monaiseg.training.resume import first_state
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.smaller_steps import way_on
from monaiseg.training.state import RunState
from monaiseg.training.wiring import train_handlers
from monaiseg.transforms import resize_note

log = logging.getLogger("monaiseg")


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a training run."""

    run_folder: Path
    best: Best | None
    """The best validation: epoch and mean foreground Dice. None before the first one."""
    epochs: int
    """Epochs started; all are complete unless the run was interrupted."""
    interrupted: bool
    """True if a signal stopped the run before its last epoch; `resume` continues it."""
    seconds: float
    """Wall time of this process, in seconds; a resumed run counts from the resume."""


def train(
    settings: Settings,
    *,
    output_root_path: str | Path,
    data_task_name: str,
    task_name: str,
    gpu_id: int | None = None,
    resume: bool = False,
    extend: int | None = None,
    accept_inexact: bool = False,
    started: float | None = None,
    say: Callable[[str], None] | None = None,
    show_progress: bool = True,
) -> TrainingResult:
    """Train a network on a prepared dataset (a data task). Processes started by torchrun train it together.

    ```python
    import monaiseg

    settings = monaiseg.load_settings("work/scans/settings.json")
    dataset = {"output_root_path": "work", "data_task_name": "scans"}
    run = monaiseg.train(settings, **dataset, task_name="second")
    print(run.run_folder, run.best)
    ```

    Args:
        settings: all settings of the run.
        output_root_path: folder that holds all data tasks.
        data_task_name: name of the prepared data task's folder in it.
        task_name: name of this run's folder, created in the folder of the data task.
        gpu_id: CUDA device, or -1 for the CPU. None: use the one in the settings.
        resume: continue the run in this folder from its last commit.
        extend: with `resume`, train this many epochs beyond those in the settings. Repeating the command adds no more.
        accept_inexact: with `resume`, continue even if threads, versions or settings have changed.
        started: `time.monotonic()` at which the clock of `tsk_set.budget_minutes` started. None: now.
        say: called with each line that a user should see.
        show_progress: whether epoch, loss, Dice and the time left are shown on stderr.

    Raises:
        SettingsError: settings and data do not match, or the GPU does not exist; see `check_planned_device`.
        DataError: the data task cannot be used.
        CheckpointError: there is nothing to resume, or the checkpoint does not fit.
        BusyError: another process trains in this folder.
        StorageError: the disk is full, read-only or failing; earlier commits are kept.
        OutOfMemoryError: a case or a step needs more memory than is available.
        NumericsError: the loss is no longer a finite number.
    """
    begun = time.monotonic()
    if extend is not None and not resume:
        raise SettingsError("--extend needs --resume: it makes an existing run longer")
    if extend is not None and settings.tsk_set.budget_minutes is not None:
        raise SettingsError(
            "--extend adds epochs, but the length of this run is tsk_set.budget_minutes; to train longer, start another run "
            "from its checkpoint with tsk_set.continue_train"
        )
    task = read_data_task(Path(output_root_path) / data_task_name)
    settings = _named(settings, output_root_path, data_task_name, task_name)
    check_planned_device(settings, gpu_id)
    device = (
        distributed.local_device()
        if _takes_own_gpu(settings, gpu_id)
        else device_of(settings, gpu_id)
    )
    with (
        distributed.joined(device),
        opened(RunFolder.of(task.folder, task_name), resume=resume) as folder,
    ):
        recipe = Recipe.of(settings, task, device)
        trainer, state = build_training(
            recipe,
            folder,
            started=begun if started is None else started,
            resume=resume,
            extend=extend,
            accept_inexact=accept_inexact,
            show_progress=show_progress,
        )
        say = say if distributed.is_first() and say is not None else _nothing
        result = fit(trainer, recipe, state, folder, say)
        if result.interrupted:
            say(f"stopped and saved after step {trainer.state.iteration}")
    return replace(result, seconds=time.monotonic() - begun)


def build_training(
    recipe: Recipe,
    folder: RunFolder,
    *,
    started: float | None = None,
    resume: bool = False,
    extend: int | None = None,
    accept_inexact: bool = False,
    show_progress: bool = True,
) -> tuple[SupervisedTrainer, RunState]:
    """MONAI's trainer for a recipe, with all its handlers, and the state that it starts from; see `first_state`."""
    settings, table, device = recipe.settings, recipe.table, recipe.device
    check_needs(recipe)
    network = initial_network(settings, table, recipe.spacing).to(device)
    optimizer = build_optimizer(network, settings.tsk_set.optim)
    cache = recipe.task.folder / CACHE_FOLDER
    show_progress = show_progress and distributed.is_first()
    with progress_bar("reading training cases", show=show_progress) as advance:
        loader = build_training_loader(
            recipe.cases("train"),
            recipe.reading,
            table,
            cache,
            device,
            advance,
            prior=network.prior,
            persons=recipe.task.persons,
        )
    log.info("train: %s", loader.note)
    evaluators = {
        split: build_evaluator(network, cases, settings, table, device)
        for split, cases in _case_loaders(
            recipe, loader.memory_bytes, show_progress=show_progress
        ).items()
    }
    state = first_state(
        recipe,
        network,
        optimizer,
        folder,
        steps=len(loader),
        started=started,
        resume=resume,
        extend=extend,
        accept_inexact=accept_inexact,
    )
    loss = build_loss(
        settings.tsk_set.loss,
        table.num_classes,
        has_ignored=table.ignored_index is not None,
        summed=distributed.summed,
    )
    handlers = train_handlers(recipe, state, folder, evaluators, show_progress=show_progress)
    trainer = build_trainer(
        settings, network, optimizer, loss, loader, device, train_handlers=handlers
    )
    return trainer, state


def fit(
    trainer: SupervisedTrainer,
    recipe: Recipe,
    state: RunState,
    folder: RunFolder,
    say: Callable[[str], None],
) -> TrainingResult:
    """Run a trainer with its handlers to the end, or until a signal. A complete run is left as it is.

    Raises:
        MonaisegError: an error that the user can fix; see `train`.
    """
    begun = time.monotonic()
    loader: Any = trainer.data_loader
    complete = state.is_complete(len(loader))
    for line in _introduction(trainer, recipe, state, complete=complete):
        say(line)
    try:
        if not complete:
            if distributed.is_first():
                folder.write_settings(recipe.settings)
            trainer.run()
    except MonaisegError:  # some derive from RuntimeError or MemoryError
        raise
    except (RuntimeError, MemoryError) as error:
        if fault := _fault(error, trainer, recipe, folder):
            raise fault from error
        raise
    finally:
        if isinstance(loader, CaseLoader):
            loader.close()
    if not is_interrupted(trainer):
        _note_mirroring(state, folder, say)
    epochs = max(trainer.state.epoch, state.epoch)
    seconds = time.monotonic() - begun
    return TrainingResult(folder.path, state.best, epochs, is_interrupted(trainer), seconds)


def _note_mirroring(state: RunState, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Write beside the best checkpoint whether mirrored windows help, if the run looked at that."""
    found = Mirroring.of(state.history)
    if found is None or state.best is None or not distributed.is_first():
        return
    write_mirroring(folder.checkpoints / state.best.file, found)
    say(found.in_words())


@contextlib.contextmanager
def opened(folder: RunFolder, *, resume: bool) -> Iterator[RunFolder]:
    """Open and lock the folder of a run. The first of several processes holds the lock for all.

    Raises:
        MonaisegError: the folder cannot be opened. The first process says why, and the others exit.
    """
    with contextlib.ExitStack() as stack:
        fault: MonaisegError | None = None
        if distributed.is_first():
            try:
                stack.enter_context(folder.opened(resume=resume))
            except MonaisegError as error:
                fault = error
        if distributed.from_first(fault is not None):
            raise fault or SystemExit(2)
        yield folder


def _introduction(
    trainer: SupervisedTrainer, recipe: Recipe, state: RunState, *, complete: bool
) -> Iterator[str]:
    """Lines that describe what will be trained, and on which data."""
    tsk, table = recipe.settings.tsk_set, recipe.table
    if complete:
        longer = (
            "to train longer, use --resume --extend EPOCHS"
            if tsk.budget_minutes is None
            else "to train longer, start another run from its checkpoint with tsk_set.continue_train"
        )
        yield f"this run is already complete, after {counted(state.epoch, 'epoch')}; {longer}"
        return
    yield from state.origin
    mirrored = table.mirror_note() if recipe.settings.is_mirrored else None
    for note in filter(None, (resize_note(recipe.settings), mirrored)):
        yield f"note: {note}"
    parameters = sum(p.numel() for p in state.network.parameters())
    steps = cast(Any, trainer.state).epoch_length
    minutes = tsk.budget_minutes
    length = (
        counted(state.epochs or 0, "epoch") if minutes is None else f"{minutes:g} minutes in all"
    )
    if recipe.device.type == "cuda":
        yield f"computing on {device_in_words(recipe.device)}"
    if name := gpu_to_plan_for(recipe.settings, recipe.device):
        yield f"note: this was planned for the CPU, and torch can use a GPU here ({name}); `monaiseg plan --force` plans for it"
    together = "" if recipe.num_ranks == 1 else f", {recipe.num_ranks} processes"
    yield (
        f"{counted(len(recipe.cases('train')), 'training case')}, {table.num_classes} classes, "
        f"{counted(steps, 'step')} per epoch, {length}, {parameters / 1e6:.2f} million weights, "
        f"{recipe.device} with {counted(recipe.num_threads, 'thread')}{together}"
    )


def _case_loaders(
    recipe: Recipe, taken_bytes: int, *, show_progress: bool
) -> dict[str, CaseLoader]:
    """Loaders of whole cases for val and debug, where there are cases. `taken_bytes`: memory of the training cases."""
    loaders: dict[str, CaseLoader] = {}
    cache = recipe.task.folder / CACHE_FOLDER
    for split in ("val", "debug"):
        if cases := recipe.cases(split):
            with progress_bar(f"reading cases of {split}", show=show_progress) as advance:
                loaders[split] = build_case_loader(
                    cases,
                    recipe.reading,
                    recipe.table,
                    cache,
                    taken_bytes=taken_bytes,
                    on_progress=advance,
                )
            taken_bytes += loaders[split].memory_bytes
            log.info("%s: %s", split, loaders[split].note)
    return loaders


def _named(settings: Settings, root: str | Path, data_task: str, task: str) -> Settings:
    """The settings with the names of this run filled in, as they are saved in its folder."""
    names = {"output_root_path": str(root), "data_task_name": data_task, "task_name": task}
    return settings.model_copy(update={"tsk_set": settings.tsk_set.model_copy(update=names)})


def _takes_own_gpu(settings: Settings, gpu_id: int | None) -> bool:
    """Whether each process takes the GPU with its own local rank. With `gpu_id` -1, all use the CPU."""
    wanted = settings.tsk_set.gpu_id if gpu_id is None else gpu_id
    return distributed.is_launched() and wanted != -1


def _nothing(_: str) -> None:
    """Print nothing."""


def _fault(
    error: RuntimeError | MemoryError,
    trainer: SupervisedTrainer,
    recipe: Recipe,
    folder: RunFolder,
) -> MonaisegError | None:
    """The error to show to the user in place of `error`; None if the user cannot fix it."""
    loader = trainer.data_loader
    if isinstance(error, RuntimeError):
        known = loader.fault(error) if isinstance(loader, CaseLoader) else worker_fault(error)
        if fault := known or distributed.fault(error):
            return fault
    if "does not have a deterministic implementation" in str(error):
        what = str(error).partition(" ")[0]
        return SettingsError(
            f"this GPU has no variant of {what} that gives the same bits each time; set tsk_set.deterministic to false in "
            f"{folder.settings_file}, and resume with --accept-inexact"
        )
    if (lack := lack_of_memory(error)) is None:
        return None
    state = cast(Any, trainer.state)
    what = f"step {state.iteration}, {in_words(state.batch)}"
    of_patches = not recipe.settings.dataset.seg.use_whole_img_as_input
    can_try = isinstance(lack, torch.OutOfMemoryError) and recipe.num_ranks == 1 and of_patches
    remedy = way_on(error, trainer, recipe, folder) if can_try else _smaller_step(recipe.settings)
    return OutOfMemoryError.of(what, str(recipe.device), lack, remedy)


def _smaller_step(settings: Settings) -> str:
    """The smallest change to the settings that reduces the memory of a step."""
    shape, batch = settings.patch_shape, settings.batch_size
    if batch > 1:
        change = f"lower tsk_set.batch_size from {batch} to {batch - 1}"
    else:
        axis = max(range(3), key=lambda axis: shape[axis])
        change = (
            f"lower dataset.seg.patch_size along {'XYZ'[axis]} from {shape[axis]} to "
            f"{max(shape[axis] - 16, 16)}"
        )
    return f"{change}, or close other programs; then resume, with --accept-inexact if you changed settings"
