"""Evaluation: all faults at once and before the work, scores over the cases that have the structure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.facts import CaseFacts
from monaiseg.data.grid import Grid
from monaiseg.data.label_checks import label_notes
from monaiseg.data.labels import LabelTable
from monaiseg.data.volumes import read_label_map, write_label_map
from monaiseg.errors import DataError
from monaiseg.evaluation.results import CaseScores, Evaluation
from monaiseg.evaluation.scoring import evaluate, score_case
from monaiseg.evaluation.summaries import summary_schema
from monaiseg.evaluation.tables import latex, read_scores, summarise
from monaiseg.prediction import Predictor
from monaiseg.preparation import prepare


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

    with pytest.raises(DataError, match="is used 2 times"):
        evaluate(predictor, [first, replace(second, id=first.id)])


def test_scans_of_one_name_are_refused_by_eval_seg(trained, phantom, tmp_path):
    one, two = (phantom(folder=tmp_path / name).image for name in "ab")
    words = ["eval-seg", "-m", trained.run_folder, "-o", tmp_path / "out", "-i", one, "-i", two]

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 2
    assert "case id 'case' is used 2 times" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_report_folder_that_cannot_be_made_is_refused_before_the_work(trained, tmp_path):
    task = trained.run_folder.parent
    (tmp_path / "mine").write_text("mine")
    words = ["evaluate", "-m", trained.run_folder, "-o", task.parent, "-dtn", task.name]

    result = CliRunner().invoke(app, [str(w) for w in [*words, "--report", tmp_path / "mine"]])

    assert result.exit_code == 2
    assert "mine: cannot be written" in result.stderr


def test_a_test_case_that_changed_since_the_preparation_is_not_scored(trained, dataset, tmp_path):
    task = prepare(dataset, tmp_path / "own", "phantoms")
    (case,) = task.cases["test"]
    values, header = read_label_map(case.label)
    write_label_map(case.label, np.where(values == 1, 4, values), header.grid)
    words = ["evaluate", "-m", trained.run_folder, "-o", task.folder.parent, "-dtn", task.name]

    result = CliRunner().invoke(app, [str(word) for word in words])

    assert result.exit_code == 2
    assert "changed after `prepare` had checked" in result.stderr


def test_volume_errors_are_over_the_cases_that_have_the_structure():
    """Missed whole in one of two; the other has none in either map, and would halve the error."""
    table = LabelTable.from_values([1])
    missed, none = np.ones((10, 10, 10)), np.zeros((10, 10, 10))
    cases = [
        score_case(str(n), reference.astype(int), none.astype(int), table, (1.0, 1.0, 1.0))
        for n, reference in enumerate((missed, none))
    ]

    (label,) = summarise(Evaluation(tuple(cases), table, "model", "test")).labels

    assert (label.cases, label.missed) == (1, 1)
    assert (label.scores["dice"].value, label.scores["dice"].cases) == (0.0, 1)
    assert label.scores["volume_error_ml"].value == 1.0
    assert label.scores["volume_bias_ml"].value == -1.0


def test_too_much_in_one_case_does_not_make_up_for_too_little_in_another():
    table = LabelTable.from_values([1])
    some, all_, none = (np.zeros((10, 10, 10), np.uint8) for _ in range(3))
    some[:5], all_[:] = 1, 1
    cases = [
        score_case(str(n), some, prediction, table, (1.0, 1.0, 1.0))
        for n, prediction in enumerate((all_, none))
    ]

    (label,) = summarise(Evaluation(tuple(cases), table, "model", "test")).labels

    assert label.scores["volume_error_ml"].value == 0.5
    assert label.scores["volume_bias_ml"].value == 0.0


def test_a_case_without_a_label_map_is_not_taken_for_an_inverted_one(data_task):
    (case,) = data_task.cases["test"]
    bare: dict[str, CaseFacts] = {case.id: replace(data_task.facts[case.id], label_voxels={})}

    notes = label_notes({"test": [case.id]}, bare, data_task.table)

    assert not [note for note in notes if case.id in note]


def test_the_scores_on_other_data_do_not_replace_those_of_the_trainings_own(
    trained, data_task, tmp_path
):
    """`data_task` is a copy: another data task than the one that the network was trained on."""
    words = ["evaluate", "-m", str(trained.run_folder), "-o", str(data_task.folder.parent)]
    model = shutil.copytree(trained.run_folder, data_task.folder / "first")
    own, other = ([*words, "-dtn", name] for name in ("phantoms", "others"))
    own[2] = other[2] = str(model)
    shutil.copytree(data_task.folder, tmp_path / "tasks" / "others", ignore=lambda *_: ["first"])

    for command in (own, other):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output

    records = model / "records"
    first, second = (
        json.loads((records / name / "summary.json").read_text())
        for name in ("test", "others-test")
    )
    assert first["data_task"] == str(data_task.folder)
    assert second["data_task"] == str(tmp_path / "tasks" / "others")
    assert first["model"].startswith(str(model / "checkpoints" / "best-epoch-"))


def test_label_maps_that_cannot_be_scored_are_named_before_eval_seg_predicts(
    trained, data_task, tmp_path
):
    (case,) = data_task.cases["test"]
    image = case.images[0]
    (tmp_path / "list.txt").write_text(
        f"{image} None\n{data_task.cases['val'][0].images[0]} {tmp_path}/lost.nii.gz\n"
    )
    (tmp_path / "lost.nii.gz").write_bytes(b"no volume")
    words = ["eval-seg", "-m", str(trained.run_folder), "-txt", str(tmp_path / "list.txt")]

    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out")])

    assert result.exit_code == 2
    assert "lost.nii.gz" in result.output
    assert not (tmp_path / "out").exists()


def labels_in(folder, name, values):
    folder.mkdir(exist_ok=True)
    write_label_map(folder / name, np.array(values).reshape(2, 2, 1), Grid.of((2, 2, 1), np.eye(4)))


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_two_folders_of_label_maps_are_scored(tmp_path):
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01_pred.nii.gz", [0, 1, 2, 2])
    folders = ["--prediction-dir", tmp_path / "made", "--reference-dir", tmp_path / "truth"]

    done = call("evaluate", *folders, "--report", tmp_path / "out", "--latex", tmp_path / "t.tex")

    assert done.exit_code == 0, done.output
    assert read_scores(tmp_path / "out" / "scores.csv") == {
        "S01": {
            "label 1": pytest.approx(2 / 3, abs=1e-6),
            "label 2": pytest.approx(2 / 3, abs=1e-6),
        }
    }
    assert "| label 1 | 1 | 0 | 0.667 |" in (tmp_path / "out" / "summary.md").read_text()
    assert r"label 1 & 1 & 0 & 0.667" in (tmp_path / "t.tex").read_text()


def test_lists_of_label_maps_are_scored_as_folders_are(tmp_path):
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made, new", "S01_pred.nii.gz", [0, 1, 2, 2])
    (tmp_path / "truth.txt").write_text("truth/S01.nii.gz\n")
    (tmp_path / "made.txt").write_text('"made, new/S01_pred.nii.gz"\n')
    lists = ["--prediction-dir", tmp_path / "made.txt", "--reference-dir", tmp_path / "truth.txt"]

    done = call("evaluate", *lists, "--report", tmp_path / "out")

    assert done.exit_code == 0, done.output
    assert read_scores(tmp_path / "out" / "scores.csv").keys() == {"S01"}


def test_a_list_of_pairs_is_no_list_of_label_maps(tmp_path):
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01_pred.nii.gz", [0, 1, 2, 2])
    (tmp_path / "list.txt").write_text("made/S01_pred.nii.gz truth/S01.nii.gz\n")
    words = ["--prediction-dir", tmp_path / "list.txt", "--reference-dir", tmp_path / "truth"]

    done = call("evaluate", *words, "--report", tmp_path / "out")

    assert done.exit_code == 2
    assert "lists several files for S01_pred; list one per line" in done.output


def test_two_predictions_of_one_case_are_named(tmp_path):
    """The second would silently take the place of the first."""
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01_pred.nii.gz", [0, 1, 2, 2])
    folders = ["--prediction-dir", tmp_path / "made", "--reference-dir", tmp_path / "truth"]

    done = call("evaluate", *folders, "--report", tmp_path / "out")

    assert done.exit_code == 2
    assert "case id 'S01' is used 2 times" in done.output


def test_label_maps_without_a_partner_are_named(tmp_path):
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "truth", "S02.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01.nii.gz", [0, 1, 2, 2])
    labels_in(tmp_path / "made", "S03.nii.gz", [0, 1, 2, 2])
    folders = ["--prediction-dir", tmp_path / "made", "--reference-dir", tmp_path / "truth"]

    done = call("evaluate", *folders, "--report", tmp_path / "out")

    assert done.exit_code == 2
    assert f"no reference in {tmp_path / 'truth'} for S03" in done.output
    assert f"no prediction in {tmp_path / 'made'} for S02" in done.output
    assert not (tmp_path / "out").exists()


def test_maps_that_share_no_label_with_the_table_are_refused(tmp_path):
    """A mean of nothing would look like a result."""
    labels_in(tmp_path / "truth", "S01.nii.gz", [0, 1, 1, 2])
    labels_in(tmp_path / "made", "S01.nii.gz", [0, 1, 2, 2])
    (tmp_path / "table.csv").write_text("value,name\n7,seven\n8,eight\n")
    folders = ["--prediction-dir", tmp_path / "made", "--reference-dir", tmp_path / "truth"]

    done = call(
        "evaluate", *folders, "--report", tmp_path / "o", "--label-table", tmp_path / "table.csv"
    )

    assert done.exit_code == 2
    assert "none of the labels" in done.output


def test_the_summary_keeps_to_its_schema(trained, data_task):
    (case,) = data_task.cases["test"]
    found = evaluate(Predictor(trained.run_folder, device="cpu"), [case])

    document = json.loads(summarise(found).model_dump_json())

    jsonschema.validate(document, summary_schema())
    assert document["cases"] == 1
    assert document["labels"][0]["scores"]["dice"]["cases"] == 1


def test_the_worst_cases_are_drawn(trained):
    run = trained.run_folder

    done = call("evaluate", run, "--pictures", "worst:1", "--device", "cpu")

    assert done.exit_code == 0, done.output
    (picture,) = (run / "records" / "test" / "pictures").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_equal_scores_are_no_difference_and_better_ones_are(tmp_path):
    rng = np.random.default_rng(0)
    for name, gain in (("a", 0.0), ("b", 0.05)):
        rows = [f"S{n:02d},1,hip,found,{0.8 + gain + 0.01 * rng.normal():.4f}" for n in range(20)]
        (tmp_path / f"{name}.csv").write_text("case,value,name,status,dice\n" + "\n".join(rows))

    same, better = (call("compare", tmp_path / "a.csv", tmp_path / f"{name}.csv") for name in "ab")

    assert "No difference beyond noise" in same.output
    assert "The second set is better" in better.output
    assert call("compare", tmp_path / "a.csv").exit_code == 2
    assert (
        "has no column 'hd_mm'"
        in call("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--metric", "hd_mm").output
    )


def test_what_another_seed_changes_is_noise_unless_the_user_says_otherwise(tmp_path):
    """Every case is worse by 0.003, so the interval over cases is far from 0."""
    for name, loss in (("a", 0.0), ("b", 0.003)):
        rows = [f"S{n:02d},1,hip,found,{0.8 + 0.01 * n - loss + 1e-5 * n:.6f}" for n in range(20)]
        (tmp_path / f"{name}.csv").write_text("case,value,name,status,dice\n" + "\n".join(rows))
    sets = tmp_path / "a.csv", tmp_path / "b.csv"

    seeds, strict = call("compare", *sets), call("compare", *sets, "--negligible", "0")

    assert "No difference beyond noise" in seeds.output
    assert (
        "Differences up to 0.005 do not count, because another seed may make them." in seeds.output
    )
    assert "The second set is worse" in strict.output


# ---------------------------------------------------------------- groups, tolerances, lesions


def spheres(folder, table, *rows):
    """Label maps of one row of 8 voxels each, under S01, S02, ... in two folders, and the table; the words to score them."""
    for number, row in enumerate(rows, start=1):
        for name, values in zip(("truth", "made"), row, strict=True):
            (folder / name).mkdir(exist_ok=True)
            write_label_map(
                folder / name / f"S{number:02d}.nii.gz",
                np.array([int(value) for value in values]).reshape(8, 1, 1),
                Grid.of((8, 1, 1), np.eye(4)),
            )
    (folder / "labels.csv").write_text(table)
    return ["evaluate", "--prediction-dir", folder / "made", "--reference-dir", folder / "truth",
            "--label-table", folder / "labels.csv", "--report", folder / "out"]  # fmt: skip


def test_the_whole_of_a_group_is_scored_beside_its_parts_and_not_in_the_mean(tmp_path):
    """Head and body are confused, and together they are right."""
    table = "value,name,group\n1,head,whole\n2,body,whole\n"
    words = spheres(tmp_path, table, ("01122000", "02211000"))

    done = call(*words)

    assert done.exit_code == 0, done.output
    scores = read_scores(tmp_path / "out" / "scores.csv")["S01"]
    assert scores == {"head": 0, "body": 0, "whole": 1}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    jsonschema.validate(summary, summary_schema())
    assert summary["mean_dice"]["value"] == 0
    assert [label["values"] for label in summary["labels"]] == [[1], [2], [1, 2]]
    assert summary["per_case"] == {"S01": 0}
    compared = call("compare", tmp_path / "out", tmp_path / "out")
    assert "whole" in compared.output


def test_each_label_has_the_surface_dice_of_its_tolerance(tmp_path):
    """Both lie one voxel off, at the same place: 1 mm is enough for the one and not for the other."""
    rows = ("01111000", "00111100"), ("02222000", "00222200")
    words = spheres(tmp_path, "value,name,tolerance_mm\n1,wide,1\n2,narrow,0.5\n", *rows)

    done = call(*words, "--tolerance-mm", "3")

    scores = read_scores(tmp_path / "out" / "scores.csv", "surface_dice")
    assert scores["S01"]["wide"] == 1
    assert scores["S02"]["narrow"] < 1
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "Surface Dice at 0.5 to 1 mm, by label." in text


def test_false_positives_a_scan_count_scans_without_lesions(tmp_path):
    """Two lesions, one of them found, and one invented; then a scan with none in either map."""
    table = "value,name,lesion\n1,lesion,yes\n"
    words = spheres(tmp_path, table, ("10010000", "10000010"), ("00000000", "00000000"))

    done = call(*words)

    assert done.exit_code == 0, done.output
    (label,) = json.loads((tmp_path / "out" / "summary.json").read_text())["labels"]
    found = {name: (mean["value"], mean["cases"]) for name, mean in label["scores"].items()}
    assert found["lesion_sensitivity"] == found["lesion_f1"] == (0.5, 1)
    assert found["lesion_false_positives"] == (0.5, 2)
    assert "lesion_f1" in (tmp_path / "out" / "summary.md").read_text()


def test_a_label_table_gives_a_trained_network_groups_to_be_scored_by(trained, tmp_path):
    names = Predictor(trained.run_folder, device="cpu").table.foreground
    rows = [f"{label.value},{label.name},whole" for label in names]
    (tmp_path / "groups.csv").write_text("value,name,group\n" + "\n".join(rows))
    words = ["evaluate", trained.run_folder, "--device", "cpu", "--report", tmp_path / "out"]

    done = call(*words, "--label-table", tmp_path / "groups.csv")

    assert done.exit_code == 0, done.output
    assert "whole" in json.dumps(read_scores(tmp_path / "out" / "scores.csv"))
    (tmp_path / "groups.csv").write_text("value,name\n7,something else\n")
    refused = call(*words, "--label-table", tmp_path / "groups.csv")
    assert refused.exit_code == 2
    assert "has none of the labels of" in refused.output


def test_names_in_a_table_for_a_paper_do_not_break_latex():
    table = LabelTable.from_values([1], {1: "grey & white_matter #1"})
    ones = np.ones((2, 2, 2), np.uint8)
    case = score_case("S01", ones, ones, table, (1.0, 1.0, 1.0))

    text = latex(summarise(Evaluation((case,), table, "model", "test")))

    assert r"grey \& white\_matter \#1 & 1" in text
