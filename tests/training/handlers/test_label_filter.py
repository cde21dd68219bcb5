"""Label filter: class indices that the network has, and no others."""

from __future__ import annotations

import pytest
import torch

from monaiseg.data.labels import LabelTable
from monaiseg.errors import DataError
from monaiseg.training.handlers.batches import case_ids, in_words
from monaiseg.training.handlers.label_filter import LabelFilter
from plain_trainer import batch, one_weight, plain_trainer

TABLE = LabelTable.from_values([1, 21, 22], {21: "left hippocampus", 22: "right hippocampus"})


def test_a_network_of_two_classes_refuses_a_third():
    table = LabelTable.from_values([1])
    assert plain_trainer([LabelFilter(table)]).run() is None

    wrong = [{"image": torch.rand(2, 1, 8, 8, 8), "label": torch.full((2, 1, 8, 8, 8), 2)}]
    with pytest.raises(DataError, match="class indices 2 to 2, but the network has classes 0 to 1"):
        plain_trainer([LabelFilter(table)], train_data_loader=wrong).run()


def test_class_indices_pass_unchanged():
    given = batch(3)
    engine = one_weight([given])
    LabelFilter(TABLE).attach(engine)

    engine.run()

    assert engine.state.output["label"] is given["label"]


@pytest.mark.parametrize("index", [4, 255])
def test_a_class_index_that_the_network_lacks_is_refused_with_its_case(index):
    engine = one_weight([batch(0), batch(index, "S07")])
    LabelFilter(TABLE).attach(engine)

    with pytest.raises(
        DataError, match=rf"step 2, cases S07: class indices {index} to {index}, .* 0 to 3"
    ):
        engine.run()


def test_a_negative_class_index_is_refused():
    engine = one_weight([batch(0) | {"label": torch.full((1, 1, 2, 2, 2), -1)}])
    LabelFilter(TABLE).attach(engine)

    with pytest.raises(DataError, match="class indices -1 to -1"):
        engine.run()


def test_label_values_become_class_indices_and_the_loaders_batch_stays():
    given = batch(22)
    engine = one_weight([given])
    LabelFilter(TABLE, filtered=False).attach(engine)

    engine.run()

    assert engine.state.output["label"].unique().tolist() == [3]
    assert given["label"].unique().tolist() == [22]


def test_label_values_that_the_table_does_not_name_are_refused_with_their_case():
    engine = one_weight([batch(7, "S07")])
    LabelFilter(TABLE, filtered=False).attach(engine)

    with pytest.raises(
        DataError, match=r"cases S07: label values 7 \(8 voxels\) are not in the label table"
    ):
        engine.run()


def test_cases_are_named_once_each():
    assert case_ids({"case_id": ["b", "a", "b"]}) == ["b", "a"]
    assert in_words({"case_id": "S01"}) == "cases S01"
    assert in_words({}) == "cases unknown"
