"""Validation: scores of whole cases, and the best model by the rule that MONAI's evaluator has."""

from __future__ import annotations

import math

import pytest
from ignite.engine import Events

from monaiseg.training.checkpoint import Best
from monaiseg.training.handlers.validation import Validation, is_better
from monaiseg.training.handlers.weight_averaging import WeightAveraging
from plain_trainer import bits, plain_evaluator, plain_trainer, unet


def test_a_plain_trainer_has_the_scores_of_its_epoch():
    network, seen = unet(), []
    evaluator = plain_evaluator(network, metric_cmp_fn=is_better)
    engine = plain_trainer([Validation({"val": evaluator}, every=2)], network, max_epochs=3)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: seen.append(dict(engine.state.metrics))
    )

    engine.run()

    assert [list(scores) for scores in seen] == [[], ["dice/mean"], ["dice/mean"]]
    assert seen[2]["dice/mean"] == evaluator.state.metrics["dice"]
    assert evaluator.state.best_metric == max(scores["dice/mean"] for scores in seen[1:])


@pytest.mark.parametrize(
    ("rule", "kept"), [(is_better, [0.5, 0.75]), (lambda new, old: not new > old, [math.nan, 0.5])]
)
def test_the_evaluators_rule_and_no_other_decides_which_model_is_best(rule, kept, monkeypatch):
    """Scores NaN, 1/2, 3/4, 3/4: by another rule, the less is better."""
    network, saved, scores = unet(), [], iter([math.nan, 0.5, 0.75, 0.75])
    evaluator = plain_evaluator(network, metric_cmp_fn=rule)
    monkeypatch.setattr("monai.handlers.MeanDice.compute", lambda _: next(scores))
    validation = Validation({"val": evaluator}, save_best=saved.append)

    plain_trainer([validation], network, max_epochs=4).run()

    assert saved == pytest.approx(kept, nan_ok=True)


def test_a_best_of_before_is_beaten_or_stays():
    network, saved = unet(), []
    evaluator = plain_evaluator(network, metric_cmp_fn=is_better)
    best = Best(epoch=1, value=1.0, file="best-epoch-0001.pt", sha256="")

    plain_trainer(
        [Validation({"val": evaluator}, save_best=saved.append, best=best)], network
    ).run()

    assert saved == []
    assert evaluator.state.best_metric == 1.0


def test_averaged_weights_are_validated_and_the_networks_own_come_back():
    network, seen = unet(), []
    average = WeightAveraging(network, 0.9)
    evaluator = plain_evaluator(network)
    engine = plain_trainer([average], network, max_epochs=1)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(bits(network)))
    evaluator.add_event_handler(Events.STARTED, lambda: seen.append(bits(network)))
    Validation({"val": evaluator}, average=average).attach(engine)

    engine.run()

    own, validated = seen
    assert own != validated
    assert validated == [value.numpy().tobytes() for value in average.weights.values()]
    assert bits(network) == own


def test_a_signal_breaks_a_validation_off_after_its_case():
    network = unet()
    evaluator = plain_evaluator(network)
    engine = plain_trainer([Validation({"val": evaluator}, stop=lambda: True)], network)

    engine.run()

    assert (engine.state.epoch, evaluator.state.iteration) == (1, 1)
    assert "dice/mean" not in engine.state.metrics
