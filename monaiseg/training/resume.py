"""Resume: the state that a run starts with: a new one, its own last commit, or the checkpoint of another run."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

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
    """The state that a run starts with.

    With `resume` it is the last commit in this folder; with `continue_train` in the settings, the weights of
    `model_path`; otherwise, a new state. A run that was killed before its first commit starts again, because it has no
    completed step.

    Args:
        recipe: recipe of the run.
        network: network on its device; receives the weights.
        optimizer: optimiser of the network's weights.
        folder: folder of the run, locked by the first process.
        steps: steps per epoch.
        started: `time.monotonic()` at which the clock of a time budget started. None: now.
        resume: continue the run in this folder from its last commit.
        extend: with `resume`, train this many epochs beyond those in the settings.
        accept_inexact: with `resume`, continue even if the conditions have changed.

    Raises:
        CheckpointError: there is no checkpoint, it does not fit, or the run would not resume exactly.
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
            "tsk_set.continue_train is true but tsk_set.model_path is empty; give a checkpoint or a run folder to continue "
            "from, or set continue_train to false"
        )
    saved = checkpoints.load_checkpoint(tsk.model_path)
    return _continued(recipe, saved, new(tsk.epochs, _named_rate(recipe)), folder, steps)


def _check_conditions(recipe: Recipe, saved: Checkpoint, *, accept_inexact: bool) -> None:
    changes = difference(saved.conditions, recipe.conditions)
    if changes and not accept_inexact:
        raise CheckpointError(
            f"{saved.path}: this would not continue exactly: {'; '.join(changes)}. Change it back, or accept "
            "a different result with --accept-inexact"
        )
    for change in changes:
        log.warning("resumed inexactly: %s", change)
    had_budget, has_budget = (
        given.tsk_set.budget_minutes is not None for given in (_settings_of(saved), recipe.settings)
    )
    if had_budget != has_budget:
        begun, now = ("with", "without") if had_budget else ("without", "with")
        raise CheckpointError(
            f"{saved.path}: this run started {begun} tsk_set.budget_minutes, but the settings are now {now} it; change that "
            "back, or continue from this checkpoint in another run, with tsk_set.continue_train"
        )


def _epochs(recipe: Recipe, saved: Checkpoint, extend: int | None) -> int:
    """Epochs to train: as planned in the checkpoint or, if they have changed, as in the settings; plus `extend`."""
    wanted, planned = recipe.settings.tsk_set.epochs, int((saved.scheduler or {})["epochs"])
    if extend is None:
        return planned if _settings_of(saved).tsk_set.epochs == wanted else wanted
    if wanted + extend < planned:
        raise SettingsError(
            f"--extend {extend}: this run already has {planned} epochs; use --extend {planned - wanted} or more"
        )
    log.info("extended from %d to %d epochs at step %d", planned, wanted + extend, saved.step)
    return wanted + extend


def _has_steps_for(recipe: Recipe, saved: Checkpoint) -> bool:
    """Whether the checkpoint holds the state of the optimiser that the settings ask for."""
    kind = _settings_of(saved).tsk_set.optim.optim_type
    if saved.optimizer is None:
        log.info("%s has no optimiser state; the optimiser starts from scratch", saved.path)
        return False
    if kind != recipe.settings.tsk_set.optim.optim_type:
        log.info("%s has the state of %s; the optimiser starts from scratch", saved.path, kind)
        return False
    return True


# ------------------------------------------------------------ continuing from another run


def _continued(
    recipe: Recipe, saved: Checkpoint, state: RunState, folder: RunFolder, steps: int
) -> RunState:
    """The new state with the weights, epoch and best checkpoint of another run."""
    tsk = recipe.settings.tsk_set
    _check_labels(recipe.table, saved)
    state.restore_weights(_with_own_atlas(saved, state), optimizer=_has_steps_for(recipe, saved))
    epoch = tsk.load_model_but_train_from_epoch if tsk.reset_train_epoch else saved.epoch
    if epoch >= tsk.epochs and state.budget is None:
        raise SettingsError(
            f"tsk_set.epochs: {tsk.epochs} epochs, but training would continue from epoch {epoch}; use a "
            "larger number, or set reset_train_epoch"
        )
    state.step, state.epoch = epoch * steps, epoch
    state.best = _adopted_best(folder, saved)
    state.origin = _origin(recipe, saved, state)
    for line in state.origin:
        log.info(line)
    return state


def _adopted_best(folder: RunFolder, saved: Checkpoint) -> Best | None:
    """The best checkpoint of the other run, copied by the process that writes."""
    best = checkpoints.adopt_best(folder.checkpoints, saved) if distributed.is_first() else None
    values = distributed.from_first(None if best is None else asdict(best))
    return None if values is None else Best(**values)


def _origin(recipe: Recipe, saved: Checkpoint, state: RunState) -> tuple[str, ...]:
    """The effect of each of EasyReg's keys for continuing from another run, in words."""
    tsk = recipe.settings.tsk_set
    place = "set by load_model_but_train_from_epoch (reset_train_epoch)"
    place = place if tsk.reset_train_epoch else "the next after the checkpoint"
    named, rate = tsk.continue_train_lr, state.rate and state.rate.at(state.step + 1)
    source = f"from continue_train_lr {named:g}" if named > 0 else "from the schedule"
    best = state.best and f"{state.best.value:.4f}, in epoch {state.best.epoch}"
    return (
        f"continue_train: from {saved.path}, saved in epoch {saved.epoch}",
        f"training continues with epoch {state.epoch + 1}, {place}",
        f"learning rate {rate:g}, {source}; best mean Dice so far {best or 'none'}",
    )


def _check_labels(ours: LabelTable, saved: Checkpoint) -> None:
    """Raise CheckpointError if the checkpoint has as many classes as our table but different labels."""
    theirs = LabelTable.from_records(saved.labels)
    if theirs.num_classes != ours.num_classes:
        return  # the check of the weights' shapes reports it
    clash = theirs.contradiction(ours)
    if theirs.values != ours.values or clash:
        words = (
            f"label {clash[0]} is {clash[1]!r} there and {clash[2]!r} here"
            if clash
            else f"labels {theirs.values} there and {ours.values} here"
        )
        raise CheckpointError(
            f"{saved.path}: its labels differ: {words}; continue with data that have the same labels"
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
        Rhythm(
            steps,
            settings.tsk_set.val_period,
            at_the_end=2 ** len(flips) if (flips := settings.window_flips) else 0,
        ),
        windows=windows / settings.batch_size,
        started=started,
    )


def _with_own_atlas(saved: Checkpoint, state: RunState) -> Checkpoint:
    """The checkpoint with the atlas of this run: its training cases are placed in it, and not in that of the other run."""
    prior = getattr(state.network, "prior", None)
    if prior is None:
        return saved
    own = {f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}
    averaged = None if saved.averaged is None else {**saved.averaged, **own}
    return replace(saved, network={**saved.network, **own}, averaged=averaged)


def _named_rate(recipe: Recipe) -> float | None:
    """The learning rate that the settings give for continuing from another run; None if they give none."""
    tsk = recipe.settings.tsk_set
    return tsk.continue_train_lr if tsk.continue_train and tsk.continue_train_lr > 0 else None


def _settings_of(saved: Checkpoint) -> Settings:
    return parse_settings(saved.settings, source=str(saved.path))
