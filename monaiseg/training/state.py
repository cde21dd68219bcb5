"""State of a run: everything that changes during training, in one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from monaiseg.training.checkpoint import Best, Checkpoint, check_weights

if TYPE_CHECKING:
    from monaiseg.training.budget import Budget
    from monaiseg.training.handlers.learning_rate import LearningRate
    from monaiseg.training.handlers.weight_averaging import WeightAveraging


@dataclass(eq=False)
class RunState:
    """Current state of a run. A checkpoint saves all of it, and `restored` loads all of it.

    Each handler receives the parts that it changes; the lists here grow during training.
    """

    network: nn.Module
    optimizer: Optimizer
    average: WeightAveraging | None = None
    rate: LearningRate | None = None
    budget: Budget | None = None
    epochs: int | None = None
    """Epochs to train. None: the trainer's own `max_epochs`."""
    step: int = 0
    """Steps done at the start or resume of the run; updated at each checkpoint."""
    epoch: int = 0
    epoch_closed: bool = True
    """Whether the epoch of the last step is complete, including its validation. True for a new run."""
    is_new: bool = True
    """Whether nothing has been committed yet."""
    best: Best | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row per epoch."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step in the current epoch."""
    unshown: list[float] = field(default_factory=list)
    """Losses since the last TensorBoard entry."""
    scaler: Mapping[str, Any] | None = None
    """State of the gradient scaler for mixed precision, which MONAI's trainer creates when it runs."""
    origin: tuple[str, ...] = ()
    """For a run that continues from another run: a description of where its weights come from."""

    def is_complete(self, steps: int) -> bool:
        """Whether the last epoch is done and validated; `steps` is the number of steps per epoch."""
        last = (self.epochs or 0) * steps if self.budget is None else self.budget.last_step
        return self.epoch_closed and self.step >= last

    def checkpoint(self, description: Mapping[str, Any], *, epoch_closed: bool) -> Checkpoint:
        """The current state as a checkpoint; `description` holds the fields that do not change."""
        return Checkpoint(
            **{**_NOTHING_SAID, **description},
            step=self.step,
            epoch=self.epoch,
            epoch_closed=epoch_closed,
            network=self.network.state_dict(),
            averaged=None if self.average is None else self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=({} if self.rate is None else self.rate.state_dict())
            | {"epochs": self.epochs, "losses": self.losses, "unshown": self.unshown}
            | {"budget": None if self.budget is None else self.budget.state_dict()},
            scaler=self.scaler,
            best=self.best,
            history=self.history,
        )

    def restore(self, saved: Checkpoint, *, optimizer: bool = True) -> None:
        """Load a checkpoint of this run; `optimizer` says whether to load the optimiser's state as well.

        Raises:
            CheckpointError: the weights do not fit the network.
        """
        self.restore_weights(saved, optimizer=optimizer)
        schedule = dict(saved.scheduler or {})
        self.losses[:] = schedule.pop("losses")
        self.unshown[:] = schedule.pop("unshown")
        if self.epochs is None:
            self.epochs = schedule["epochs"]
        if self.budget is not None:
            self.budget.load_state_dict(schedule["budget"])
        if self.rate is not None:
            self.rate.load_state_dict(schedule)
        self.step, self.epoch, self.epoch_closed = saved.step, saved.epoch, saved.epoch_closed
        self.is_new, self.best = False, saved.best
        self.history[:] = [dict(row) for row in saved.history]

    def restore_weights(self, saved: Checkpoint, *, optimizer: bool = True) -> None:
        """Load the weights, their average and the optimiser's moments, but keep the optimiser's own options.

        The learning rate stays that of the last step, because a validation that is still due records it.
        """
        check_weights(saved.network, self.network.state_dict(), saved.path)
        self.network.load_state_dict(saved.network)
        if self.average is not None:
            self.average.load_state_dict(saved.averaged or self.network.state_dict())
        self.scaler = saved.scaler
        if optimizer and saved.optimizer is not None:
            options = [
                {name: value for name, value in group.items() if name not in ("params", "lr")}
                for group in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(dict(saved.optimizer))
            for group, wanted in zip(self.optimizer.param_groups, options, strict=True):
                group.update(wanted)


def restored(
    saved: Checkpoint | None, network: nn.Module, optimizer: Optimizer, **parts: Any
) -> RunState:
    """The state of a run that continues from `saved`, its own newest checkpoint. None: the state of a new run."""
    state = RunState(network, optimizer, **parts)
    if saved is not None:
        state.restore(saved)
    return state


_NOTHING_SAID: dict[str, Any] = {
    "settings": "{}",
    "labels": (),
    "channels": (),
    "spacing": (1.0, 1.0, 1.0),
    "conditions": {},
}
"""Fields of a run without a description. Its checkpoints can be resumed, but not used for prediction."""
