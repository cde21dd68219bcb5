"""Evaluation: all faults at once and before the work, scores over the cases that have the structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.errors import DataError
from monaiseg.evaluation import CaseScores, Evaluation, evaluate
from monaiseg.facts import CaseFacts, label_notes
from monaiseg.geometry import Grid
from monaiseg.labels import LabelTable
from monaiseg.metrics import score_label_maps
from monaiseg.prediction import Predictor
from monaiseg.report import label_rows
from monaiseg.volumes import read_label_map, write_label_map


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained.run_folder, device="cpu")


def test_all_faults_of_the_cases_are_named_before_the_first_prediction(
    predictor, data_task, tmp_path
):
    first, second, third = data_task.cases["train"]
    values, header = read_label_map(second.label)
    moved = header.grid.array.copy()
    moved[:3, 3] += 5
    write_label_map(tmp_path / "moved.nii.gz", values, Grid.of(values.shape, moved))
    cases = [
        first,
        replace(second, label=tmp_path / "moved.nii.gz"),
        replace(third, label=tmp_path / "lost.nii.gz"),
    ]
    seen: list[CaseScores] = []

    with pytest.raises(DataError) as raised:
        evaluate(predictor, cases, predictions=tmp_path / "out", on_case=seen.append)

    assert f"case {second.id!r}" in str(raised.value)
    assert "lie on different grids" in str(raised.value)
    assert f"case {third.id!r}" in str(raised.value)
    assert not seen
    assert not (tmp_path / "out").exists()


def test_two_cases_of_one_id_are_not_written_over_each_other(predictor, data_task):
    first, second, *_ = data_task.cases["train"]

    with pytest.raises(DataError, match="stands 2 times"):
        evaluate(predictor, [first, replace(second, id=first.id)])


def test_scans_of_one_name_are_refused_by_eval_seg(trained, phantom, tmp_path):
    one, two = (phantom(folder=tmp_path / name).image for name in "ab")
    words = ["eval-seg", "-m", trained.run_folder, "-o", tmp_path / "out", "-i", one, "-i", two]

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 2
    assert "case id 'case' stands 2 times" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_report_folder_that_cannot_be_made_is_refused_before_the_work(trained, tmp_path):
    task = trained.run_folder.parent
    (tmp_path / "mine").write_text("mine")
    words = ["evaluate", "-m", trained.run_folder, "-o", task.parent, "-dtn", task.name]

    result = CliRunner().invoke(app, [str(w) for w in [*words, "--report", tmp_path / "mine"]])

    assert result.exit_code == 2
    assert "mine: cannot be written" in result.stderr


def test_a_test_case_that_changed_since_the_preparation_is_not_scored(trained, data_task):
    (case,) = data_task.cases["test"]
    values, header = read_label_map(case.label)
    write_label_map(case.label, np.where(values == 1, 4, values), header.grid)
    task = data_task.folder
    words = ["evaluate", "-m", trained.run_folder, "-o", task.parent, "-dtn", task.name]

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 2
    assert "changed since the check" in result.stderr


def test_volume_errors_are_over_the_cases_that_have_the_structure():
    """Missed whole in one of two; the other has none in either map, and would halve the error."""
    table = LabelTable.from_values([1])
    missed, none = np.ones((10, 10, 10)), np.zeros((10, 10, 10))
    cases = [
        CaseScores(str(n), tuple(score_label_maps(reference, none, table, 1.0)), 0.0)
        for n, reference in enumerate((missed, none))
    ]

    (row,) = label_rows(Evaluation(tuple(cases), table, "model", "test"))

    assert (row["cases"], row["dice"], row["volume_error_ml"]) == (1, 0.0, -1.0)


def test_a_case_without_a_label_map_is_not_taken_for_an_inverted_one(data_task):
    (case,) = data_task.cases["test"]
    bare: dict[str, CaseFacts] = {case.id: replace(data_task.facts[case.id], label_voxels={})}

    notes = label_notes({"test": [case.id]}, bare, data_task.table)

    assert not [note for note in notes if case.id in note]
