"""Mirror images, in which left and right labels change places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cached_items import PAIRS, cached, settings_of
from monaiseg.data.labels import Label, LabelTable
from monaiseg.errors import SettingsError
from monaiseg.transforms.chains import (
    training_chain,
)
from monaiseg.transforms.mirror import RandMirrord


def test_a_left_right_mirror_exchanges_partners():
    label = np.zeros((4, 1, 1))
    label[:, 0, 0] = [1, 3, 0, 2]  # left eye, nose, nothing, right eye
    mirror = RandMirrord((1.0, 0.0, 0.0), PAIRS.partner_classes)

    mirrored = mirror(cached(label, label))

    assert mirrored["image"][0, :, 0, 0].tolist() == [2, 0, 3, 1]
    assert mirrored["label"][0, :, 0, 0].tolist() == [1, 0, 3, 2]
    assert mirrored["label"].dtype == torch.uint8


def test_other_mirrors_leave_the_labels_alone():
    label = np.zeros((1, 2, 2))
    label[0] = [[1, 2], [3, 0]]
    mirrored = RandMirrord((0.0, 1.0, 1.0), None)(cached(label, label))
    assert mirrored["label"][0, 0].tolist() == [[0, 3], [2, 1]]


def test_a_left_right_mirror_without_partners_is_refused():
    seg = {"augmentation": {"flip": {"left_right": 0.5}}}
    lone = LabelTable.from_values([1], {1: "left eye"})

    with pytest.raises(SettingsError, match="left eye.* no partner"):
        training_chain(settings_of(seg=seg), lone)
    training_chain(settings_of(seg={"augmentation": {"flip": {"up_down": 0.5}}}), lone)


@pytest.mark.parametrize(
    ("names", "can"),
    [
        ({}, False),
        ({1: "anterior"}, False),
        ({1: "anterior", 2: "posterior"}, True),
        ({1: "left eye", 2: "right eye"}, True),
        ({1: "left eye", 2: "nose"}, False),
        ({1: "LeftKidney", 2: "RightKidney"}, True),
        ({1: "kidneyLeft", 2: "nose"}, False),
        ({1: "lkid", 2: "rkid"}, False),
        ({1: "left ventricle", 2: "right ventricle"}, False),
        ({1: "Left-Lateral-Ventricle", 2: "Right-Lateral-Ventricle"}, True),
        ({1: "vertebra_L1", 2: "vertebra_L2"}, True),
    ],
)
def test_what_mirror_images_are_is_known_where_all_labels_have_names(names, can):
    table = LabelTable.from_values([1, 2], names)

    assert table.can_mirror == can
    assert (table.mirror_note() is None) == (len(names) == 2)


@pytest.mark.parametrize(
    ("names", "partners"),
    [
        (("L hippocampus", "R hippocampus"), (2, 1)),
        (("LeftKidney", "RightKidney"), (2, 1)),
        (("kidneyleft", "kidneyright"), (2, 1)),
        (("bright spot", "cleft"), (None, None)),
        (("heart_atrium_left", "heart_atrium_right"), (None, None)),
        (("Left-Inf-Lat-Vent", "Right-Inf-Lat-Vent"), (2, 1)),
    ],
)
def test_partners_are_read_from_names_that_differ_in_their_side(names, partners):
    table = LabelTable.from_values([1, 2], dict(enumerate(names, start=1)))

    assert tuple(label.partner for label in table.foreground) == partners


def test_partners_tell_what_names_do_not():
    labels = [
        Label(0, "background"),
        Label(1, "label 1", partner=2),
        Label(2, "label 2", partner=1),
    ]

    assert LabelTable(tuple(labels)).can_mirror
