"""Interrupted evaluations: they continue, unless a file or an option has changed."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import write_label_map
from monaiseg.evaluation.results import CaseScores
from monaiseg.evaluation.scoring import evaluate_label_maps, score_case
from monaiseg.evaluation.tables import scores_csv, write_report
from monaiseg.evaluation.unfinished import UNFINISHED, Unfinished
from monaiseg.prediction import Predictor

TABLE = LabelTable.from_values([1, 2])
CASES = "S01", "S02", "S03"


class StopHereError(Exception):
    pass


@pytest.fixture
def pairs(tmp_path):
    """Three cases of two label maps each, in the second of which a label is missed."""
    rng = np.random.default_rng(0)
    found = {}
    for case in CASES:
        paths = tmp_path / f"{case}_made.nii.gz", tmp_path / f"{case}_truth.nii.gz"
        for path in paths:
            values = rng.integers(0, 2 if case == "S02" else 3, (4, 4, 4))
            write_label_map(path, values, Grid.of((4, 4, 4), np.eye(4)))
        found[case] = paths
    return found


def kept(tmp_path, tolerance_mm=1.0, *more):
    return Unfinished.of(tmp_path / "report", TABLE, tolerance_mm, *more)


def interrupted(pairs, unfinished, after):
    """Score that many cases and stop."""
    seen: list[CaseScores] = []

    def stop(scores):
        seen.append(scores)
        if len(seen) == after:
            raise StopHereError

    with pytest.raises(StopHereError):
        evaluate_label_maps(pairs, TABLE, unfinished=unfinished, on_case=stop)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_evaluation_continues_to_the_same_report(pairs, tmp_path, after):
    expected = evaluate_label_maps(pairs, TABLE)
    interrupted(pairs, kept(tmp_path), after)

    found = evaluate_label_maps(pairs, TABLE, unfinished=kept(tmp_path))

    assert found.resumed == after
    assert scores_csv(found) == scores_csv(expected)


def test_a_case_whose_file_has_changed_is_scored_again(pairs, tmp_path):
    interrupted(pairs, kept(tmp_path), 2)
    _, reference = pairs["S01"]
    write_label_map(reference, np.full((4, 4, 4), 2), Grid.of((4, 4, 4), np.eye(4)))

    found = evaluate_label_maps(pairs, TABLE, unfinished=kept(tmp_path))

    assert found.resumed == 1
    assert scores_csv(found) == scores_csv(evaluate_label_maps(pairs, TABLE))


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: kept(folder, 2.0),
        lambda folder: kept(folder, 1.0, "another network"),
        lambda folder: Unfinished.of(folder / "report", LabelTable.from_values([1]), 1.0),
    ],
    ids=["tolerance", "network", "labels"],
)
def test_a_changed_option_voids_what_was_kept(pairs, tmp_path, other):
    interrupted(pairs, kept(tmp_path), 2)

    assert evaluate_label_maps(pairs, TABLE, unfinished=other(tmp_path)).resumed == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": "x", "structures": 3}'])
def test_a_damaged_file_of_kept_scores_is_scored_again(pairs, tmp_path, text):
    interrupted(pairs, kept(tmp_path), 2)
    (tmp_path / "report" / UNFINISHED / "S01.json").write_text(text)

    assert evaluate_label_maps(pairs, TABLE, unfinished=kept(tmp_path)).resumed == 1


def test_what_was_kept_goes_when_the_report_is_written(pairs, tmp_path):
    found = evaluate_label_maps(pairs, TABLE, unfinished=kept(tmp_path))
    assert len(list((tmp_path / "report" / UNFINISHED).iterdir())) == 3

    write_report(found, tmp_path / "report")

    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "scores.csv",
        "summary.json",
        "summary.md",
    ]


def test_kept_scores_are_those_that_were_measured(tmp_path):
    """NaN of a structure in neither map among them."""
    maps = np.zeros((2, 3, 3, 3), np.uint8)
    maps[:, 1] = 1
    path = tmp_path / "file"
    path.write_text("a label map")
    scores = score_case("S01", *maps, TABLE, (1.0, 1.0, 1.0), seconds=2.5)

    kept(tmp_path).write(scores, [path])

    assert repr(kept(tmp_path).read("S01", [path])) == repr(scores)


def test_an_evaluation_of_a_network_that_was_stopped_continues(trained, tmp_path, monkeypatch):
    """Stopped in the second of the training cases; label maps that were written are not made again."""
    words = ["evaluate", trained.run_folder, "--split", "train", "--device", "cpu",
             "--save-predictions", "--report", tmp_path / "out"]  # fmt: skip
    predict = Predictor.predict
    calls: list[object] = []

    def counted(self, image, on_progress=None):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, image, on_progress)

    monkeypatch.setattr(Predictor, "predict", counted)
    stopped = CliRunner().invoke(app, [str(word) for word in words])
    done = CliRunner().invoke(app, [str(word) for word in words])

    assert stopped.exit_code == 130
    assert done.exit_code == 0, done.output
    assert "1 of 3 cases were scored before an interruption" in done.stderr
    assert len(calls) == 4
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 3
