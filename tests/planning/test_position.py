"""Position: an atlas where it explains labels, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bodies import K, make_body, to_body
from monaiseg.atlas import explained_share, measure_atlas, train_atlas
from monaiseg.planning.limits import Limits
from monaiseg.planning.measurements import Measurements
from monaiseg.planning.planner import plan_settings
from monaiseg.planning.position import Position
from plans import RULES, even, machine

BRAIN = (160, 200, 160)


def planned(explained: float | None, classes: int = 145):
    scans = even(BRAIN, classes=classes)
    if explained is not None:
        scans = replace(scans, position=Position(explained, seconds_per_case=2.0))
    return plan_settings(scans, Limits(60, 2, 16), machine(scans), RULES)


def test_a_network_starts_from_an_atlas_where_positions_explain_labels():
    plan = planned(0.86)
    tsk, seg = plan.settings.tsk_set, plan.settings.dataset.seg

    assert tsk.network.atlas
    assert np.prod(seg.patch_size) <= RULES.most_atlas_patch_voxels
    assert (tsk.loss.voxels, tsk.loss.only_present) == (RULES.loss_voxels, True)
    assert seg.augmentation.flip.left_right == 0.5
    assert seg.partition.flips == ()
    assert "explains 86%" in str(plan.choices)


@pytest.mark.parametrize("explained", [None, 0.2, -0.1])
def test_there_is_no_atlas_where_labels_can_be_anywhere(explained):
    assert not planned(explained).settings.tsk_set.network.atlas


def test_with_few_classes_the_loss_looks_at_every_voxel():
    loss = planned(0.86, classes=3).settings.tsk_set.loss

    assert loss.voxels is None
    assert not loss.only_present


def test_time_to_learn_the_atlas_is_planned_for():
    slow, quick = (
        plan_settings(
            replace(even(BRAIN), position=Position(0.86, seconds)), Limits(30, 2, 16),
            machine(even(BRAIN)), RULES,
        ).forecast
        for seconds in (20.0, 1.0)
    )  # fmt: skip

    assert slow.start_seconds == pytest.approx(quick.start_seconds + 19 * 20, rel=0.05)
    assert slow.steps * slow.step_seconds < quick.steps * quick.step_seconds  # whatever the width


def test_the_quick_measurement_agrees_with_the_thorough_one():
    cases = [make_body(to_body((n - 2.0, 0, 0), 1 + 0.02 * n), noise=2.0, seed=n) for n in range(5)]
    trained = train_atlas(cases, [f"p{n}" for n in range(5)], K, None)

    assert explained_share(cases, trained) == pytest.approx(
        measure_atlas(cases, trained).foreground.explained, abs=0.02
    )


def test_measurements_beside_other_programs_say_so():
    scans = even((35, 50, 35))
    measured = machine(scans)
    busy = replace(measured, steps=(replace(measured.steps[0], disturbed=1.2), *measured.steps[1:]))

    plan = plan_settings(scans, Limits(20, 2, 8), busy, RULES)

    assert "other programs used 1.2 of the cores" in plan.choices[0].what
    assert plan.settings == plan_settings(scans, Limits(20, 2, 8), measured, RULES).settings


def test_measurements_come_back_with_the_position(tmp_path):
    scans = even(BRAIN)
    measured = replace(machine(scans), position=Position(0.5, 1.0))
    measured.save(tmp_path / "measured.json")

    assert Measurements.load(tmp_path / "measured.json") == measured
