"""Facts: what examining cases finds, all bad ones at once, and the labels of many cases."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from drawings import GRID, LABEL, SHAPE, write_case
from monaiseg.data import facts
from monaiseg.data.cases import Case, find_cases
from monaiseg.data.facts import (
    check_duplicates,
    check_unchanged,
    examine_cases,
)
from monaiseg.data.grid import Grid
from monaiseg.data.volumes import read_header, write_image, write_label_map
from monaiseg.errors import DataError


def test_facts_are_those_of_the_drawing(tmp_path):
    image = np.where(LABEL > 0, 10.0, 0.0)
    image[0, 0, 0] = 20
    case = write_case(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz")
    write_image(tmp_path / "a.nii.gz", image, GRID)

    facts = examine_cases([case])["a"]

    assert facts.shape == SHAPE
    assert facts.spacing == (1.0, 1.0, 2.0)
    assert facts.orientation == "RAS"
    assert facts.label_voxels == {0: 53, 1: 6, 4: 1}
    (channel,) = facts.intensity
    assert (channel.min, channel.max, channel.p50) == (0, 20, 0)
    assert channel.mean == pytest.approx(90 / 60)
    assert (channel.foreground_mean, channel.foreground_std) == (10, 0)


def test_channels_come_from_several_files_or_from_one(tmp_path):
    channels = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    paths = [tmp_path / f"{name}.nii.gz" for name in ("both", "one", "two")]
    for path, image in zip(paths, (channels, channels[..., 0], channels[..., 1]), strict=True):
        write_image(path, image, GRID)

    facts = examine_cases([Case("both", (paths[0],)), Case("each", (paths[1], paths[2]))])

    assert facts["both"].intensity == facts["each"].intensity
    assert facts["both"].voxel_digest == facts["each"].voxel_digest
    assert facts["both"].checksum != facts["each"].checksum


def test_all_bad_cases_are_named_with_all_that_is_wrong(tmp_path, cases):
    good = cases(3)
    shifted = Grid.of(SHAPE, np.diag([1, 1, 3, 1]))
    grids = write_case(tmp_path / "grids.nii.gz", tmp_path / "grids_seg.nii.gz", grid=shifted)
    gone = Case("gone", (tmp_path / "gone.nii.gz",), tmp_path / "gone_seg.nii.gz")
    write_label_map(tmp_path / "same.nii.gz", LABEL, GRID)
    same = Case("same", (tmp_path / "same.nii.gz",), tmp_path / "same.nii.gz")
    flat = write_case(tmp_path / "flat.nii.gz")
    write_image(flat.images[0], np.full(SHAPE, 3.0), GRID)
    double = write_case(tmp_path / "double.nii.gz")
    write_image(double.images[0], np.random.default_rng(0).normal(size=(*SHAPE, 2)), GRID)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/p.nii.gz")
    pipe = Case("pipe", (tmp_path / "pipe/p.nii.gz",))

    with pytest.raises(DataError) as caught:
        examine_cases([*good, grids, gone, same, flat, double, pipe])

    message = str(caught.value)
    assert message.startswith("6 of 9 cases cannot be used:\n")
    assert "lie on different grids: spacing (1.0, 1.0, 3.0) and (1.0, 1.0, 2.0)" in message
    assert f"case 'gone': label map {gone.label}: is not there" in message
    assert f"case 'gone': image {gone.images[0]}: is not there" in message
    assert f"case 'same': image and label map {same.label} are the same file" in message
    assert "case 'flat': image" in message
    assert "all voxels have the value 3; give a scan" in message
    assert "case 'double': has 2 channels, but most cases have 1" in message
    assert "is not a regular file" in message


def test_progress_counts_to_the_number_of_cases(cases):
    steps: list[tuple[int, int]] = []
    examine_cases(cases(3), 2, lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_an_image_in_two_splits_is_refused_and_twice_in_one_is_noted(tmp_path):
    first = write_case(tmp_path / "first.nii.gz", tmp_path / "first_seg.nii.gz")
    again = write_case(tmp_path / "again.nii", None)  # the same voxels in another packing
    facts = examine_cases([first, replace(again, id="again")])

    assert check_duplicates({"train": ["first", "again"]}, facts) == [
        "cases first (train) and again (train) are the same image"
    ]
    with pytest.raises(DataError, match=r"first \(train\) and again \(test\) are the same image"):
        check_duplicates({"train": ["first"], "test": ["again"]}, facts)


@pytest.mark.parametrize("changed", ["image", "label map"])
def test_a_file_that_changed_since_the_check_is_named(cases, changed):
    members = cases(2)
    facts = examine_cases(members)
    check_unchanged(members, facts)
    if changed == "image":
        write_image(members[1].images[0], np.zeros(SHAPE), GRID)
    else:
        write_label_map(members[1].label, LABEL[::-1].copy(), GRID)
    with pytest.raises(DataError, match="case 'S1': .*changed after `prepare` had checked"):
        check_unchanged(members, facts)


def test_the_real_cases_are_found_and_examined(hippocampus):
    found = find_cases(hippocampus)
    facts = examine_cases(found.cases[:20])

    assert len(found.cases) == 200
    assert found.notes == ()
    assert {v for fact in facts.values() for v in fact.label_voxels} == {0, 1, 2}
    assert {fact.orientation for fact in facts.values()} == {"RAS"}
    assert read_header(found.cases[0].images[0]).grid.shape == facts[found.cases[0].id].shape


def test_memory_that_runs_out_while_a_case_is_examined_names_it(cases, monkeypatch):
    plain = facts._examined

    def starved(case, *rest):
        if case.id == "S1":
            raise MemoryError
        return plain(case, *rest)

    monkeypatch.setattr(facts, "_examined", starved)

    with pytest.raises(
        DataError, match=r"1 of 3 cases(?s:.*)case 'S1': memory ran out .* are free"
    ):
        examine_cases(cases(3))


def test_fewer_cases_are_examined_at_once_where_memory_is_short(cases, monkeypatch):
    """A scan of 60 voxels takes about 960 bytes; half of the free memory may be used."""
    monkeypatch.setattr(facts, "reading_threads", lambda most: most)
    found = []
    for free in (100, 2 * 960 * 3, 1 << 30):
        monkeypatch.setattr(facts, "free_memory", lambda free=free: free)
        found.append(facts._examining_threads(cases(3)))

    assert found == [1, 3, 8]
