"""State of a run: everything that changes while a network is trained, in one record."""

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
    """Where a run stands. A checkpoint holds all of it, and `restored` takes all of it back.

    Handlers are given the parts that they change: the lists here grow as they work.
    """

    network: nn.Module
    optimizer: Optimizer
    average: WeightAveraging | None = None
    rate: LearningRate | None = None
    budget: Budget | None = None
    epochs: int | None = None
    """Epochs to train. None: as the trainer has it."""
    step: int = 0
    """Steps done when the run was begun or resumed, and of each checkpoint since."""
    epoch: int = 0
    epoch_closed: bool = True
    """Whether the end of the last step's epoch is over, validation included; true inside of an epoch of a resume."""
    is_new: bool = True
    """Whether nothing has been committed yet."""
    best: Best | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch."""
    losses: list[float] = field(default_factory=list)
    """Of the open epoch's steps."""
    unshown: list[float] = field(default_factory=list)
    """Losses since TensorBoard's last entry."""
    scaler: Mapping[str, Any] | None = None
    """Of mixed precision; MONAI's trainer makes its scaler when it runs."""
    origin: tuple[str, ...] = ()
    """Where a training that goes on from another has its weights from, in words."""

    def is_complete(self, steps: int) -> bool:
        """Whether the last epoch, of so many steps, is done and validated."""
        last = (self.epochs or 0) * steps if self.budget is None else self.budget.last_step
        return self.epoch_closed and self.step >= last

    def checkpoint(self, description: Mapping[str, Any], *, epoch_closed: bool) -> Checkpoint:
        """All of it as it is now; `description` is what does not change."""
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
        """Stand where the checkpoint of this run stood; the steps of the optimiser only where they are wanted.

        Raises:
            CheckpointError: its weights do not fit the network.
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
        """Take weights, their average and the optimiser's moments, under the optimiser's own options.

        The rate stays the last step's, as a closing validation notes it.
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
    """The state of a run that goes on from `saved`, its own newest checkpoint; a new one where that is None."""
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
"""Of a run that is not described: its checkpoints serve to go on, and not to predict."""
