"""The fingerprint of a data task: scans along the same axes, and Hounsfield units told from others."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from monaiseg.data.facts import CaseFacts, ChannelFacts
from monaiseg.data.grid import padded_up
from monaiseg.planning.fingerprint import Fingerprint, Scan, hounsfield_window
from monaiseg.planning.limits import Limits
from monaiseg.preparation import prepare
from plans import even, planned


def test_facts_of_any_orientation_are_read_along_the_same_axes(dataset):
    from monaiseg.data.cases import find_cases
    from monaiseg.data.facts import examine_cases
    from monaiseg.data.volumes import read_header

    cases = find_cases(dataset).cases
    facts: dict[str, CaseFacts] = examine_cases(cases)

    turned = Scan.of(facts["case_3"])  # 22 x 24 x 24 voxels of 1.1 x 1 x 1 mm along P, I, R
    assert turned.shape == (24, 22, 24)
    assert turned.spacing == pytest.approx((1.0, 1.1, 1.0))
    for case in cases:
        header = read_header(case.images[0]).grid
        assert facts[case.id].grid.spacing == pytest.approx(header.spacing)
        assert facts[case.id].grid.orientation == header.orientation


def test_scans_in_hounsfield_units_keep_their_scale():
    def channel(low: float, centre: float | None, spread: float | None) -> ChannelFacts:
        return ChannelFacts(low, 1500, 0, 1, 0, 0, 0, centre, spread)

    ct = [[channel(-1024, 40.0, 30.0)], [channel(-1000, 60.0, 30.0)], [channel(-200, 50.0, 30.0)]]
    scans = replace(even((35, 50, 36)), window=hounsfield_window(ct))

    assert scans.window == (-40.0, 140.0)
    intensity = planned(scans, Limits(20, 2, 4)).settings.dataset.intensity
    assert (intensity.clip_range, intensity.method) == ((-40.0, 140.0), "minmax")
    assert hounsfield_window([[channel(0, 40.0, 30.0)]] * 2) is None
    assert hounsfield_window([[channel(-1024, None, None)]] * 2) is None
    assert hounsfield_window([[channel(-1024, 40.0, 30.0)] * 2] * 2) is None
    assert (
        planned(even((35, 50, 36)), Limits(20, 2, 4)).settings.dataset.intensity.method == "zscore"
    )


def test_scans_of_different_spacing_are_brought_to_the_median():
    scans = tuple(Scan((40, 40, 20), (1.0, 1.0, size)) for size in (2.0, 3.0, 4.0))
    plan = planned(Fingerprint(scans, (), 1, 3), Limits(20, 2, 4))

    assert plan.settings.spacing_mm == (1.0, 1.0, 3.0)
    assert plan.settings.dataset.spacing == (1.0, 1.0, 3.0)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (1.3, 1.2, 1.5)},
        {"img_after_resize": (32, 16, 48)},
        {"intensity": {"method": "percentile", "clip_range": (0, 200)}},
    ],
)
def test_a_plan_for_prepared_volumes_reads_them_as_they_are(change, dataset, tmp_path):
    """Training refuses settings that would resample or normalise them otherwise."""
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps({"dataset": {"axis_order": "xyz", **change}}))
    task = prepare(dataset, tmp_path / "out", "brains", preprocess=chosen)
    fingerprint = Fingerprint.of(task)

    settings = planned(fingerprint, Limits(20, 2, 4)).settings

    assert task.as_read(settings).dataset.intensity.method == "none"
    assert fingerprint.network_shapes(fingerprint.train, (16, 16, 16)) == [
        padded_up(scan.shape, (16, 16, 16)) for scan in fingerprint.train
    ]
