"""Resume: the state that a training begins with, be it new, its own last commit or another training's best."""

from __future__ import annotations

import logging
from dataclasses import asdict

from torch import nn
from torch.optim import Optimizer

from monaiseg.data import LabelTable
from monaiseg.errors import CheckpointError, SettingsError
from monaiseg.networks import count_windows
from monaiseg.settings import Settings, parse_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import distributed
from monaiseg.training.budget import Budget, Rhythm
from monaiseg.training.checkpoint import Best, Checkpoint
from monaiseg.training.conditions import difference
from monaiseg.training.handlers.learning_rate import LearningRate
from monaiseg.training.handlers.weight_averaging import WeightAveraging
from monaiseg.training.recipe import Recipe
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.state import RunState
from monaiseg.transforms import target_shape

log = logging.getLogger("monaiseg")


def first_state(
    recipe: Recipe,
    network: nn.Module,
    optimizer: Optimizer,
    folder: RunFolder,
    *,
    steps: int,
    started: float | None = None,
    resume: bool = False,
    extend: int | None = None,
    accept_inexact: bool = False,
) -> RunState:
    """The state of a new training, of this folder's with `resume`, or of that of `model_path` under `continue_train`.

    One that was killed before its first commit had not done a step, and starts.

    Args:
        recipe: of the training.
        network: on its device; it gets the weights.
        optimizer: of the network's weights.
        folder: of the training, locked by the first process.
        steps: of an epoch.
        started: when the clock of a budget began to run, by `time.monotonic`. None: now.
        resume: go on where the training in this folder stopped.
        extend: with `resume`, epochs to train beyond those of the settings.
        accept_inexact: with `resume`, go on although conditions have changed.

    Raises:
        CheckpointError: there is none, it does not fit, or it would not go on exactly.
        SettingsError: there is nothing left to train.
    """
    tsk = recipe.settings.tsk_set

    def new(epochs: int, base: float | None = None) -> RunState:
        average = WeightAveraging(network, tsk.weight_averaging) if tsk.weight_averaging else None
        rate = _learning_rate(recipe, optimizer, steps, epochs, base)
        budget = _budget(recipe, steps, started)
        return RunState(network, optimizer, average, rate, budget, epochs)

    if resume and distributed.from_first(folder.is_trained):
        saved = checkpoints.newest(folder.path)
        _check_conditions(recipe, saved, accept_inexact=accept_inexact)
        state = new(_epochs(recipe, saved, extend), _named_rate(recipe))
        state.restore(saved, optimizer=_has_steps_for(recipe, saved))
        log.info("resumed at step %d, epoch %d, of %s", saved.step, saved.epoch, saved.path)
        return state
    if not tsk.continue_train:
        return new(tsk.epochs)
    if not tsk.model_path:
        raise CheckpointError(
            "tsk_set.continue_train is true and tsk_set.model_path empty; give the checkpoint to go on from, or the "
            "folder of its training, or set continue_train to false"
        )
    saved = checkpoints.load_checkpoint(tsk.model_path)
    return _continued(recipe, saved, new(tsk.epochs, _named_rate(recipe)), folder, steps)


def _check_conditions(recipe: Recipe, saved: Checkpoint, *, accept_inexact: bool) -> None:
    changes = difference(saved.conditions, recipe.conditions)
    if changes and not accept_inexact:
        raise CheckpointError(
            f"{saved.path}: this would not go on exactly: {'; '.join(changes)}. Put it back as it was, or "
            "accept another result with --accept-inexact"
        )
    for change in changes:
        log.warning("resumed inexactly: %s", change)
    had_budget, has_budget = (
        given.tsk_set.budget_minutes is not None for given in (_settings_of(saved), recipe.settings)
    )
    if had_budget != has_budget:
        begun, now = ("with", "without") if had_budget else ("without", "with")
        raise CheckpointError(
            f"{saved.path}: was begun {begun} tsk_set.budget_minutes, and the settings are {now} it; put that back, or go "
            "on from its network in another training, with continue_train"
        )


def _epochs(recipe: Recipe, saved: Checkpoint, extend: int | None) -> int:
    """Epochs to train: as planned, unless the settings say otherwise now, or so many more than they say."""
    wanted, planned = recipe.settings.tsk_set.epochs, int((saved.scheduler or {})["epochs"])
    if extend is None:
        return planned if _settings_of(saved).tsk_set.epochs == wanted else wanted
    if wanted + extend < planned:
        raise SettingsError(
            f"--extend {extend}: the training is extended to {planned} epochs already; give at least "
            f"{planned - wanted}"
        )
    log.info("extended from %d to %d epochs at step %d", planned, wanted + extend, saved.step)
    return wanted + extend


def _has_steps_for(recipe: Recipe, saved: Checkpoint) -> bool:
    """Whether the checkpoint holds moments of the optimiser that the settings ask for."""
    kind = _settings_of(saved).tsk_set.optim.optim_type
    if saved.optimizer is None:
        log.info("%s holds no optimiser state: the optimiser starts afresh", saved.path)
        return False
    if kind != recipe.settings.tsk_set.optim.optim_type:
        log.info("%s holds the state of %s: the optimiser starts afresh", saved.path, kind)
        return False
    return True


# ------------------------------------------------------------ going on from another training


def _continued(
    recipe: Recipe, saved: Checkpoint, state: RunState, folder: RunFolder, steps: int
) -> RunState:
    """The new state with weights, epoch and best of another training's checkpoint."""
    tsk = recipe.settings.tsk_set
    _check_labels(recipe.table, saved)
    state.restore_weights(saved, optimizer=_has_steps_for(recipe, saved))
    epoch = tsk.load_model_but_train_from_epoch if tsk.reset_train_epoch else saved.epoch
    if epoch >= tsk.epochs and state.budget is None:
        raise SettingsError(
            f"tsk_set.epochs: {tsk.epochs} epochs, but training would go on from epoch {epoch}; raise it, "
            "or set reset_train_epoch"
        )
    state.step, state.epoch = epoch * steps, epoch
    state.best = _adopted_best(folder, saved)
    state.origin = _origin(recipe, saved, state)
    for line in state.origin:
        log.info(line)
    return state


def _adopted_best(folder: RunFolder, saved: Checkpoint) -> Best | None:
    """The other training's best, copied by the process that writes."""
    best = checkpoints.adopt_best(folder.checkpoints, saved) if distributed.is_first() else None
    values = distributed.from_first(None if best is None else asdict(best))
    return None if values is None else Best(**values)


def _origin(recipe: Recipe, saved: Checkpoint, state: RunState) -> tuple[str, ...]:
    """Each of EasyReg's keys for going on, with what it has come to."""
    tsk = recipe.settings.tsk_set
    place = "as load_model_but_train_from_epoch says (reset_train_epoch)"
    place = place if tsk.reset_train_epoch else "the one after the checkpoint's"
    named, rate = tsk.continue_train_lr, state.rate and state.rate.at(state.step + 1)
    source = f"of continue_train_lr {named:g}" if named > 0 else "as the schedule has it"
    best = state.best and f"{state.best.value:.4f}, of epoch {state.best.epoch}"
    return (
        f"continue_train: from {saved.path}, saved in epoch {saved.epoch}",
        f"training goes on in epoch {state.epoch + 1}, {place}",
        f"learning rate {rate:g}, {source}; best mean Dice so far {best or 'none'}",
    )


def _check_labels(ours: LabelTable, saved: Checkpoint) -> None:
    """Raises CheckpointError where the weights' classes are other labels than ours, though as many."""
    theirs = LabelTable.from_records(saved.labels)
    if theirs.num_classes != ours.num_classes:
        return  # the weights' shapes say so, and which
    clash = theirs.contradiction(ours)
    if theirs.values != ours.values or clash:
        words = (
            f"label {clash[0]} is {clash[1]!r} there and {clash[2]!r} here"
            if clash
            else f"labels {theirs.values} there and {ours.values} here"
        )
        raise CheckpointError(
            f"{saved.path}: its classes are other structures: {words}; continue on data with its labels"
        )


# ------------------------------------------------------------ parts of the state


def _learning_rate(
    recipe: Recipe, optimizer: Optimizer, steps: int, epochs: int, base: float | None
) -> LearningRate:
    tsk = recipe.settings.tsk_set
    return LearningRate(
        optimizer,
        tsk.optim,
        steps_per_epoch=steps,
        epochs=epochs if tsk.budget_minutes is None else None,
        warmup_epochs=tsk.warmup_epochs,
        base=base,
    )


def _budget(recipe: Recipe, steps: int, started: float | None) -> Budget | None:
    settings = recipe.settings
    if settings.tsk_set.budget_minutes is None:
        return None
    patch, overlap = settings.patch_shape, settings.window_overlap
    cases = [case for split in ("val", "debug") for case in recipe.cases(split)]
    grids = [target_shape(recipe.task.facts[case.id].grid, settings) for case in cases]
    windows = sum(count_windows(shape, patch, overlap) for shape in grids)
    return Budget(
        settings.tsk_set.budget_minutes,
        Rhythm(steps, settings.tsk_set.val_period),
        windows=windows / settings.batch_size,
        started=started,
    )


def _named_rate(recipe: Recipe) -> float | None:
    """The learning rate that the settings name for going on from another training; None if they name none."""
    tsk = recipe.settings.tsk_set
    return tsk.continue_train_lr if tsk.continue_train and tsk.continue_train_lr > 0 else None


def _settings_of(saved: Checkpoint) -> Settings:
    return parse_settings(saved.settings, source=str(saved.path))
