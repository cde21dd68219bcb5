"""Labels that no structure has: they count as background, and are named with their voxels wherever scores are shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.cases import Case
from monaiseg.data.grid import Grid
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_label_map, write_image, write_label_map
from monaiseg.errors import DataError
from monaiseg.evaluation.results import Evaluation
from monaiseg.evaluation.scoring import evaluate, score_case
from monaiseg.evaluation.tables import markdown, summarise
from monaiseg.evaluation.unscored import Unscored, unscored_labels

GRID = Grid.of((2, 3, 1), np.eye(4))


def labels_in(folder, name, values):
    folder.mkdir(exist_ok=True)
    write_label_map(folder / name, np.array(values).reshape(GRID.shape), GRID)


def score_folders(tmp_path, *more):
    words = ["--prediction-dir", tmp_path / "made", "--reference-dir", tmp_path / "truth"]
    words += ["--report", tmp_path / "out", *more]
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


class Labeller:
    """A network that knows labels 1 and 2, and labels every scan alike."""

    table = LabelTable.from_values([1, 2])

    def __init__(self, values):
        self.values = np.array(values).reshape(GRID.shape)

    def predict(self, _image):
        return self.values


def test_labels_of_the_reference_that_are_not_in_the_table_are_named_everywhere(tmp_path):
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 2, 7, 7, 7])
    labels_in(tmp_path / "truth", "S02.nii.gz", [0, 1, 2, 7, 9, 0])
    for name in ("S01", "S02"):
        labels_in(tmp_path / "made", f"{name}.nii.gz", [0, 1, 2, 2, 0, 0])
    (tmp_path / "table.csv").write_text("value,name\n1,one\n2,two\n")

    done = score_folders(tmp_path, "--label-table", tmp_path / "table.csv")

    assert done.exit_code == 0, done.output
    said = "7 (4 voxels in 2 cases), 9 (1 voxels in 1 case)"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert said in " ".join(done.output.split())
    assert said in (tmp_path / "out" / "summary.md").read_text()
    assert summary["unscored"] == [
        {"map": "reference", "value": 7, "voxels": 4, "cases": 2},
        {"map": "reference", "value": 9, "voxels": 1, "cases": 1},
    ]
    assert any(said in note for note in summary["notes"])


def test_labels_that_only_predictions_have_are_named(tmp_path):
    """Without a table the references say what is scored: another program's extra labels are not."""
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 1, 0, 0])
    labels_in(tmp_path / "made", "S01.nii.gz", [0, 1, 1, 5, 5, 0])

    done = score_folders(tmp_path)

    assert done.exit_code == 0, done.output
    assert "predictions have labels" in done.output
    assert "5 (2 voxels in 1 case)" in " ".join(done.output.split())


def test_a_network_says_which_labels_of_the_references_it_does_not_know(data_task):
    (case,) = data_task.cases["test"]
    reference, _ = read_label_map(case.label)
    others = {int(v): int((reference == v).sum()) for v in np.unique(reference) if v > 1}

    class Knows1:
        table = LabelTable.from_values([1])

        def predict(self, _image):
            return (reference == 1).astype(np.uint8)

    found = evaluate(Knows1(), [case])

    assert others
    assert {label.value: label.voxels for label in found.unscored} == others
    assert found.mean_dice == 1.0  # and the note says why that is not all


def test_references_that_share_no_label_with_the_network_are_refused(tmp_path):
    """The network's labels would all be invented: Dice 0.0000 would look like a result."""
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 5, 5, 6, 6, 0])
    labels_in(tmp_path / "made", "S01.nii.gz", [0, 1, 1, 2, 2, 0])
    (tmp_path / "table.csv").write_text("value,name\n1,one\n2,two\n")

    done = score_folders(tmp_path, "--label-table", tmp_path / "table.csv")

    assert done.exit_code == 2
    assert "have labels 5, 6 and none of the labels to score, 1, 2" in done.output
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_model_is_not_scored_on_data_with_none_of_its_labels(trained, phantom, tmp_path):
    for number in range(5):
        phantom(folder=tmp_path / "scans", case_id=f"S{number}", label_values=(50, 60), seed=number)
    prepared = CliRunner().invoke(
        app, ["prepare", str(tmp_path / "scans"), "-o", str(tmp_path / "work")]
    )
    assert prepared.exit_code == 0, prepared.output

    words = ["evaluate", trained.run_folder, "--data", tmp_path / "work" / "scans"]
    done = CliRunner().invoke(app, [str(word) for word in [*words, "--report", tmp_path / "out"]])

    assert done.exit_code == 2
    assert "has 50, 60: no label in common" in done.output
    assert not (tmp_path / "out").exists()


def test_healthy_references_may_lack_all_labels():
    """A reference without any lesion is one that the network can get wrong."""
    table = LabelTable.from_values([1])
    empty, lesion = np.zeros((2, 2, 2), int), np.ones((2, 2, 2), int)

    case = score_case("S01", empty, lesion, table, (1, 1, 1))

    assert case.unscored == Unscored()
    assert case.structures[0].status == "invented"


def test_the_ignored_value_is_not_unknown():
    table = LabelTable.from_values([1], ignored_value=3)
    reference = np.array([0, 1, 3, 3]).reshape(2, 2, 1)

    case = score_case("S01", reference, reference * 0 + 1, table, (1, 1, 1))

    assert case.unscored == Unscored()


def test_totals_are_over_all_cases_and_references_come_first():
    cases = [Unscored({9: 2}, {4: 1}), Unscored({9: 3, 7: 1}, {})]

    found = [
        (label.map, label.value, label.voxels, label.cases) for label in unscored_labels(cases)
    ]

    assert found == [("reference", 7, 1, 1), ("reference", 9, 5, 2), ("prediction", 4, 1, 1)]


def test_a_mean_over_fewer_cases_than_its_row_says_so():
    """Recall is over the two cases whose reference has the structure, Dice over all three."""
    table = LabelTable.from_values([1])
    one, none = np.ones((1, 1, 1), int), np.zeros((1, 1, 1), int)
    pairs = {"a": (one, one), "b": (one, none), "c": (none, one)}
    cases = tuple(score_case(name, *maps, table, (1, 1, 1)) for name, maps in pairs.items())

    text = markdown(summarise(Evaluation(cases, table, "m", "test")))

    row = next(line for line in text.splitlines() if line.startswith("| label 1"))
    dice, *_, recall = [cell.strip() for cell in row.strip("|").split("|")][3:]
    assert dice == "0.333"
    assert recall == "0.500 (2)"
    assert "a number in parentheses is the number of cases in the mean" in text


@pytest.mark.parametrize("second", [None, [0, 1, 5, 0, 0, 0]])
def test_references_are_refused_only_if_none_has_a_known_label(tmp_path, second):
    references = [[0, 5, 5, 0, 0, 0], *([second] if second else [])]
    cases = []
    for number, values in enumerate(references):
        image, label = (tmp_path / f"{kind}{number}.nii.gz" for kind in ("image", "label"))
        write_image(image, np.arange(6.0).reshape(GRID.shape), GRID)
        write_label_map(label, np.array(values).reshape(GRID.shape), GRID)
        cases.append(Case(f"S{number}", (image,), label))

    if second is None:
        with pytest.raises(DataError, match="none of the labels to score"):
            evaluate(Labeller([0, 1, 1, 0, 0, 2]), cases)
    else:
        assert len(evaluate(Labeller([0, 1, 1, 0, 0, 2]), cases).cases) == 2
