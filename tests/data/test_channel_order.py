"""Channels go by the numbers in their files' names, whatever order they are typed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawings import write_case
from monaiseg.data.cases import in_channel_order
from monaiseg.data.images import find_images
from monaiseg.data.list_files import read_list_file
from monaiseg.errors import DataError, SettingsError


def paths(*names: str) -> list[Path]:
    return [Path(f"{name}.nii.gz") for name in names]


@pytest.mark.parametrize(
    "typed",
    [("a_0001", "a_0000"), ("a_0000", "a_0001")],
)
def test_numbers_decide(typed):
    assert in_channel_order(paths(*typed)) == paths("a_0000", "a_0001")


@pytest.mark.parametrize(
    "typed", [("t1", "flair"), ("a_0001", "flair"), ("flair_0000", "t1_0001"), ("a_0003",)]
)
def test_names_that_say_nothing_against_it_keep_their_order(typed):
    assert in_channel_order(paths(*typed)) == paths(*typed)


@pytest.mark.parametrize(
    "typed", [("flair_0001", "t1_0000"), ("a_0000", "b_0000"), ("a_0000", "a_0000")]
)
def test_names_that_contradict_their_order_are_refused(typed):
    with pytest.raises(DataError, match="do not ascend"):
        in_channel_order(paths(*typed))


@pytest.fixture
def files(tmp_path):
    for folder in ("x", "y"):
        for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
            write_case(tmp_path / folder / f"{name}.nii.gz")
    return tmp_path


@pytest.mark.parametrize(
    "typed",
    [
        ("x/a_0001", "x/a_0000", "x/b_0001", "x/b_0000"),
        ("x/a_0000", "x/b_0000", "x/a_0001", "x/b_0001"),  # a shell's *_0000 *_0001
    ],
)
def test_typed_files_make_the_cases_that_their_names_say(files, typed):
    found = find_images([files / f"{name}.nii.gz" for name in typed], files / "out", 2)

    assert [[path.name[:6] for path in case.images] for case in found] == [
        ["a_0000", "a_0001"],
        ["b_0000", "b_0001"],
    ]


def test_cases_of_one_name_in_two_folders_stay_apart(files):
    typed = [files / f"{folder}/a_000{n}.nii.gz" for n in (0, 1) for folder in "xy"]

    found = find_images(typed, files / "out", 2)

    assert [{path.parent.name for path in case.images} for case in found] == [{"x"}, {"y"}]


def test_two_cases_that_lack_a_channel_each_make_no_case_together(files):
    with pytest.raises(DataError, match="do not ascend"):
        find_images([files / "x/a_0000.nii.gz", files / "x/b_0000.nii.gz"], files / "out", 2)
    with pytest.raises(SettingsError, match="images cannot be cases of"):
        find_images(
            [files / f"x/{n}.nii.gz" for n in ("a_0000", "a_0001", "b_0000")], files / "out", 2
        )


def test_a_list_gives_channels_by_their_numbers(files):
    (files / "list.txt").write_text(f"{files}/x/a_0001.nii.gz {files}/x/a_0000.nii.gz None\n")

    assert [path.name[:6] for path in read_list_file(files / "list.txt")[0].images] == [
        "a_0000",
        "a_0001",
    ]
