"""Forecasts: what a step costs, where workers help, and what a GPU holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monaiseg.planning import forecasts
from monaiseg.planning.costs import step_cost
from monaiseg.planning.limits import Limits
from monaiseg.planning.options import Option, patch_ladder
from monaiseg.planning.planner import plan_settings
from monaiseg.planning.probes import DataProbe
from plans import GIB, GPU, RULES, even, machine, on_gpu


@pytest.mark.parametrize(
    ("cores", "cutting", "workers"), [(2, 1.0, 0), (4, 1.0, 1), (4, 0.1, 0), (1, 2.0, 0)]
)
def test_a_worker_takes_a_core_where_it_gives_back_more(cores, cutting, workers):
    """At width 16 a voxel computes for a microsecond; `cutting` is that of its cutting."""
    fingerprint = even((35, 50, 36))
    measured = machine(fingerprint)
    measured = replace(measured, cores=cores, data=DataProbe(4.0, GIB // 2, 1e-7, cutting * 1e-6))

    plan = plan_settings(fingerprint, Limits(2, cores, 4), measured, RULES)

    assert plan.settings.tsk_set.network.channels == 16
    assert plan.settings.tsk_set.num_workers == plan.forecast.workers == workers
    assert plan.settings.tsk_set.num_threads == cores - workers


def test_a_step_that_was_measured_is_taken_as_it_is_and_others_follow_from_it():
    scans = even((35, 50, 36))
    measured = machine(scans)
    patch = patch_ladder(scans, RULES)[0]

    known = step_cost(Option("folded", 32, patch, 2), scans, measured)
    between = step_cost(Option("folded", 24, patch, 4), scans, measured)

    assert known == measured.steps[1]
    assert between.step_seconds == pytest.approx(known.step_seconds * 2 * (24 / 32) ** 2)


def test_a_gpu_holds_the_features_of_a_validation_too():
    """104 classes on scans of 512 x 512 x 304: a slab of scores, twice, is far larger than a step."""
    few, many = (even((120, 120, 120), classes=n) for n in (3, 104))
    wide = even((512, 512, 304), classes=104)
    taken = [
        forecasts.forecast(
            Option("standard", 16, (64, 64, 64), 2), scans, GPU, on_gpu(machine(scans)), RULES
        )
        for scans in (few, many, wide)
    ]

    assert taken[0].device_bytes <= taken[1].device_bytes < taken[2].device_bytes
    slab = 512 * 512 * 304 // 512 * 64
    assert taken[2].device_bytes > 2 * 4 * 16 * slab  # channels; classes are chosen in tiles


def test_a_gpu_has_as_many_workers_as_keep_it_busy():
    assert forecasts._beside(1.0, 0.5, GPU, RULES.most_workers) == (1.0, 1)
    assert forecasts._beside(0.1, 0.35, GPU, RULES.most_workers) == (0.1, 4)
    assert forecasts._beside(0.1, 3.0, GPU, RULES.most_workers) == (pytest.approx(3.0 / 7), 7)
