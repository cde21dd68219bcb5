"""Validation: scores the averaged weights on whole cases after an epoch, and keeps the best model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator
from torch import nn

from monaiseg.errors import OutOfMemoryError, lack_of_memory
from monaiseg.training import distributed
from monaiseg.training.checkpoint import Best
from monaiseg.training.handlers.batches import in_words
from monaiseg.training.handlers.steps import RunEvents, allow, is_broken_off, last_step_of
from monaiseg.training.handlers.weight_averaging import WeightAveraging


def is_better(new: float, best: float) -> bool:
    """Rule for choosing the best model, for MONAI's evaluator: `metric_cmp_fn=is_better`.

    A higher score is better. Any score is better than NaN, which means that no validation case has any structure.
    """
    return not math.isnan(new) and (math.isnan(best) or new > best)


class Validation:
    """Runs MONAI's evaluators after epochs, and keeps the best model by the `metric_cmp_fn` of the evaluator "val".

    `monai.handlers.ValidationHandler` validates the network's own weights instead of their average, and a signal has
    to wait for the last case. The scores go to the trainer's `state.metrics`: `dice/mean` and `dice/<label>` for the
    evaluator "val", and `dice_<name>/mean` for any other, where `dice` is the name of the key metric.

    Args:
        evaluators: evaluators by name, each a `SupervisedEvaluator` with a key metric. "val" decides which model is
            best.
        every: number of epochs from one validation to the next. The last step is always validated.
        labels: names for the `metric_details` of the key metric.
        average: averaged weights to validate in place of the network's own.
        save_best: called with the score if it is the best so far; returns a pointer to the saved checkpoint.
        best: the best checkpoint before this run.
        stop: returns whether a signal has asked to stop; called after each case.
        at_the_end: further evaluators by name, which run after the last step only; of these the mean alone is kept.
    """

    def __init__(
        self,
        evaluators: Mapping[str, SupervisedEvaluator],
        *,
        every: int = 1,
        labels: Sequence[str] = (),
        average: WeightAveraging | None = None,
        save_best: Callable[[float], Best] | None = None,
        best: Best | None = None,
        stop: Callable[[], bool] = lambda: False,
        at_the_end: Mapping[str, SupervisedEvaluator] | None = None,
    ) -> None:
        self.evaluators, self.every, self.labels = dict(evaluators), every, tuple(labels)
        self.at_the_end = dict(at_the_end or {})
        self.average, self.save_best, self.stop = average, save_best, stop
        self._scores: list[str] = []
        for evaluator in (*self.evaluators.values(), *self.at_the_end.values()):
            # MONAI starts at -1, where it takes any first score as the best, even NaN, without asking metric_cmp_fn.
            evaluator.state.best_metric_epoch = 0
            evaluator.state.best_metric = math.nan if best is None else best.value
            evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._end_case)

    def attach(self, engine: Engine) -> None:
        """Validate at the end of epochs."""
        allow(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate)

    def _forget(self, engine: Engine) -> None:
        for name in self._scores:
            engine.state.metrics.pop(name, None)

    def _validate(self, engine: Any) -> None:
        state = engine.state
        is_last = state.iteration >= last_step_of(engine)
        if state.epoch % self.every and not is_last:
            return
        evaluators = self.evaluators | (self.at_the_end if is_last else {})
        network = distributed.plain(engine.network)
        # Each process has its own batch normalisation statistics; all validate the network that the first one saves.
        averages = [] if self.average is None else self.average.buffers
        distributed.take_from_first([*network.buffers(), *averages])
        state.broken_off = False
        with self._averaged(network):
            for name, evaluator in evaluators.items():
                if not is_broken_off(engine):
                    self._look_at_cases(engine, name, evaluator)
        if is_broken_off(engine):
            engine.terminate()
            return
        scores = {
            k: v for name, it in evaluators.items() for k, v in self._scores_of(name, it).items()
        }
        self._scores = list(scores)
        state.metrics.update(scores)
        self._keep_best(state.epoch)
        engine.fire_event(RunEvents.VALIDATED)

    def _averaged(self, network: nn.Module) -> contextlib.AbstractContextManager[object]:
        return (
            contextlib.nullcontext(network) if self.average is None else self.average.swapped_in()
        )

    def _look_at_cases(self, engine: Any, name: str, evaluator: SupervisedEvaluator) -> None:
        state = cast(Any, evaluator.state)
        state.training_step = engine.state.iteration
        try:
            evaluator.run(engine.state.epoch)
        except (RuntimeError, MemoryError) as error:
            if (lack := lack_of_memory(error)) is None:
                raise
            raise OutOfMemoryError.of(
                f"epoch {engine.state.epoch}, {name}, {in_words(state.batch)}",
                str(state.device),
                lack,
                "lower dataset.seg.patch_size, or close other programs; then resume",
            ) from error
        engine.state.broken_off = bool(getattr(state, "broken_off", False))

    def _end_case(self, evaluator: Any) -> None:
        """End a validation, which can take minutes, after this case if a signal asks to. A resume starts it again."""
        evaluator.state.broken_off = distributed.any_of(self.stop())
        if evaluator.state.broken_off:
            evaluator.terminate()

    def _scores_of(self, name: str, evaluator: SupervisedEvaluator) -> dict[str, float]:
        """The mean score and, if the metric has them, the scores of the labels."""
        state = cast(Any, evaluator.state)
        metric = state.key_metric_name
        title = metric if name == "val" else f"{metric}_{name}"
        of_each = name not in self.at_the_end  # one value for each label is no curve
        details = state.metric_details.get(metric, []) if of_each else []
        labels = {
            f"{title}/{label}": value for label, value in zip(self.labels, details, strict=False)
        }
        return {f"{title}/mean": float(state.metrics[metric]), **labels}

    def _keep_best(self, epoch: int) -> None:
        state = cast(Any, getattr(self.evaluators.get("val"), "state", None))
        if state is not None and state.best_metric_epoch == epoch and self.save_best is not None:
            self.save_best(float(state.best_metric))
