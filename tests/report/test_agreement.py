"""Volume agreement by numbers that can be redone by hand."""

from __future__ import annotations

import math

import pytest

from monaiseg.report.agreement import agreements

REFERENCE = {"a": {"liver": 10.0}, "b": {"liver": 12.0}, "c": {"liver": 14.0}}


def test_bias_and_limits_are_mean_and_196_standard_deviations():
    """Differences 1, 2, 3: mean 2, standard deviation 1."""
    prediction = {"a": {"liver": 11.0}, "b": {"liver": 14.0}, "c": {"liver": 17.0}}

    found = agreements(REFERENCE, prediction)["liver"]

    assert found.bias_ml == pytest.approx(2)
    assert found.limits_ml == pytest.approx((0.04, 3.96))
    assert found.mean_ml.tolist() == [10.5, 13.0, 15.5]


def test_a_missed_structure_has_no_volume_and_a_structure_that_no_map_has_is_left_out():
    prediction = {"a": {"liver": math.nan}, "b": {"liver": 12.0}}
    reference = {"a": {"liver": 10.0}, "b": {"liver": 12.0}, "c": {"liver": 0.0}}

    found = agreements(reference, prediction)["liver"]

    assert found.cases == ("a", "b")
    assert found.difference_ml.tolist() == [-10.0, 0.0]
    assert all(map(math.isnan, found.limits_ml))  # two cases are too few
