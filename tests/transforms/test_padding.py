"""Padding: what lies around an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cached_items import TABLE, settings_of, written
from monaiseg.transforms.case_chain import CaseChain
from monaiseg.transforms.chains import (
    load_chain,
)
from monaiseg.transforms.items import case_item


@pytest.mark.parametrize(
    ("mode", "row"),
    [
        ("constant", [-2, -2, 3, -2, 5, -2, -2]),
        ("replicate", [3, 3, 3, -2, 5, 5, 5]),
        ("reflect", [5, -2, 3, -2, 5, -2, 3]),
        ("circular", [-2, 5, 3, -2, 5, 3, -2]),
    ],
)
def test_what_pads_the_image(tmp_path, mode, row):
    image = np.broadcast_to(np.array([3.0, -2.0, 5.0]), (16, 16, 3)).astype(np.float32)
    label = np.full(image.shape, 2, np.uint8)
    chosen = settings_of(intensity={"method": "none"}, seg={"partition": {"padding_mode": mode}})

    item = CaseChain(load_chain(chosen, TABLE))(case_item(written(tmp_path, image, label)))

    assert item["image"].shape == (1, 16, 16, 16)
    assert item["image"][0, 0, 0, 4:11].tolist() == row
    around = 0 if mode == "constant" else 2
    assert item["label"][0, 0, 0].tolist() == [around] * 6 + [2] * 3 + [around] * 7


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_an_image_that_is_continued_has_its_labels_continued(tmp_path, mode):
    """Mirrored tissue under the label of the background would be learned, and counted against the network."""
    label = np.broadcast_to(np.array([1, 2, 0], np.uint8), (16, 16, 3))
    chosen = settings_of(intensity={"method": "none"}, seg={"partition": {"padding_mode": mode}})

    case = written(tmp_path, label.astype(np.float32), np.ascontiguousarray(label))
    item = CaseChain(load_chain(chosen, TABLE))(case_item(case))

    assert torch.equal(item["label"], item["image"].to(torch.uint8))
