"""Scores of structures: drawings, brute force, a table of empty cases, and what a miss does to a mean."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monaiseg.data.labels import Label, LabelTable
from monaiseg.errors import DataError
from monaiseg.evaluation.comparison import means
from monaiseg.evaluation.structures import Structure, score_structures, structures_of
from strategies import spacings

SPACING = (1.0, 2.0, 3.0)
HIGH_IS_GOOD = "dice", "iou", "recall", "surface_dice"  # precision says nothing of what was missed
LOW_IS_GOOD = "hd_mm", "hd95_mm", "assd_mm", "centroid_distance_mm"
LABELS = structures_of(LabelTable.from_values([3, 7, 12]))


def drawn(*rows, value=1):
    """A label map one voxel thick: every letter but "." is a voxel of `value`, or of that digit."""
    cells = [[0 if c == "." else int(c) if c.isdigit() else value for c in row] for row in rows]
    return np.array(cells)[:, :, None]


def label_maps(seed, values=(3, 7, 12), shape=(9, 8, 7)):
    """Two maps of the same structures, the second a voxel off and with noise; every structure is in both."""
    rng = np.random.default_rng(seed)
    field = ndimage.uniform_filter(rng.random(shape), 3)
    edges = np.quantile(field, np.linspace(0, 1, len(values) + 2)[1:-1])
    reference = np.array([0, *values])[np.digitize(field, edges)]
    prediction = np.roll(reference, 1, rng.integers(3))
    noisy = rng.random(shape) < 0.05
    prediction[noisy] = rng.choice([0, *values], noisy.sum())
    reference.flat[: len(values)] = prediction.flat[-len(values) :] = values
    return reference, prediction


def one(reference, prediction, spacing=(1.0, 1.0, 1.0), **more):
    (scores,) = score_structures(reference, prediction, [Structure("it", (1,), **more)], spacing)
    return scores


def test_scores_are_those_of_a_drawing():
    reference = drawn("......", ".xxxx.", ".xxxx.", "......")
    prediction = drawn("......", "..xxxx", "..xxxx", "......")

    scores = one(reference, prediction, (1.0, 2.0, 3.0))

    assert scores.status == "found"
    assert (scores.dice, scores.iou) == (12 / 16, 6 / 10)
    assert (scores.precision, scores.recall) == (6 / 8, 6 / 8)
    assert (scores.reference_ml, scores.prediction_ml) == (8 * 0.006, 8 * 0.006)
    assert (scores.volume_error_ml, scores.relative_volume_error) == (0, 0)
    assert (scores.hd_mm, scores.centroid_distance_mm) == (2, 2)
    assert (scores.reference_components, scores.prediction_components) == (1, 1)
    assert math.isnan(scores.lesion_f1)


def test_a_volume_error_is_prediction_minus_reference():
    scores = one(drawn("xxxx"), drawn("x..."), (10.0, 10.0, 10.0))

    assert (scores.volume_error_ml, scores.relative_volume_error) == (-3.0, -0.75)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), spacing=spacings())
def test_scores_are_those_of_counted_voxels(seed, spacing):
    reference, prediction = label_maps(seed)
    for scores, structure in zip(
        score_structures(reference, prediction, LABELS, spacing), LABELS, strict=True
    ):
        a, b = (
            {tuple(p) for p in np.argwhere(m == structure.values[0])}
            for m in (reference, prediction)
        )
        centroids = [np.mean(list(c), axis=0) * spacing for c in (a, b)]
        voxel_ml = math.prod(spacing) / 1000
        assert scores.dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        assert scores.iou == pytest.approx(len(a & b) / len(a | b))
        assert scores.precision == pytest.approx(len(a & b) / len(b))
        assert scores.recall == pytest.approx(len(a & b) / len(a))
        assert scores.reference_ml == pytest.approx(len(a) * voxel_ml)
        assert scores.volume_error_ml == pytest.approx((len(b) - len(a)) * voxel_ml)
        assert scores.relative_volume_error == pytest.approx((len(b) - len(a)) / len(a))
        assert scores.centroid_distance_mm == pytest.approx(math.dist(*centroids))
        assert (scores.reference_components, scores.prediction_components) == (
            components(a),
            components(b),
        )


def components(voxels):
    """Connected parts of a set of voxels, which are neighbours if they share a corner."""
    left, count = set(voxels), 0
    while left:
        count, reached = count + 1, [left.pop()]
        while reached:
            x = reached.pop()
            near = {v for v in left if max(abs(p - q) for p, q in zip(v, x, strict=True)) == 1}
            left -= near
            reached += near
    return count


# ---------------------------------------------------------------- what one map lacks


@pytest.mark.parametrize(
    ("in_reference", "in_prediction", "status", "overlap", "precision", "recall", "distance"),
    [
        (True, True, "found", 1.0, 1.0, 1.0, 0.0),
        (True, False, "missed", 0.0, math.nan, 0.0, 13.0),
        (False, True, "invented", 0.0, 0.0, math.nan, 13.0),
        (False, False, "absent", math.nan, math.nan, math.nan, math.nan),
    ],
)
def test_what_one_map_lacks_is_as_far_away_as_the_grid_is_long(
    in_reference, in_prediction, status, overlap, precision, recall, distance
):
    reference, prediction = np.zeros((2, 3, 2, 4), dtype=int)
    reference[1], prediction[1] = in_reference, in_prediction

    scores = one(reference, prediction, (1.0, 2.0, 3.0))  # 3 x 4 x 12 mm

    assert scores.status == status
    for name in ("dice", "iou", "surface_dice"):
        assert getattr(scores, name) == pytest.approx(overlap, nan_ok=True)
    assert [scores.precision, scores.recall] == pytest.approx([precision, recall], nan_ok=True)
    for name in LOW_IS_GOOD:
        assert getattr(scores, name) == pytest.approx(distance, nan_ok=True)


def test_a_missed_structure_has_lost_its_whole_volume_and_an_invented_one_has_no_relative_error():
    full, empty = drawn("xx"), drawn("..")

    assert one(full, empty).relative_volume_error == -1
    assert math.isnan(one(empty, full).relative_volume_error)
    assert one(empty, full).volume_error_ml == 0.002
    assert math.isnan(one(empty, empty).relative_volume_error)
    assert one(empty, empty).volume_error_ml == 0


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), spacing=spacings(), removed=st.sampled_from((3, 7, 12)))
def test_removing_any_structure_from_a_prediction_worsens_every_mean(seed, spacing, removed):
    """Volume errors and false positives are no such means: a structure three times too large is further off than none."""
    cases = {f"case {n}": label_maps(seed + n) for n in range(2)}
    lesions = [dataclasses.replace(structure, is_lesion=True) for structure in LABELS]

    def mean(name):
        scores = {
            case: {s.name: getattr(s, name) for s in score_structures(*maps, lesions, spacing)}
            for case, maps in cases.items()
        }
        return means(scores)

    names = [*HIGH_IS_GOOD, *LOW_IS_GOOD, "lesion_f1", "lesion_sensitivity"]
    before = {name: mean(name) for name in names}
    reference, prediction = cases["case 0"]
    cases["case 0"] = reference, np.where(prediction == removed, 0, prediction)
    label = f"label {removed}"
    for name in names:
        old, new = before[name], mean(name)
        assert new.labels[label].cases == old.labels[label].cases
        if name in LOW_IS_GOOD:
            assert new.labels[label].value > old.labels[label].value
            assert new.overall.value > old.overall.value
        else:  # a score of 0 can fall no further
            assert new.labels[label].value <= old.labels[label].value
            assert new.overall.value <= old.overall.value
    assert mean("surface_dice").overall.value < before["surface_dice"].overall.value


# ---------------------------------------------------------------- unions, boxes, threads


def grouped(groups, **more):
    """Labels 3, 7 and 12 in groups, label value -> group."""
    table = LabelTable.from_values([3, 7, 12])
    labels = (
        dataclasses.replace(label, group=groups.get(label.value), **more) for label in table.labels
    )
    return LabelTable(tuple(labels))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_union_of_labels_is_scored_as_one_label(seed):
    reference, prediction = label_maps(seed)
    table = grouped({3: "both", 12: "both"})
    *_, union = score_structures(reference, prediction, structures_of(table, 2.0), SPACING)
    joined = [np.where(np.isin(m, (3, 12)), 1, 0) for m in (reference, prediction)]

    expected = one(*joined, SPACING, tolerance_mm=2.0)
    assert repr(union) == repr(
        dataclasses.replace(expected, name="both", values=(3, 12))
    )  # NaN is not NaN


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), margin=st.integers(1, 4))
def test_scores_do_not_depend_on_empty_space_around(seed, margin):
    maps = label_maps(seed)
    wide = [np.pad(m, margin) for m in maps]

    assert repr(score_structures(*wide, LABELS, SPACING)) == repr(
        score_structures(*maps, LABELS, SPACING)
    )


def test_scores_do_not_depend_on_threads_number_types_or_memory_order():
    reference, prediction = label_maps(0)
    expected = repr(score_structures(reference, prediction, LABELS, SPACING, threads=1))

    for threads in (2, 5, None):
        scores = score_structures(
            np.asfortranarray(reference.astype(np.uint16)),
            prediction.astype(np.int8),
            LABELS,
            SPACING,
            threads=threads,
        )
        assert repr(scores) == expected


def test_label_values_may_be_large_and_many():
    values = [1, *range(1000, 1300), 2**31 - 1]
    reference = np.array(values).reshape(-1, 2, 1)
    table = LabelTable.from_values(values)

    scores = score_structures(reference, reference, structures_of(table), (1.0, 1.0, 1.0))

    assert [s.name for s in scores] == list(table.names[1:])
    assert {s.dice for s in scores} == {1.0}
    assert {s.reference_ml for s in scores} == {0.001}


def test_each_label_of_a_table_is_scored_by_its_own_tolerance_and_as_a_lesion_if_it_is_one():
    table = LabelTable(
        (
            Label(0, "background"),
            Label(1, "liver", tolerance_mm=3.0),
            Label(2, "tumour", is_lesion=True),
        )
    )

    assert structures_of(table, 1.5) == (
        Structure("liver", (1,), 3.0, is_lesion=False),
        Structure("tumour", (2,), 1.5, is_lesion=True),
    )


def test_groups_of_two_labels_or_more_are_scored_beside_their_labels():
    *singles, union = structures_of(grouped({3: "pair", 7: "alone", 12: "pair"}, is_lesion=True))

    assert [single.name for single in singles] == ["label 3", "label 7", "label 12"]
    assert union == Structure("pair", (3, 12), is_lesion=True)


def test_a_union_has_the_tolerance_that_its_labels_share_or_else_the_common_one():
    shared = grouped({3: "pair", 12: "pair"}, tolerance_mm=2.0)
    background, three, *rest = shared.labels
    differing = LabelTable((background, dataclasses.replace(three, tolerance_mm=3.0), *rest))

    assert structures_of(shared, 1.0)[-1].tolerance_mm == 2.0
    assert structures_of(differing, 1.0)[-1].tolerance_mm == 1.0


@pytest.mark.parametrize(
    ("shape", "values", "message"),
    [
        ((2, 2, 2), (1,), r"shape \(2, 2, 3\) .* shape \(2, 2, 2\)"),
        ((2, 2, 3), (), r"'it' has the label values \(\)"),
        ((2, 2, 3), (0, 1), "none below 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(shape, values, message):
    reference, prediction = np.zeros((2, 2, 3), dtype=int), np.zeros(shape, dtype=int)

    with pytest.raises(DataError, match=message):
        score_structures(reference, prediction, [Structure("it", values)], (1.0, 1.0, 1.0))


# ---------------------------------------------------------------- lesions


def test_voxels_that_share_a_corner_are_one_component():
    assert one(drawn("x..", ".x.", "..x"), drawn("x.x", "...", "x.x")).reference_components == 1
    assert one(drawn("x..", ".x.", "..x"), drawn("x.x", "...", "x.x")).prediction_components == 4


def test_lesions_are_detected_by_a_shared_voxel():
    """Of three lesions two are touched; of the predicted three one is false, and one spans both that were found."""
    reference = drawn("xx..x..x", "........", "........")
    prediction = drawn(".xxxx...", "........", "x.....x.")

    scores = one(reference, prediction, is_lesion=True)

    assert scores.lesion_sensitivity == 2 / 3
    assert scores.lesion_false_positives == 2
    assert scores.lesion_f1 == 2 * 2 / (2 * 2 + 1 + 2)


@pytest.mark.parametrize(
    ("reference", "prediction", "f1", "sensitivity", "false_positives"),
    [
        ("x.x", "x.x", 1.0, 1.0, 0),
        ("x.x", "...", 0.0, 0.0, 0),
        ("...", "x.x", 0.0, math.nan, 2),
        ("...", "...", math.nan, math.nan, 0),
    ],
)
def test_a_scan_without_lesions_has_false_positives_alone(
    reference, prediction, f1, sensitivity, false_positives
):
    scores = one(drawn(reference), drawn(prediction), is_lesion=True)

    assert [scores.lesion_f1, scores.lesion_sensitivity] == pytest.approx(
        [f1, sensitivity], nan_ok=True
    )
    assert scores.lesion_false_positives == false_positives
