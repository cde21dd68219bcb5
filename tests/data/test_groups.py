"""Groups: cases of one person stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monaiseg.data.facts import CaseFacts
from monaiseg.data.groups import (
    alike_note,
    check_apart,
    groups_note,
    read_groups,
    repeats_note,
    with_same_images,
)
from monaiseg.data.splits import split_cases
from monaiseg.errors import DataError, SettingsError

HEARTS = [f"patient{n:03}_frame{f:02}" for n in range(10) for f in (1, 12)]


def test_a_pattern_finds_the_person_in_a_cases_name():
    groups = read_groups(HEARTS, r"patient(\d+)")

    assert groups["patient003_frame01"] == groups["patient003_frame12"] == "003"
    assert read_groups(HEARTS, r"^patient\d{3}")["patient003_frame01"] == "patient003"
    assert len(set(read_groups(HEARTS, ".{10}").values())) == 10  # leading characters


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_names_the_group_of_each_case(tmp_path, mark):
    rows = [
        ("case", "age", "group"),
        ("a.nii.gz", "1", "x"),
        ("b", "2", "x"),
        ("c", "3", "y"),
        ("d", "4", "z"),
    ]
    (tmp_path / "g.csv").write_text("\n".join(mark.join(row) for row in rows))

    assert read_groups(["a", "b", "c"], str(tmp_path / "g.csv")) == {"a": "x", "b": "x", "c": "y"}


@pytest.mark.parametrize(
    ("group_by", "found"),
    [
        ("patient(", "not a regular expression"),
        (r"(patient)(\d+)", "has 2 groups"),
        ("patient", "puts all 20 cases into the group 'patient'"),
    ],
)
def test_a_pattern_that_names_no_persons_is_refused(group_by, found):
    with pytest.raises(SettingsError, match=found):
        read_groups(HEARTS, group_by)


def test_cases_without_a_group_are_named(tmp_path):
    with pytest.raises(
        DataError, match=r"(?s)does not match 2 of 22 cases.*\nhealthy_1\nhealthy_2"
    ):
        read_groups([*HEARTS, "healthy_1", "healthy_2"], r"patient(\d+)")
    (tmp_path / "g.csv").write_text("case,group\na,x\n")
    with pytest.raises(DataError, match="has no row for 1 of 2 cases"):
        read_groups(["a", "b"], str(tmp_path / "g.csv"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("case,group\na,x\na,y\n", "in the groups 'x' and 'y'"),
        ("id,person\na,x\n", "needs the columns case and group"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, text, found):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(DataError, match=found):
        read_groups(["a"], str(tmp_path / "g.csv"))


@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=30),
    percent=st.sampled_from([(70, 20, 10), (60, 20, 20), (50, 0, 50), (98, 1, 1)]),
    seed=st.integers(0, 5),
)
def test_a_group_is_never_torn_and_each_split_gets_some(sizes, percent, seed):
    groups = {f"{n}_{k}": f"p{n}" for n, size in enumerate(sizes) for k in range(size)}

    splits = split_cases(groups, percent, seed, groups)

    places = [(groups[name], split) for split in ("train", "val", "test") for name in splits[split]]
    assert len(places) == len(groups)
    assert len(set(places)) == len(sizes)
    wanted = dict(zip(("train", "test", "val"), percent, strict=True))
    assert all(bool(splits[split]) == bool(size) for split, size in wanted.items())
    assert splits == split_cases(list(groups)[::-1], percent, seed, groups)


@given(ids=st.sets(st.text("abc123", min_size=1, max_size=6), min_size=3), seed=st.integers(0, 3))
def test_groups_of_one_case_split_as_cases_do(ids, seed):
    assert split_cases(ids, seed=seed, groups={name: name for name in ids}) == split_cases(
        ids, seed=seed
    )


def test_sizes_of_splits_are_near_what_was_asked_for():
    groups = read_groups(HEARTS * 1, r"patient(\d+)")

    counts = {split: len(names) for split, names in split_cases(groups, groups=groups).items()}

    assert counts == {"train": 14, "val": 2, "test": 4, "debug": 5}


def test_too_few_groups_cannot_fill_three_splits():
    with pytest.raises(
        DataError, match="6 cases in 2 groups cannot fill the splits train, test, val"
    ):
        split_cases("abcdef", groups=dict(zip("abcdef", "xxxyyy", strict=True)))


def facts(**digests: str) -> dict[str, CaseFacts]:
    return {
        name: CaseFacts((1, 1, 1), (1.0, 1.0, 1.0), "RAS", name, digest, {0: 1}, ())
        for name, digest in digests.items()
    }


def test_cases_of_one_image_go_together_through_all_they_are_joined_with():
    found = with_same_images(
        {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c": "c", "d": "d"},
        facts(a1="1", a2="2", b1="2", b2="3", c="3", d="4"),
    )

    assert len({found[name] for name in ("a1", "a2", "b1", "b2", "c")}) == 1
    assert found["d"] == "d"


def test_a_datasets_own_split_must_not_tear_groups():
    groups = {"a1": "a", "a2": "a", "b": "b"}

    check_apart({"train": ["a1", "a2"], "test": ["b"]}, groups)
    with pytest.raises(DataError, match=r"group 'a' is in train \(a1\) and test \(a2\)"):
        check_apart({"train": ["a1", "b"], "test": ["a2"]}, groups)


def test_groups_are_counted():
    assert groups_note({"a": "x", "b": "x", "c": "y"}, "p") == (
        "--group-by p: 3 cases in 2 groups of 1 to 2; each group is in one split"
    )


@pytest.mark.parametrize(
    "ids",
    [
        HEARTS,
        ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"],
        ["S01_visit1", "S01_visit2", "S02_visit1"],
        ["7_a", "7_b", "8_a", "8_b", "9_a"],
        ["P1-baseline", "P1-followup", "P2-baseline"],
        ["S1_ED", "S1_ES", "S2_ED", "S2_ES"],
        ["img1 rater1", "img1 rater2", "img2 rater1", "img2 rater2"],
        ["s01v1", "s01_v2", "s01_v3", "s02_v1"],
    ],
)
def test_names_that_suggest_repeats_are_noted(ids):
    assert "--group-by" in repeats_note(ids)


@pytest.mark.parametrize(
    "ids",
    [
        [f"hippocampus_{n:03}" for n in range(200)],
        [f"oasis_{n}" for n in range(1000, 1025)],
        [f"tg4510_tp3_{n}_201305{n}_UT" for n in range(10, 27)],
        [f"IXI{n:03}-Guys-{n}-T1" for n in range(20)],
        [f"BraTS20_Training_{n:03}" for n in range(30)],
        [f"sub-{n:02}_ses-1_run-1" for n in range(20)],
        [f"site{n % 2}_sub{n:02}" for n in range(20)],
        [f"{name}_{n}" for n, name in enumerate(["anna", "bert", "carl", "dora"])],
        ["ct_small"],
        [],
    ],
)
def test_names_of_one_scan_each_are_not(ids):
    assert repeats_note(ids) is None


def brains(people: list[int], labels: int = 60) -> dict[str, CaseFacts]:
    """A scan of each person listed, whose structures differ by a tenth between people and by a hundredth between scans."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.normal(0, 0.1, (max(people) + 1, labels)))
    scans = [1000 * sizes[person] * np.exp(random.normal(0, 0.01, labels)) for person in people]
    return {
        f"scan{n:02}": CaseFacts(
            (99, 99, 99),
            (1.0, 1.0, 1.0),
            "RAS",
            "",
            str(n),
            {v: int(s) for v, s in enumerate(scan, 1)},
            (),
        )
        for n, scan in enumerate(scans)
    }


def test_scans_of_one_person_are_known_by_the_volumes_of_their_structures():
    found = brains([0, 1, 2, 3, 4, 5, 6, 7, 3])

    assert "structures of scan03 and scan08 have nearly" in alike_note(
        found, {name: name for name in found}
    )
    assert (
        alike_note(
            found, {name: name if name not in ("scan03", "scan08") else "p" for name in found}
        )
        is None
    )


def test_scans_of_different_people_are_not_alike():
    found = brains(list(range(12)))
    assert alike_note(found, {name: name for name in found}) is None
    few = brains([0, 1, 2, 3, 4, 5, 6, 7, 3], labels=3)
    assert alike_note(few, {name: name for name in few}) is None
    assert alike_note(found, {"scan00": "a", "scan01": "b"}) is None


def test_cases_without_label_maps_are_like_no_one():
    found = facts(a="1", b="2")
    assert alike_note(found, {"a": "a", "b": "b"}) is None
