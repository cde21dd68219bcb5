"""`prepare --group-by`: scans of one person never fall into two splits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from drawings import LABEL, write_case
from monaiseg.cli import app
from monaiseg.data.data_tasks import read_data_task
from monaiseg.errors import DataError
from monaiseg.preparation import prepare


@pytest.fixture
def visits(tmp_path):
    """Six people with two visits each."""
    for person in range(6):
        for visit in (1, 2):
            name = f"p{person}_v{visit}.nii.gz"
            write_case(
                tmp_path / "in/images" / name,
                tmp_path / "in/labels" / name,
                seed=10 * person + visit,
            )
    return tmp_path / "in"


def persons_by_split(task) -> dict[str, set[str]]:
    return {
        split: {case.id[:2] for case in task.cases[split]} for split in ("train", "val", "test")
    }


def test_visits_of_one_person_stay_in_one_split(visits, tmp_path):
    result = CliRunner().invoke(
        app,
        [
            "prepare",
            "--dataset-path",
            str(visits),
            "-o",
            str(tmp_path),
            "-dtn",
            "t",
            "--group-by",
            r"p(\d)",
        ],
    )

    assert result.exit_code == 0, result.output
    assert "12 cases in 6 groups of 2; each group is in one split" in result.output
    persons = persons_by_split(read_data_task(tmp_path / "t"))
    assert sum(map(len, persons.values())) == 6


def test_without_it_a_note_says_that_names_suggest_repeats(visits, tmp_path):
    task = prepare(visits, tmp_path / "out", "t")

    assert sum("some cases belong to the same person" in note for note in task.notes) == 1


def test_two_raters_of_one_image_stay_together(visits, tmp_path):
    for person in range(6):
        shutil.copy(visits / f"images/p{person}_v1.nii.gz", visits / f"images/p{person}_v2.nii.gz")
        other = np.roll(LABEL, person % 2 + 1, axis=2)
        write_case(tmp_path / "x.nii.gz", visits / f"labels/p{person}_v2.nii.gz", values=other)

    task = prepare(visits, tmp_path / "out", "t", group_by=".*")

    assert sum(map(len, persons_by_split(task).values())) == 6
    assert sum("are the same image" in note for note in task.notes) == 6


def test_a_datasets_own_folders_that_tear_a_person_apart_are_refused(visits, tmp_path):
    for split, visit in (("train", 1), ("test", 2)):
        for kind in ("images", "labels"):
            (tmp_path / "own" / split / kind).mkdir(parents=True)
            for person in range(6):
                name = f"{kind}/p{person}_v{visit}.nii.gz"
                shutil.copy(visits / name, tmp_path / "own" / split / name)

    with pytest.raises(DataError, match=r"group '0' is in train \(p0_v1\) and test \(p0_v2\)"):
        prepare(tmp_path / "own", tmp_path / "out", "t", group_by=r"p(\d)")
