"""Wiring: the handlers of a run, in the order in which they act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ignite.engine import Engine
from monai.engines.evaluator import SupervisedEvaluator

from monaiseg.data import shape_in_words
from monaiseg.networks import SlidingWindow
from monaiseg.settings import Settings, dump_settings
from monaiseg.training import distributed
from monaiseg.training.engines import build_evaluator
from monaiseg.training.handlers.exact_resume import ExactResume
from monaiseg.training.handlers.gradient_clipping import GradientClipping
from monaiseg.training.handlers.history import History
from monaiseg.training.handlers.label_filter import LabelFilter
from monaiseg.training.handlers.label_maps import SaveLabelMaps
from monaiseg.training.handlers.nan_guard import NanGuard
from monaiseg.training.handlers.progress import ProgressDisplay
from monaiseg.training.handlers.seeded_steps import SeededSteps
from monaiseg.training.handlers.stop_on_signal import StopOnSignal
from monaiseg.training.handlers.tensorboard import CasePicture, TensorBoardLog
from monaiseg.training.handlers.time_budget import TimeBudget
from monaiseg.training.handlers.validation import Validation
from monaiseg.training.mirroring import MIRRORED
from monaiseg.training.recipe import Recipe
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.state import RunState


class Handler(Protocol):
    """A handler that MONAI accepts in `train_handlers`."""

    def attach(self, engine: Engine) -> None:
        """Listen to the engine's events."""


def train_handlers(
    recipe: Recipe,
    state: RunState,
    folder: RunFolder,
    evaluators: Mapping[str, SupervisedEvaluator],
    *,
    show_progress: bool = True,
) -> list[Handler]:
    """All handlers of a run, for `SupervisedTrainer(train_handlers=...)`.

    Args:
        recipe: recipe of the run.
        state: state that the run starts with.
        folder: folder of the run.
        evaluators: evaluators for "val" and "debug", as built by `build_evaluator`.
        show_progress: whether the first process shows its progress on stderr; the log has it anyway.
    """
    tsk, table = recipe.settings.tsk_set, recipe.table
    stop = StopOnSignal()
    checkpoints = ExactResume(
        folder.checkpoints,
        state,
        recipe.description,
        every_epochs=tsk.checkpoint_period,
        every_steps=tsk.checkpoint_steps,
        keep_every=tsk.keep_period,
    )
    mirrored = _mirrored(recipe, evaluators)
    validation = Validation(
        evaluators,
        every=tsk.val_period,
        labels=[label.name for label in table.foreground],
        average=state.average,
        save_best=checkpoints.save_best,
        best=state.best,
        stop=lambda: stop.requested,
        at_the_end=mirrored,
    )
    if tsk.save_running_resolution_3d_img:
        for split, evaluator in evaluators.items():
            place = folder.records / "3D"
            SaveLabelMaps(place, table, split, tsk.save_val_fig_epoch).attach(evaluator)
    return [
        LabelFilter(table),
        SeededSteps(tsk.seed),
        NanGuard(folder.checkpoints),
        *([] if tsk.gradient_clip is None else [GradientClipping(tsk.gradient_clip)]),
        *([] if state.average is None else [state.average]),
        validation,
        *([] if state.rate is None else [state.rate]),
        History(folder.history, state.history, state.losses),
        *(
            _shown(recipe, state, folder, {**evaluators, **mirrored}, show_progress)
            if distributed.is_first()
            else []
        ),
        stop,
        checkpoints,
        *(
            []
            if state.budget is None
            else [TimeBudget(state.budget, state.rate, checkpoints.commit)]
        ),
    ]


def _mirrored(
    recipe: Recipe, evaluators: Mapping[str, SupervisedEvaluator]
) -> dict[str, SupervisedEvaluator]:
    """An evaluator that looks at the validation cases with mirrored windows, if the settings ask for these."""
    plain = evaluators.get("val")
    if plain is None or not recipe.settings.window_flips:
        return {}
    evaluator = build_evaluator(
        plain.network,
        plain.data_loader,  # type: ignore[arg-type]  # MONAI: any iterable
        recipe.settings,
        recipe.table,
        recipe.device,
        inferer=SlidingWindow(recipe.settings, recipe.table, recipe.device),
    )
    return {MIRRORED: evaluator}


def _shown(
    recipe: Recipe,
    state: RunState,
    folder: RunFolder,
    evaluators: Mapping[str, SupervisedEvaluator],
    show_progress: bool,
) -> list[Handler]:
    """Handlers that show progress; only the first process has them."""
    tsk = recipe.settings.tsk_set
    board = TensorBoardLog(
        folder.path,
        tsk.print_step[0],
        state.unshown,
        done=state.step,
        labels=[label.name for label in recipe.table.foreground],
        settings=dump_settings(recipe.settings),
        choices=_choices(recipe.settings),
    )
    shown: list[Handler] = [
        ProgressDisplay(show=show_progress, evaluators=evaluators.values()),
        board,
    ]
    if tsk.save_fig_on and "val" in evaluators:
        shown.append(CasePicture(board, recipe.table, evaluators["val"], tsk.save_val_fig_epoch))
    return shown


def _choices(settings: Settings) -> dict[str, float | str]:
    """The settings by which runs are compared, as plain values."""
    tsk, network = settings.tsk_set, settings.tsk_set.network
    length: dict[str, float | str] = (
        {"epochs": tsk.epochs} if tsk.budget_minutes is None else {"minutes": tsk.budget_minutes}
    )
    return length | {
        "lr": tsk.optim.lr,
        "lr_scheduler": tsk.optim.lr_scheduler.type,
        "optimiser": tsk.optim.optim_type,
        "batch_size": settings.batch_size,
        "patch_size": shape_in_words(settings.patch_shape),
        "loss": tsk.loss.type,
        "network": network.variant,
        "channels": network.channels,
        "num_stages": network.num_stages or "auto",
        "seed": tsk.seed,
    }


def handlers_in_words(settings: Settings) -> list[str]:
    """Names of the handlers that the settings lead to, in the order in which they act, for the first process."""
    tsk = settings.tsk_set
    clip, decay, minutes = tsk.gradient_clip, tsk.weight_averaging, tsk.budget_minutes
    return [
        "LabelFilter",
        f"SeededSteps(seed={tsk.seed})",
        "NanGuard",
        *([] if clip is None else [f"GradientClipping({clip:g})"]),
        *([f"WeightAveraging(decay={decay:g})"] if decay else []),
        f"Validation(every={tsk.val_period})",
        f"LearningRate({tsk.optim.lr_scheduler.type}, lr={tsk.optim.lr:g})",
        "History",
        "ProgressDisplay",
        f"TensorBoardLog(every={tsk.print_step[0]})",
        *([f"CasePicture(every={tsk.save_val_fig_epoch})"] if tsk.save_fig_on else []),
        "StopOnSignal",
        f"ExactResume(every_epochs={tsk.checkpoint_period})",
        *([] if minutes is None else [f"TimeBudget(minutes={minutes:g})"]),
    ]
