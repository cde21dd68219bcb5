"""Training: from settings and a data task to a folder with the best network.

A *step* is one batch, counted from 1 through the whole training; an *epoch* is a fixed number of steps. Where a
training stands is its step alone: the order of cases, their augmentation and the learning rate follow from it and
the seed, so that a training that was killed and resumed ends with the same weights, bit for bit. Under a budget of
minutes the last step follows from the clock as well; what is decided about it stands in the commits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator
from monai.engines.trainer import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn

from monaiseg.data import (
    CACHE_FOLDER,
    Case,
    DataTask,
    LabelTable,
    Spacing,
    check_unchanged,
    read_data_task,
)
from monaiseg.errors import (
    CheckpointError,
    MonaisegError,
    OutOfMemoryError,
    SettingsError,
    lack_of_memory,
)
from monaiseg.files import check_room
from monaiseg.networks import InBFloat16, ResidualUNet, build_loss, count_windows
from monaiseg.settings import Settings, changed, dump_settings, parse_settings
from monaiseg.training import checkpoint as checkpoints
from monaiseg.training import distributed
from monaiseg.training.averaging import ModelAverage
from monaiseg.training.budget import CALIBRATION_STEPS, Budget, Rhythm
from monaiseg.training.checkpoint import Best, Checkpoint
from monaiseg.training.devices import device_of, set_threads
from monaiseg.training.engines import (
    build_evaluator,
    build_optimizer,
    build_trainer,
    initial_network,
    network_spacing,
)
from monaiseg.training.handlers.batches import in_words
from monaiseg.training.handlers.history import HistoryCsv
from monaiseg.training.handlers.label_filter import LabelFilter
from monaiseg.training.handlers.nan_guard import NanGuard
from monaiseg.training.handlers.progress import ProgressDisplay
from monaiseg.training.handlers.stop import StopOnSignal
from monaiseg.training.handlers.tensorboard import TensorBoardLog
from monaiseg.training.loaders import CaseLoader, build_case_loader, build_training_loader
from monaiseg.training.resume import difference, fingerprint
from monaiseg.training.run_folder import RunFolder
from monaiseg.training.sampling import EpochSampler, derive, limited, validated
from monaiseg.training.schedule import LearningRate
from monaiseg.training.validation import Validation
from monaiseg.transforms import resize_note, target_shape

log = logging.getLogger("monaiseg")


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind."""

    run_folder: Path
    best: Best | None
    """The best validation: epoch and mean foreground Dice. None before the first one."""
    epochs: int
    """Epochs begun; all are done unless it was interrupted."""
    interrupted: bool
    """True where a signal stopped it before its last epoch; `resume` goes on."""
    seconds: float
    """Wall time of this process's part."""


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
) -> TrainingResult:
    """Train a network on a prepared data task.

    Args:
        settings: every choice of the training.
        output_root_path: folder of all data tasks.
        data_task_name: folder of the prepared data task in it.
        task_name: folder of this training, made in the data task's.
        gpu_id: CUDA device, -1 for the CPU; None is as the settings say.
        resume: go on where the training in this folder stopped.
        extend: with `resume`, epochs to train beyond those of the settings; the same command again adds no more.
        accept_inexact: with `resume`, go on although threads, versions or settings have changed.
        started: when the clock of `tsk_set.budget_minutes` began to run, by `time.monotonic`. None: now.
        say: receives each line that a user should see.

    Raises:
        SettingsError: settings and data do not go together, or a GPU is not there.
        DataError: the data task cannot be used.
        CheckpointError: there is nothing to resume, or it does not fit.
        BusyError: another process trains in this folder.
        StorageError: the disk is full, read-only or failing; what was committed stays.
        OutOfMemoryError: a step needs more memory than there is.
        NumericsError: the loss is no longer a finite number.
    """
    begun = time.monotonic()
    started = begun if started is None else started
    if extend is not None and not resume:
        raise SettingsError("--extend goes with --resume: it lengthens a training that is there")
    if extend is not None and settings.tsk_set.budget_minutes is not None:
        raise SettingsError(
            "--extend counts epochs, and tsk_set.budget_minutes ends this training by the clock; train longer from its "
            "checkpoint, with continue_train and a budget of its own"
        )
    task = read_data_task(Path(output_root_path) / data_task_name)
    settings = _named(settings, output_root_path, data_task_name, task_name)
    device = device_of(settings, gpu_id)
    with opened(RunFolder.of(task.folder, task_name), resume=resume) as folder:
        training = build_training(settings, task, folder, device, started)
        training.restore(resume=resume, extend=extend, accept_inexact=accept_inexact)
        if say is not None:
            training.describe(say)
        training.run()
        result = training.result(time.monotonic() - begun)
        if say is not None and result.interrupted:
            say(f"stopped and committed after step {training.trainer.state.iteration}")
        return result


def opened(folder: RunFolder, *, resume: bool) -> AbstractContextManager[RunFolder]:
    """The folder of a training, locked; of several processes the first holds the lock for all."""
    return folder.opened(resume=resume) if distributed.is_first() else nullcontext(folder)


class Training:
    """A training, wired and ready to run or to go on.

    Several processes may train together: each has a training of its own, with equal weights at every step; the first
    one writes.

    Args:
        settings: every choice of the training.
        task: the prepared data task.
        folder: folder of this training, locked by the first process.
        trainer: as `build_trainer` makes it. Its network, optimiser, loader and number of epochs are what is trained.
        evaluators: for "val" and "debug", as `build_evaluator` makes them.
        spacing: voxel size in mm along X, Y, Z that the network was laid out for.
        started: when the clock of its budget began to run, by `time.monotonic`. None: now.
    """

    def __init__(
        self,
        settings: Settings,
        task: DataTask,
        folder: RunFolder,
        trainer: SupervisedTrainer,
        evaluators: Mapping[str, SupervisedEvaluator],
        spacing: Spacing,
        started: float | None = None,
    ) -> None:
        settings = _as_given(settings, trainer)
        self.settings, self.task, self.folder, self.spacing = settings, task, folder, spacing
        self.trainer = trainer
        self.device: torch.device = trainer.state.device
        self.table = task.label_table(settings)
        check_unchanged(dict.fromkeys(case for _, case in _seen_cases(task)), task.facts)
        self.epochs = settings.tsk_set.epochs
        self.fingerprint = fingerprint(
            settings,
            {name: task.facts[case.id].checksum for name, case in _seen_cases(task)},
            self.table.digest(),
            num_threads=set_threads(settings.tsk_set.num_threads),
            device=_name_of(self.device) + " in bfloat16" * isinstance(trainer.inferer, InBFloat16),
            world_size=distributed.size(),
        )
        self.network = distributed.plain(trainer.network)
        self.average = ModelAverage(self.network, settings.tsk_set.weight_averaging)
        self.stop = StopOnSignal()
        self.is_stopping = False
        self.board = TensorBoardLog(folder.path)
        self.validation = Validation(
            evaluators,
            self.network,
            self.average,
            settings,
            self.table,
            folder,
            self.board,
            self.stop,
        )
        self.optimizer = trainer.optimizer
        self.loader = _case_loader(trainer.data_loader)
        self.sampler = cast(EpochSampler, self.loader.sampler)
        self.rate = self._learning_rate(base=None)
        self.budget = self._budget(started)
        self.best: Best | None = None
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.origin: tuple[str, ...] = ()
        self.is_new = self.is_closed = True
        self._scaler: Mapping[str, Any] | None = None
        self.display = ProgressDisplay()
        self.table_of_epochs = HistoryCsv(folder.history)
        self._attach()

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        """Train to the last epoch, or until a signal asks to stop; a training that is complete does nothing."""
        if self.is_complete:
            return
        try:
            with ExitStack() as stack:
                stack.enter_context(self.stop.listening())
                if distributed.is_first():
                    self.folder.write_settings(self.settings)
                    self._check_room()
                    stack.enter_context(self.display.shown())
                    stack.enter_context(self.board)
                self._go_on()
        except MonaisegError:  # some are kinds of RuntimeError and MemoryError
            raise
        except (RuntimeError, MemoryError) as error:
            if fault := self._fault(error):
                raise fault from error
            raise
        finally:
            self.loader.close()

    def _go_on(self) -> None:
        if self.is_new:  # better to learn now that it cannot be written
            self._commit(epoch_closed=True)
        if not self.is_closed:
            self.trainer.state.epoch = math.ceil(self.trainer.state.iteration / self.steps)
            self._end_epoch(self.trainer)
        if not (self.is_complete or self.is_stopping):
            self.trainer.run()

    def result(self, seconds: float) -> TrainingResult:
        """What the run left behind, after so many seconds of wall time."""
        return TrainingResult(
            self.folder.path, self.best, self.trainer.state.epoch, self.is_stopping, seconds
        )

    def describe(self, say: Callable[[str], None]) -> None:
        """Say what is about to be trained, on what."""
        if self.is_complete:
            longer = (
                "--resume --extend N trains longer"
                if self.settings.tsk_set.budget_minutes is None
                else "tsk_set.continue_train with another budget goes on from its network"
            )
            say(f"already complete: {self.trainer.state.epoch} epochs; {longer}")
            return
        for line in self.origin:
            say(line)
        mirrored = self.table.mirror_note() if self.settings.is_mirrored else None
        for note in filter(None, (resize_note(self.settings), mirrored)):
            say(f"note: {note}")
        parameters = sum(p.numel() for p in self.network.parameters())
        minutes = self.settings.tsk_set.budget_minutes
        length = f"{self.epochs} epochs" if minutes is None else f"{minutes:g} minutes in all"
        say(
            f"{len(self.loader.ids)} cases, {self.table.num_classes} classes, "
            f"{self.steps} steps an epoch, {length}, {parameters / 1e6:.2f} million weights, "
            f"{self.device} with {torch.get_num_threads()} threads"
        )

    @property
    def is_complete(self) -> bool:
        """Whether the last epoch is done and validated."""
        return self.is_closed and self.trainer.state.iteration >= self.last_step

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.loader)

    @property
    def last_step(self) -> float:
        """Step that the training ends with; infinite until a budget's end is decided."""
        return self.rate.course.last_step

    @property
    def is_decided(self) -> bool:
        """Whether it is known where the training ends."""
        return math.isfinite(self.last_step)

    # ------------------------------------------------------------ wiring

    def _attach(self) -> None:
        """Handlers, in the order they act in."""
        trainer, tsk = self.trainer, self.settings.tsk_set
        LabelFilter(self.table).attach(trainer)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_STARTED, self._start_step)
        NanGuard(self.folder.checkpoints).attach(trainer)
        if tsk.gradient_clip is not None:
            trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)
        if distributed.is_first():
            self.display.attach(trainer)
            self.board.attach(trainer, every=tsk.print_step[0])
        # After the board: what it shows of a step is then in the step's commit.
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        if self.budget is not None:
            trainer.add_event_handler(Events.STARTED, self._start_clock, self.budget)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._heed_budget, self.budget)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def _start_epoch(self, engine: Engine) -> None:
        self.sampler.epoch = engine.state.epoch
        if engine.state.iteration % self.steps == 0:
            self.losses = []

    def _start_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        self.rate.apply(step)
        _seed(derive(self.settings.tsk_set.seed, "step", step), self.device)  # dropout

    def _clip(self) -> None:
        if not self._weights_change():
            return
        if self.trainer.scaler is not None:
            self.trainer.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.tsk_set.gradient_clip)  # type: ignore[arg-type]  # attached only where it is set

    def _end_step(self, engine: Any) -> None:
        step = engine.state.iteration
        # One exchange a step: every process knows the mean loss, and all stop at the same step.
        loss, stopping = distributed.means(
            [float(engine.state.output["loss"].detach()), self.stop.requested]
        )
        self.losses.append(loss)
        self.is_stopping = stopping > 0
        if self._weights_change():
            self.average.update(step)
        inside = self._inside_epoch(step)
        if inside and (self.is_stopping or self._commit_is_due(step)):
            self._commit(epoch_closed=False)
        if inside and self.is_stopping:
            engine.terminate()

    def _commit_is_due(self, step: int) -> bool:
        """Whether `checkpoint_steps` falls on this step, or on one of those whose gradients it has accumulated."""
        tsk = self.settings.tsk_set
        period, before = tsk.checkpoint_steps, step - tsk.gradient_accumulation_steps
        return period is not None and step // period > before // period

    def _inside_epoch(self, step: int) -> bool:
        """Whether a commit after this step lacks nothing: no gradients wait, and no end of an epoch is due."""
        return step % self.steps != 0 and self._weights_change()

    def _start_clock(self, _: Engine, budget: Budget) -> None:
        """The first step is about to begin."""
        budget.begun()
        self.display.end_at(self.last_step)

    def _heed_budget(self, engine: Any, budget: Budget) -> None:
        """Decide where to end once the first steps are measured, and end here where time is up."""
        step = engine.state.iteration
        budget.stepped()
        if distributed.any_of(step < self.last_step and budget.is_spent(step)):
            self._end_at(step)
        elif not self.is_decided and step >= CALIBRATION_STEPS and self._inside_epoch(step):
            self._decide(budget)
            self._commit(epoch_closed=False)
            budget.closed(committed=True)
        if step == self.last_step and step % self.steps:
            self._end_epoch(engine)
            engine.terminate()

    def _decide(self, budget: Budget) -> None:
        """Decide the last step by the clock. The commit that follows at once carries the decision."""
        step = self.trainer.state.iteration
        self._end_at(distributed.from_first(budget.last_step(step, closed=step // self.steps)))
        log.info(
            "budget: %.0f of %.0f seconds spent after step %d; the last one will be step %g",
            budget.spent,
            budget.seconds,
            step,
            self.last_step,
        )

    def _end_at(self, last_step: int) -> None:
        self.rate.end_at(self.trainer.state.iteration, last_step)
        self.trainer.state.max_epochs = math.ceil(last_step / self.steps)
        self.display.end_at(last_step)

    def _end_epoch(self, engine: Engine) -> None:
        """Validate, save the best, note the epoch, commit: in this order, so that a kill in between loses nothing."""
        epoch, tsk = engine.state.epoch, self.settings.tsk_set
        last = engine.state.iteration >= self.last_step
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": engine.state.iteration,
            "loss": sum(self.losses) / max(len(self.losses), 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if epoch % tsk.val_period == 0 or last:
            scores = self._validate(epoch)
            if scores is None:
                self._commit(epoch_closed=False)
                engine.terminate()
                return
            row |= scores
            if self.budget is not None:
                self.budget.validated()
        self.is_closed = True
        self.history.append(row)
        if distributed.is_first():
            self._note(row)
        improved = self.best is not None and self.best.epoch == epoch
        due = epoch % tsk.checkpoint_period == 0 or not self.is_decided
        committed = due or last or improved or self.is_stopping
        if committed:
            if self.budget is not None and not last:
                self._decide(self.budget)
            self._commit(epoch_closed=True)
        if self.budget is not None:
            self.budget.closed(committed=committed)
        if self.is_stopping:
            engine.terminate()

    def _note(self, row: dict[str, Any]) -> None:
        """Show and write an epoch's row, and keep its checkpoint where that is wanted."""
        self.display.epoch(row)
        self.board.epoch(row)
        self.table_of_epochs.write(self.history)
        period = self.settings.tsk_set.keep_period
        if period and row["epoch"] % period == 0:
            checkpoints.keep(self.folder.checkpoints, self._checkpoint(epoch_closed=True))

    def _commit(self, *, epoch_closed: bool) -> None:
        if distributed.is_first():
            self.board.flush()  # a resume does not write again what is at or before its step
            checkpoints.commit(self.folder.checkpoints, self._checkpoint(epoch_closed=epoch_closed))

    def _validate(self, epoch: int) -> dict[str, float] | None:
        """Scores of an epoch's validation; saves the weights where it is the best so far. None: a signal broke it off."""
        step = self.trainer.state.iteration
        row = None if self.is_stopping else self.validation.scores(epoch, step)
        if row is None:
            self.is_stopping = True
            return None
        dice = row.get("dice/mean")
        if dice is not None and not math.isnan(dice):  # NaN: no validation case has any structure
            self.rate.validated(dice)
            if self.best is None or dice > self.best.value:
                self.best = self._save_best(dice)
        return row

    def _save_best(self, dice: float) -> Best:
        best = None
        if distributed.is_first():
            saved = self._checkpoint(epoch_closed=True)
            best = asdict(checkpoints.save_best(self.folder.checkpoints, saved, dice))
        return Best(**distributed.from_first(best))

    def _weights_change(self) -> bool:
        """Whether this step ends an accumulation, by the trainer's own rule."""
        place = int(self.trainer.state.iteration - 1) % self.steps + 1
        every = self.settings.tsk_set.gradient_accumulation_steps
        return place % every == 0 or place == self.steps

    def _learning_rate(self, base: float | None) -> LearningRate:
        tsk = self.settings.tsk_set
        return LearningRate(
            self.optimizer,
            tsk.optim,
            steps_per_epoch=self.steps,
            epochs=self.epochs if tsk.budget_minutes is None else None,
            warmup_epochs=tsk.warmup_epochs,
            base=base,
        )

    def _budget(self, started: float | None) -> Budget | None:
        tsk = self.settings.tsk_set
        if tsk.budget_minutes is None:
            return None
        patch, overlap = self.settings.patch_shape, self.settings.window_overlap
        shapes = [
            target_shape(self.task.facts[case_id].grid, self.settings)
            for case_id in self.validation.case_ids
        ]
        windows = sum(count_windows(shape, patch, overlap) for shape in shapes)
        return Budget(
            tsk.budget_minutes,
            Rhythm(self.steps, tsk.val_period),
            windows=windows / self.settings.batch_size,
            started=started,
        )

    # ------------------------------------------------------------ there and back

    def _checkpoint(self, *, epoch_closed: bool) -> Checkpoint:
        state = self.trainer.state
        scaler = self.trainer.scaler  # made when the trainer runs
        return Checkpoint(
            step=state.iteration,
            epoch=state.epoch,
            epoch_closed=epoch_closed,
            network=self.network.state_dict(),
            averaged=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.rate.state_dict()
            | {"epochs": self.epochs, "losses": self.losses, "unshown": self.board.state_dict()}
            | {"budget": None if self.budget is None else self.budget.state_dict()},
            scaler=self._scaler if scaler is None else scaler.state_dict(),
            settings=dump_settings(self.settings),
            labels=self.table.to_records(),
            channels=self.task.channel_names,
            spacing=self.spacing,
            fingerprint=self.fingerprint,
            best=self.best,
            history=self.history,
        )

    def restore(self, *, resume: bool, extend: int | None, accept_inexact: bool) -> None:
        """Take up a training: this folder's with `resume`, that of `model_path` under `continue_train`.

        One that was killed before its first commit had not done a step, and starts.

        Raises:
            CheckpointError: there is none, it does not fit, or it would not go on exactly.
        """
        tsk = self.settings.tsk_set
        if resume and distributed.from_first(self.folder.is_trained):
            self._resume(checkpoints.newest(self.folder.path), extend, accept_inexact)
        elif tsk.continue_train and not tsk.model_path:
            raise CheckpointError(
                "tsk_set.continue_train is true and tsk_set.model_path empty; give the checkpoint to go on from, or the "
                "folder of its training, or set continue_train to false"
            )
        elif tsk.continue_train:
            self._continue_from(checkpoints.load_checkpoint(tsk.model_path))

    def _resume(self, saved: Checkpoint, extend: int | None, accept_inexact: bool) -> None:
        changes = difference(saved.fingerprint, self.fingerprint)
        if changes and not accept_inexact:
            raise CheckpointError(
                f"{saved.path}: this would not go on exactly: {'; '.join(changes)}. Put it back as it was, or "
                "accept another result with --accept-inexact"
            )
        for change in changes:
            log.warning("resumed inexactly: %s", change)
        scheduler = dict(saved.scheduler or {})
        budget = scheduler.pop("budget")
        if (budget is None) != (self.budget is None):
            begun, now = ("with", "without") if self.budget is None else ("without", "with")
            raise CheckpointError(
                f"{saved.path}: was begun {begun} tsk_set.budget_minutes, and the settings are {now} it; put that back, or go "
                "on from its network in another training, with continue_train"
            )
        self.epochs = self._epochs_of(saved, int(scheduler.pop("epochs")), extend)
        self.losses = list(scheduler.pop("losses"))
        unshown = scheduler.pop("unshown")
        self._load(saved)
        self.is_new = False
        self.rate = self._learning_rate(base=self._named_rate())
        if self.budget is not None:
            self.budget.load_state_dict(budget)
        self.rate.load_state_dict(scheduler)
        is_end = saved.step % self.steps == 0 or saved.step >= self.last_step
        self.is_closed = saved.epoch_closed or not is_end
        self.best = saved.best
        self.history = [dict(row) for row in saved.history]
        if distributed.is_first():
            self.table_of_epochs.write(self.history)  # it may lack rows, or have some of later
        self._stand_at(saved.step)
        self.board.stand_at(saved.step, unshown)
        log.info("resumed at step %d, epoch %d, of %s", saved.step, saved.epoch, saved.path)

    def _epochs_of(self, saved: Checkpoint, planned: int, extend: int | None) -> int:
        """Epochs to train: as planned, unless the settings say otherwise now, or so many more than they say."""
        if extend is None:
            return (
                planned if self._settings_of(saved).tsk_set.epochs == self.epochs else self.epochs
            )
        epochs = self.epochs + extend
        if epochs < planned:
            raise SettingsError(
                f"--extend {extend}: the training is extended to {planned} epochs already; give at least "
                f"{planned - self.epochs}"
            )
        log.info("extended from %d to %d epochs at step %d", planned, epochs, saved.step)
        return epochs

    def _continue_from(self, saved: Checkpoint) -> None:
        tsk = self.settings.tsk_set
        self._check_labels(saved)
        self._load(saved)
        epoch = tsk.load_model_but_train_from_epoch if tsk.reset_train_epoch else saved.epoch
        if epoch >= self.epochs and self.budget is None:
            raise SettingsError(
                f"tsk_set.epochs: {self.epochs} epochs, but training would go on from epoch {epoch}; raise it, "
                "or set reset_train_epoch"
            )
        self.rate = self._learning_rate(base=self._named_rate())
        self._stand_at(epoch * self.steps)
        self.best = self._adopted_best(saved)
        self.origin = self._origin(saved, epoch)
        for line in self.origin:
            log.info(line)

    def _adopted_best(self, saved: Checkpoint) -> Best | None:
        """The other training's best, copied by the process that writes."""
        best = None
        if distributed.is_first():
            best = checkpoints.adopt_best(self.folder.checkpoints, saved)
        values = distributed.from_first(None if best is None else asdict(best))
        return None if values is None else Best(**values)

    def _origin(self, saved: Checkpoint, epoch: int) -> tuple[str, ...]:
        """Each of EasyReg's keys for going on, with what it has come to."""
        tsk = self.settings.tsk_set
        place = "as load_model_but_train_from_epoch says (reset_train_epoch)"
        place = place if tsk.reset_train_epoch else "the one after the checkpoint's"
        named, rate = tsk.continue_train_lr, self.rate.at(epoch * self.steps + 1)
        source = f"of continue_train_lr {named:g}" if named > 0 else "as the schedule has it"
        best = self.best and f"{self.best.value:.4f}, of epoch {self.best.epoch}"
        return (
            f"continue_train: from {saved.path}, saved in epoch {saved.epoch}",
            f"training goes on in epoch {epoch + 1}, {place}",
            f"learning rate {rate:g}, {source}; best mean Dice so far {best or 'none'}",
        )

    def _check_labels(self, saved: Checkpoint) -> None:
        """Raises CheckpointError where the weights' classes are other labels than ours, though as many."""
        theirs = LabelTable.from_records(saved.labels)
        if theirs.num_classes != self.table.num_classes:
            return  # the weights' shapes say so, and which
        clash = theirs.contradiction(self.table)
        if theirs.values != self.table.values or clash:
            words = (
                f"label {clash[0]} is {clash[1]!r} there and {clash[2]!r} here"
                if clash
                else f"labels {theirs.values} there and {self.table.values} here"
            )
            raise CheckpointError(
                f"{saved.path}: its classes are other structures: {words}; continue on data with its labels"
            )

    def _load(self, saved: Checkpoint) -> None:
        checkpoints.check_weights(saved.network, self.network.state_dict(), saved.path)
        self.network.load_state_dict(saved.network)
        self.average.load_state_dict(saved.averaged)
        self._load_optimizer(saved)
        if saved.scaler is not None:
            self._scaler = scaler = dict(saved.scaler)
            self.trainer.add_event_handler(  # MONAI makes a new scaler whenever a run starts
                Events.STARTED,
                lambda engine: engine.scaler and engine.scaler.load_state_dict(scaler),
            )

    def _load_optimizer(self, saved: Checkpoint) -> None:
        """Moments of the saved optimiser, under the options of the settings, which may have changed.

        The rate stays the last step's, as a closing validation notes it.
        """
        kind = self._settings_of(saved).tsk_set.optim.optim_type
        if saved.optimizer is None:
            log.info("%s holds no optimiser state: the optimiser starts afresh", saved.path)
        elif kind != self.settings.tsk_set.optim.optim_type:
            log.info("%s holds the state of %s: the optimiser starts afresh", saved.path, kind)
        else:
            options = [
                {name: value for name, value in group.items() if name not in ("params", "lr")}
                for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(dict(saved.optimizer))
            for group, wanted in zip(self.optimizer.param_groups, options, strict=True):
                group.update(wanted)

    @staticmethod
    def _settings_of(saved: Checkpoint) -> Settings:
        return parse_settings(saved.settings, source=str(saved.path))

    def _named_rate(self) -> float | None:
        """The learning rate that the settings name for going on from another training; None if they name none."""
        tsk = self.settings.tsk_set
        return tsk.continue_train_lr if tsk.continue_train and tsk.continue_train_lr > 0 else None

    def _stand_at(self, step: int) -> None:
        last = self.last_step if self.is_decided else step + 1
        epochs = self.trainer.state.max_epochs = math.ceil(last / self.steps)
        self.trainer.load_state_dict(
            {"iteration": step, "max_epochs": epochs, "epoch_length": self.steps}
        )
        self.sampler.skip = (step % self.steps) * self.settings.batch_size
        self.board.stand_at(step)

    # ------------------------------------------------------------ what may go wrong

    def _check_room(self) -> None:
        """Say it before the first step where the disk has no room for what will lie there at one time."""
        weights = sum(value.nbytes for value in self.network.state_dict().values())
        moments = 1 if self.settings.tsk_set.optim.optim_type == "sgd" else 2
        generation = weights * (1 + moments + (self.average.weights is not None))
        needed = (3 if self.is_new else 1) * generation + (2 if self.best is None else 1) * weights
        check_room(self.folder.checkpoints, needed, "checkpoints")

    def _fault(self, error: RuntimeError | MemoryError) -> MonaisegError | None:
        """What the user can put right about `error`, in one message; None if it is none of these."""
        if isinstance(error, RuntimeError) and (fault := self.loader.fault(error)):
            return fault
        if (lack := lack_of_memory(error)) is None:
            return None
        state = cast(Any, self.trainer.state)
        what = f"step {state.iteration}, {in_words(state.batch)}"
        return OutOfMemoryError.of(what, str(self.device), lack, _smaller_step(self.settings))


def build_training(
    settings: Settings,
    task: DataTask,
    folder: RunFolder,
    device: torch.device,
    started: float | None = None,
) -> Training:
    """The training that the settings describe, with all of its parts; `started` is as `Training` takes it."""
    set_threads(settings.tsk_set.num_threads)
    table, spacing = task.label_table(settings), network_spacing(task, settings)
    reading = task.as_read(settings)
    network = initial_network(settings, table, spacing).to(device)
    loader = build_training_loader(
        limited(task, "train", settings), reading, table, task.folder / CACHE_FOLDER, device
    )
    log.info("train: %s", loader.note)
    trainer = build_trainer(
        settings,
        network,
        build_optimizer(network, settings.tsk_set.optim),
        build_loss(
            settings.tsk_set.loss,
            table.num_classes,
            has_ignored=table.ignored_index is not None,
        ),
        loader,
        device,
    )
    evaluators = {
        split: build_evaluator(network, cases, settings, table, device)
        for split, cases in _case_loaders(task, reading, table, loader.memory_bytes).items()
    }
    return Training(settings, task, folder, trainer, evaluators, spacing, started)


def _case_loaders(
    task: DataTask, settings: Settings, table: LabelTable, taken_bytes: int
) -> dict[str, CaseLoader]:
    """Whole cases of val and debug; splits without cases are left out. `taken_bytes` are the training cases'."""
    loaders: dict[str, CaseLoader] = {}
    for split in ("val", "debug"):
        if cases := validated(task, split, settings):
            loaders[split] = build_case_loader(
                cases, settings, table, task.folder / CACHE_FOLDER, taken_bytes=taken_bytes
            )
            taken_bytes += loaders[split].memory_bytes
            log.info("%s: %s", split, loaders[split].note)
    return loaders


def _named(settings: Settings, root: str | Path, data_task: str, task: str) -> Settings:
    """The settings with the names of this training in them, as they are saved beside it."""
    names = {"output_root_path": str(root), "data_task_name": data_task, "task_name": task}
    return settings.model_copy(update={"tsk_set": settings.tsk_set.model_copy(update=names)})


def _seen_cases(task: DataTask) -> Iterator[tuple[str, Case]]:
    """The cases that a training looks at, by "split/case id": all but those of the test."""
    for split in ("train", "val", "debug"):
        for case in task.cases.get(split, ()):
            yield f"{split}/{case.id}", case


def _as_given(settings: Settings, trainer: SupervisedTrainer) -> Settings:
    """The settings with what the trainer was given, which may be other than what they ask for."""
    network = distributed.plain(trainer.network)
    given: dict[str, Any] = {
        "tsk_set.epochs": trainer.state.max_epochs,
        "tsk_set.optim.lr": float(trainer.optimizer.defaults["lr"]),
    }
    if isinstance(network, ResidualUNet):
        given["tsk_set.network"] = network.settings.model_dump(mode="json")
    return changed(settings, given)


def _case_loader(loader: object) -> CaseLoader:
    """The loader, if its passes can be repeated and gone on with."""
    if isinstance(loader, CaseLoader) and isinstance(loader.sampler, EpochSampler):
        return loader
    raise SettingsError(
        f"the training's loader is a {type(loader).__name__}, whose passes cannot be repeated; make it by "
        "monaiseg.training.build_training_loader, around whatever dataset"
    )


def _smaller_step(settings: Settings) -> str:
    """The smallest change of the settings that lets a step take less memory."""
    shape, batch = settings.patch_shape, settings.batch_size
    if batch > 1:
        change = f"lower tsk_set.batch_size from {batch} to {batch - 1}"
    else:
        axis = max(range(3), key=lambda axis: shape[axis])
        change = (
            f"lower dataset.seg.patch_size along {'XYZ'[axis]} from {shape[axis]} to "
            f"{max(shape[axis] - 16, 16)}"
        )
    return f"{change}, or end what else takes memory; then resume, with --accept-inexact after a change"


def _seed(seed: int, device: torch.device) -> None:
    """Of the devices that compute; `torch.manual_seed` asks all kinds of them, which takes 1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
