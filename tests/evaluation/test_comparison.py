"""Means, intervals and comparisons of scores: by hand, by simulation, and against SciPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monaiseg.errors import DataError
from monaiseg.evaluation.comparison import cases_for_power, compare, holm, mean_intervals, means

NAN = math.nan


def scores(*rows, labels=("liver", "spleen")):
    """Cases a, b, c ... with one score for each label."""
    return {chr(ord("a") + n): dict(zip(labels, row, strict=True)) for n, row in enumerate(rows)}


def drawn(count, shift=0.0, seed=0, sd=0.02):
    """Two sets of scores of `count` cases, the second better by `shift` and by noise."""
    rng = np.random.default_rng(seed)
    first = rng.beta(18, 2, (count, 2))
    second = first + shift + rng.normal(0, sd, (count, 2))
    return tuple(
        {f"case {n}": {"liver": float(x), "spleen": float(y)} for n, (x, y) in enumerate(table)}
        for table in (first, second)
    )


# ---------------------------------------------------------------- means


def test_a_mean_leaves_out_what_is_not_defined_and_counts_it():
    found = means(scores((0.9, NAN), (0.7, 0.6), (0.5, NAN)))

    assert found.labels["liver"].value == pytest.approx(0.7)
    assert (found.labels["liver"].cases, found.labels["liver"].undefined) == (3, 0)
    assert found.labels["spleen"].value == pytest.approx(0.6)
    assert (found.labels["spleen"].cases, found.labels["spleen"].undefined) == (1, 2)
    assert found.overall.value == pytest.approx(0.65)  # every structure counts alike
    assert (found.overall.cases, found.overall.undefined) == (3, 0)


def test_a_label_that_a_case_lacks_is_not_defined_there():
    found = means({"a": {"liver": 0.5}, "b": {"spleen": 0.7}})

    assert (found.labels["liver"].cases, found.labels["liver"].undefined) == (1, 1)
    assert found.overall.value == pytest.approx(0.6)


def test_one_case_has_no_interval_and_no_case_no_mean():
    one, none = means(scores((0.5, NAN))), means({})

    assert one.labels["liver"].value == 0.5
    assert math.isnan(one.labels["liver"].low)
    assert math.isnan(one.labels["spleen"].value)
    assert math.isnan(none.overall.value)
    assert (none.labels, none.overall.cases) == ({}, 0)


def test_equal_scores_have_an_interval_without_width():
    mean = means(scores(*[(0.25, 0.5)] * 6)).labels["liver"]

    assert (mean.value, mean.low, mean.high) == (0.25, 0.25, 0.25)


@given(
    values=st.lists(st.floats(0, 1) | st.just(NAN), min_size=1, max_size=12),
    seed=st.integers(0, 5),
)
@settings(max_examples=50)
def test_an_interval_lies_within_the_scores_and_is_the_same_every_time(values, seed):
    table = np.array(values)[:, None]
    mean, overall = mean_intervals(table, seed)

    defined = table[~np.isnan(table)]
    assert repr(mean_intervals(table, seed)) == repr([mean, overall])
    assert mean.cases + mean.undefined == len(values)
    if mean.cases > 1:
        assert defined.min() - 1e-12 <= mean.low <= mean.high <= defined.max() + 1e-12
    assert repr(overall) == repr(mean)  # the mean of one label


@pytest.mark.parametrize("cases", [8, 15, 40])
def test_intervals_of_normal_scores_hold_the_true_mean_in_95_of_100_repetitions(cases):
    repetitions = 600
    table = np.random.default_rng(cases).normal(0.8, 0.1, (cases, repetitions))
    *found, _ = mean_intervals(table, seed=0)

    coverage = np.mean([mean.low <= 0.8 <= mean.high for mean in found])
    assert 0.925 <= coverage <= 0.975  # 2.5 standard errors of 600 repetitions


@pytest.mark.parametrize("cases", [15, 40])
def test_intervals_of_skewed_scores_hold_the_true_mean_nearly_as_often(cases):
    table = np.random.default_rng(cases).beta(9, 1, (cases, 600))
    *found, _ = mean_intervals(table, seed=0)

    assert np.mean([mean.low <= 0.9 <= mean.high for mean in found]) > 0.9


def test_intervals_of_the_mean_over_labels_hold_it_too():
    """Labels of a case depend on one another; some are missing."""
    rng, hits = np.random.default_rng(0), 0
    for seed in range(300):
        case = rng.normal(0, 0.05, (12, 1))
        table = 0.8 + case + rng.normal(0, 0.05, (12, 4))
        table[rng.random((12, 4)) < 0.1] = NAN
        overall = mean_intervals(table, seed)[-1]
        hits += overall.low <= 0.8 <= overall.high
    assert 0.91 <= hits / 300 <= 0.985


def test_the_interval_of_many_cases_is_students():
    values = np.random.default_rng(0).normal(0, 1, (200, 1))
    mean = mean_intervals(values, seed=0)[0]

    low, high = stats.t.interval(0.95, 199, values.mean(), values.std(ddof=1) / math.sqrt(200))
    assert [mean.low, mean.high] == pytest.approx([low, high], abs=0.02)


# ---------------------------------------------------------------- comparisons


def test_a_comparison_by_hand():
    first = scores(*[(0.5, 0.6)] * 4, (0.5, 0.6), (0.5, NAN))
    second = scores((0.6, 0.6), (0.6, 0.6), (0.7, 0.6), (0.5, 0.6), (0.3, 0.7), (0.9, 0.9))

    found = compare(first, second)

    liver, spleen = found.labels["liver"], found.labels["spleen"]
    assert (liver.first, liver.second, liver.mean.value) == pytest.approx((0.5, 0.6, 0.1))
    assert (liver.wins, liver.ties, liver.losses) == (4, 1, 1)
    assert (spleen.first, spleen.second, spleen.mean.value) == pytest.approx((0.6, 0.62, 0.02))
    assert (spleen.wins, spleen.ties, spleen.losses) == (1, 4, 0)
    assert (spleen.mean.cases, spleen.mean.undefined) == (5, 1)
    assert spleen.p == 1.0  # one pair is unequal
    assert found.overall.mean.value == pytest.approx(0.06)
    assert [c.case for c in found.most_changed] == ["f", "c", "a", "b", "e"]
    assert found.most_changed[0].first == 0.5
    assert found.most_changed[0].second == 0.9
    assert found.most_changed[0].difference == pytest.approx(0.4)


def test_six_wins_of_six_have_a_p_of_two_in_64():
    first = scores(*[(0.5, 0.5)] * 6)
    second = scores(*[(0.5 + 0.01 * n, 0.5) for n in range(1, 7)])

    found = compare(first, second)

    assert found.labels["liver"].p == pytest.approx(2 / 64)
    assert found.labels["liver"].p_holm == pytest.approx(4 / 64)
    assert found.labels["spleen"].p == 1.0


def test_ps_are_scipys():
    first, second = drawn(30, shift=0.005)
    found = compare(first, second)

    differences = [second[case]["liver"] - first[case]["liver"] for case in first]
    assert found.labels["liver"].p == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_holm_by_hand():
    assert holm([0.01, NAN, 0.04, 0.03]) == pytest.approx([0.03, NAN, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(ps=st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_its_steps_reject(ps):
    """Holm (1979): go through the p values from the least; stop at the first above alpha / (tests left)."""
    alpha, rejected = 0.05, set()
    for rank, n in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[n] * (len(ps) - rank) > alpha:
            break
        rejected.add(n)

    corrected = holm(ps)
    assert {n for n, p in enumerate(corrected) if p <= alpha} == rejected
    order = sorted(range(len(ps)), key=ps.__getitem__)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(order))


def test_a_smaller_distance_is_a_win_where_smaller_is_better():
    first, second = scores((2.0, 3.0)), scores((1.0, 4.0))

    found = compare(first, second, higher_is_better=False)

    assert (found.labels["liver"].wins, found.labels["spleen"].losses) == (1, 1)
    assert found.overall.ties == 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_other_way_round_every_difference_has_the_other_sign(seed):
    first, second = drawn(12, shift=0.01, seed=seed)
    there, back = compare(first, second), compare(second, first)

    assert there.overall.mean.value == pytest.approx(-back.overall.mean.value)
    assert there.overall.mean.low == pytest.approx(-back.overall.mean.high)
    assert there.overall.p == pytest.approx(back.overall.p)
    assert (there.overall.wins, there.overall.losses) == (back.overall.losses, back.overall.wins)
    assert (there.exceeds_noise, there.cases_needed) == (back.exceeds_noise, back.cases_needed)


def test_cases_and_labels_of_one_set_alone_are_named():
    first = {"a": {"liver": 0.5, "lung": 0.1}, "b": {"liver": 0.6}, "x": {"liver": 0.7}}
    second = {"b": {"liver": 0.7}, "a": {"liver": 0.5, "spleen": 0.2}, "y": {"liver": 0.1}}

    found = compare(first, second)

    assert found.unpaired_cases == ("x", "y")
    assert found.unpaired_labels == ("lung", "spleen")
    assert list(found.labels) == ["liver"]
    assert found.overall.mean.value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": {"liver": 0.5}}, {"b": {"liver": 0.5}}, "no cases in common .*'a', 'b'"),
        ({"a": {"liver": 0.5}}, {"a": {"lung": 0.5}}, "no labels in common .*'liver', 'lung'"),
        ({}, {}, "no cases in common"),
    ],
)
def test_scores_that_share_nothing_are_refused(first, second, message):
    with pytest.raises(DataError, match=message):
        compare(first, second)


# ---------------------------------------------------------------- verdicts


def test_a_clear_difference_exceeds_noise():
    found = compare(*drawn(30, shift=0.03))

    assert found.exceeds_noise
    assert found.cases_needed is None
    assert found.verdict.startswith("The second set is better: +0.0")
    assert "30 cases" in found.verdict
    worse = compare(*drawn(30, shift=0.03), higher_is_better=False)
    assert worse.verdict.startswith("The second set is worse: +0.0")


def test_noise_is_called_noise_and_the_cases_that_would_be_needed_are_named():
    found = compare(*drawn(20, shift=0.002))

    assert not found.exceeds_noise
    assert found.cases_needed > 20
    assert found.verdict.startswith("No difference beyond noise")
    assert f"about {found.cases_needed} cases would show it (80% power)" in found.verdict


def test_equal_scores_need_no_number_of_cases():
    first, _ = drawn(10)
    found = compare(first, first)

    assert not found.exceeds_noise
    assert found.cases_needed is None
    assert found.most_changed == ()
    assert found.overall.ties == 10
    assert found.verdict.endswith("p = 1).")


@pytest.mark.parametrize(("cases", "undefined"), [(1, False), (3, True)])
def test_too_few_cases_tell_nothing(cases, undefined):
    rows = [(NAN, NAN) if undefined else (0.5, 0.5)] * cases
    found = compare(scores(*rows), scores(*[(0.9, 0.9)] * cases))

    assert not found.exceeds_noise
    assert (
        found.verdict
        == f"Too few cases to tell: {'0 cases' if undefined else '1 case'} scored in both sets."
    )


def test_three_wins_of_three_are_not_enough():
    found = compare(scores(*[(0.5, 0.5)] * 3), scores((0.7, 0.7), (0.8, 0.8), (0.9, 0.9)))

    assert found.overall.mean.low > 0
    assert not found.exceeds_noise
    assert found.cases_needed == 6


def test_a_negligible_difference_is_noise_however_many_cases_show_it():
    first, second = drawn(60, shift=0.01, sd=0.005)

    assert compare(first, second).exceeds_noise
    found = compare(first, second, negligible=0.02)
    assert not found.exceeds_noise
    assert found.cases_needed is None


def test_what_does_not_differ_seldom_exceeds_noise():
    found = [compare(*drawn(12, seed=seed)).exceeds_noise for seed in range(200)]

    assert np.mean(found) <= 0.08  # 5 % and two standard errors


def test_the_interval_of_a_difference_holds_it_in_95_of_100_repetitions():
    found = [compare(*drawn(12, shift=0.01, seed=seed)).overall.mean for seed in range(200)]

    assert 0.91 <= np.mean([mean.low <= 0.01 <= mean.high for mean in found]) <= 0.99


# ---------------------------------------------------------------- power


@pytest.mark.parametrize("difference", [0.3, 0.5, 0.8])
def test_the_cases_for_power_are_those_of_the_t_test_over_the_efficiency(difference):
    """Exact power of the paired t-test from the noncentral t distribution."""

    def power(n):
        bound = stats.t.ppf(0.975, n - 1)
        shift = difference * math.sqrt(n)
        return stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)

    pairs = next(n for n in range(3, 1000) if power(n) >= 0.8)
    assert cases_for_power(difference, 1.0) == pytest.approx(pairs * math.pi / 3, abs=2)


def test_that_many_cases_show_the_difference_in_80_of_100_repetitions():
    needed = cases_for_power(0.5, 1.0)
    draws = np.random.default_rng(0).normal(0.5, 1.0, (400, needed))

    assert np.mean(stats.wilcoxon(draws, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.06)


def test_no_five_pairs_are_ever_enough():
    assert cases_for_power(100.0, 1.0) == 6
    assert stats.wilcoxon([1, 2, 3, 4, 5]).pvalue > 0.05


# ---------------------------------------------------------------- unions


def test_a_union_has_a_mean_of_its_own_and_none_in_the_overall_mean():
    cases = {f"case {n}": {"a": 0.5, "b": 0.7, "a and b": 0.1 * n} for n in range(4)}

    found = means(cases, unions=["a and b"])

    assert list(found.labels) == ["a", "b", "a and b"]
    assert found.labels["a and b"].value == pytest.approx(0.15)
    assert found.overall.value == pytest.approx(0.6)


def test_a_union_that_changed_is_no_difference_of_the_overall_means():
    first = {f"case {n}": {"a": 0.5 + 0.01 * n, "whole": 0.3} for n in range(8)}
    second = {f"case {n}": {"a": 0.5 + 0.01 * n, "whole": 0.9} for n in range(8)}

    found = compare(first, second, unions={"whole"})

    assert found.labels["whole"].mean.value == pytest.approx(0.6)
    assert (found.overall.mean.value, found.overall.ties) == (0, 8)
    assert not found.exceeds_noise
    assert not found.most_changed


def test_sets_that_share_a_union_alone_have_no_labels_in_common():
    with pytest.raises(DataError, match="no labels in common"):
        compare({"S1": {"whole": 0.3}}, {"S1": {"whole": 0.3}}, unions={"whole"})
