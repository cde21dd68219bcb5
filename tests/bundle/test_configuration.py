"""Configurations hold little code, and what MONAI's tools look for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bundles import LPBA, workflow
from monaiseg.bundle.configuration import configurations

EXPRESSIONS = {
    "$@bundle_root + '/data'",
    "$@bundle_root + '/eval'",
    "$@bundle_root + '/models'",
    "$@ckpt_dir + '/model.pt'",
    "$@ckpt_dir + '/model.ts'",
    "$@defaults.tsk_set.epochs",
    "$@defaults.tsk_set.val_period",
    "$@labels.num_classes",
    "$@network_def.to(@device)",
    "$@training.run()",
    "$@evaluator.run()",
}
"""All the code that a bundle holds."""


def test_a_bundle_holds_no_other_code_than_this():
    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        ):
            yield from texts(item)

    assert {text for text in texts(configurations()) if text.startswith("$")} == EXPRESSIONS
    shipped = [json.loads(path.read_text()) for path in LPBA.glob("configs/*.json")]
    assert {text for text in texts(shipped) if text.startswith("$")} == EXPRESSIONS


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_no_property_that_monai_asks_for_is_missing(name, trained, task, brains):
    data = brains / "images" if name == "inference" else task.folder
    made = workflow(trained, name, dataset_dir=str(data))

    assert made.check_properties() == []
    assert made.version == json.loads((trained / "configs/metadata.json").read_text())["version"]
    assert all(hasattr(made, name) for name in made.properties)


def test_properties_are_what_their_names_say(trained, task):
    made = workflow(trained, "train", dataset_dir=str(task.folder), max_epochs=2)

    assert made.max_epochs == 2
    assert made.trainer.state.max_epochs == 2
    assert made.trainer.network is made.parser.get_parsed_content("network")
    assert len(made.train_dataset) == len(made.train_dataset_data) == 3
    assert made.val_interval == 1
    assert list(made.val_key_metric) == ["dice"]
