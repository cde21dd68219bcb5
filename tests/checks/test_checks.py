"""Checks of splits, names, settings and resources, the quick part, and what the command writes."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import bodies_with_defects as defects
from bodies_with_defects import TABLE, body, clean, write
from monaiseg.checks import check, duplicates, quick_findings, resources, write_page
from monaiseg.checks.evidence import Evidence
from monaiseg.checks.outliers import far_out
from monaiseg.checks.structures import measure_structures
from monaiseg.cli import app
from monaiseg.data import Grid, LabelTable, read_data_task
from monaiseg.planning import Estimate
from monaiseg.preparation import prepare
from monaiseg.settings import settings_from_dict

run = CliRunner().invoke


def kinds(checkup):
    return {finding.kind for finding in checkup.findings}


def finding_of(checkup, kind):
    (found,) = [finding for finding in checkup.findings if finding.kind == kind]
    return found


@pytest.fixture
def named(tmp_path):
    """Ten bodies and a table that names their labels."""
    clean(tmp_path / "scans", 10)
    (tmp_path / "labels.csv").write_text(TABLE)
    return tmp_path


def check_named(folder, settings=None):
    return check(folder / "scans", settings, label_table=folder / "labels.csv")


def split(folder, *names):
    """Move the cases of `images` and `labels` to split folders: two to val, two to test, the rest to train."""
    places = ["val"] * 2 + ["test"] * 2 + ["train"] * (len(names) - 4)
    for name, place in zip(names, places, strict=True):
        for kind in ("images", "labels"):
            (folder / place / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(folder / kind / f"{name}.nii.gz", folder / place / kind)
    for kind in ("images", "labels"):
        (folder / kind).rmdir()


def test_partners_that_have_changed_places_are_found(named):
    made = body(50)
    defects.exchanged_lungs(made)
    write(named / "scans", "exchanged", made)

    (doubt,) = finding_of(check_named(named), "swapped-sides").doubts

    assert doubt.case == "exchanged"
    assert "1 (left lung) and 2 (right lung)" in doubt.detail


def test_sides_that_contradict_the_names_in_all_cases_are_found(named):
    (named / "labels.csv").write_text(TABLE.replace("1,left", "1,x").replace("2,right", "2,left")
                                      .replace("1,x", "1,right"))  # fmt: skip

    assert kinds(check_named(named)) == {"sides-against-names"}


def test_values_that_the_table_lacks_stop_training_with_the_sentence_of_prepare(named):
    made = body(50)
    defects.own_label(made)
    write(named / "scans", "own", made)

    finding = finding_of(check_named(named), "unlisted-values")

    assert finding.stops_training
    assert "900 (27 voxels), which the label table does not name" in finding.doubts[0].detail


def test_names_that_no_label_map_has_are_noted(named):
    (named / "labels.csv").write_text(TABLE + "7,spleen\n")

    assert "7 (spleen)" in finding_of(check_named(named), "names-without-voxels").what


def test_splits_that_share_an_image_a_person_or_nearly_an_image(tmp_path):
    names = [f"P{n:02}_visit1" for n in range(10)]
    for number, name in enumerate(names):
        write(tmp_path, name, body(number))
    copy, near, visit = body(0), body(1), body(60)
    near.image = 0.5 * near.image + 3
    for name, made in (("P50_visit1", copy), ("P51_visit1", near), ("P09_visit2", visit)):
        write(tmp_path, name, made)
    split(tmp_path, *names, "P50_visit1", "P51_visit1", "P09_visit2")

    found = check(tmp_path)

    assert finding_of(found, "same-image-in-two-splits").stops_training
    doubts = finding_of(found, "near-duplicates").doubts
    assert {doubt.case for doubt in doubts} == {"P01_visit1", "P51_visit1"}
    assert "same-person-in-two-splits" not in kinds(found)  # both visits of P09 are in train


def test_scans_of_one_person_in_two_splits_are_found_by_their_names(tmp_path):
    names = [f"P{n:02}_visit{visit}" for n in range(5) for visit in (1, 2)]
    for number, name in enumerate(names):
        write(tmp_path, name, body(number))
    split(tmp_path, *names[1:], names[0])

    doubts = finding_of(check(tmp_path), "same-person-in-two-splits").doubts

    assert {doubt.case for doubt in doubts} >= {"P00_visit1", "P00_visit2"}


def test_a_label_that_a_split_lacks_is_named(tmp_path):
    names = clean(tmp_path, 10)
    for number, name in enumerate(names[:4]):
        made = body(number)
        defects.without_heart(made)
        write(tmp_path, name, made)
    split(tmp_path, *names)

    found = [f.what for f in check(tmp_path).findings if f.kind == "labels-absent-from-split"]

    assert found == ["1 label in no case of val: 3", "1 label in no case of test: 3"]


def test_files_that_changed_after_prepare_are_found(tmp_path):
    clean(tmp_path / "scans", 10)
    prepare(tmp_path / "scans", tmp_path / "work", "task")
    write(tmp_path / "scans", "ok03", body(77))

    finding = finding_of(check(tmp_path / "work/task"), "changed-files")

    assert finding.stops_training
    assert [doubt.case for doubt in finding.doubts] == ["ok03"]


def test_the_lists_of_easyreg_are_enough(tmp_path):
    clean(tmp_path / "scans", 10)
    prepare(tmp_path / "scans", tmp_path / "work", "task")
    (tmp_path / "work/task/dataset.json").unlink()
    made = body(50)
    defects.constant(made)
    write(tmp_path / "scans", "ok03", made)

    finding = finding_of(check(tmp_path / "work/task"), "constant-image")

    assert [doubt.case for doubt in finding.doubts] == ["ok03"]


def settings_with(**dataset):
    network = {"channels": 8, "num_stages": 3, "deep_supervision_heads": 0}
    cpu = {"gpu_id": -1, "num_threads": 1, "num_workers": 0, "network": network}
    return settings_from_dict({"dataset": {"axis_order": "xyz", **dataset}, "tsk_set": cpu})


@pytest.mark.parametrize(
    ("dataset", "kind", "stops"),
    [
        ({"seg": {"patch_size": [64, 64, 64]}}, "patch-larger-than-images", False),
        ({"seg": {"patch_size": [17, 16, 16]}}, "patch-size", True),
        ({"spacing": [5, 5, 5], "seg": {"patch_size": [16, 16, 16]}}, "strong-resampling", False),
        ({"spacing": [4, 4, 4], "seg": {"patch_size": [16, 16, 16]}}, "tiny-structures", False),
        ({"num_channels": 2}, "settings-against-data", True),
        ({"seg": {"interested_label_list": [0, 8]}}, "settings-against-data", True),
        ({"seg": {"augmentation": {"flip": {"left_right": 0.5}}}}, "mirrored-without-names", False),
    ],
)
def test_settings_are_compared_with_the_cases(tmp_path, monkeypatch, dataset, kind, stops):
    monkeypatch.setattr(resources, "measured", lambda *_: ESTIMATE)
    clean(tmp_path, 10)

    assert finding_of(check(tmp_path, settings_with(**dataset)), kind).stops_training is stops


ESTIMATE = Estimate(0.1, 7, 0.7, 0.2, 1 << 20, "cpu", 1 << 20, "memory", 1 << 20)


def test_memory_and_disk_that_do_not_suffice_are_findings(tmp_path):
    evidence = Evidence(tmp_path, (), None, {}, LabelTable.from_values([1]))
    huge = replace(ESTIMATE, memory_bytes=1 << 60, cache="disk", cache_bytes=1 << 60)

    assert [x.kind for x in resources.lacking(evidence, ESTIMATE)] == []
    assert [x.kind for x in resources.lacking(evidence, huge)] == ["little-memory", "little-disk"]
    assert [x.stops_training for x in resources.lacking(evidence, None)] == [True]


def test_a_training_is_estimated_by_running_a_few_steps(tmp_path):
    clean(tmp_path, 10)
    settings = settings_with(seg={"patch_size": [16, 16, 16]})

    estimate = check(tmp_path, settings).estimate

    assert estimate.steps_per_epoch == 7  # one a case; 70 % of the cases are for training
    assert 0 < estimate.epoch_seconds < 60
    assert 50 << 20 < estimate.memory_bytes < 4 << 30


def test_the_quick_part_opens_no_file(tmp_path):
    clean(tmp_path / "scans", 10)
    prepare(tmp_path / "scans", tmp_path / "work", "task")
    task = read_data_task(tmp_path / "work/task")
    shutil.rmtree(tmp_path / "scans")

    found = quick_findings(task, settings_with(seg={"patch_size": [64, 64, 64]}))

    assert [finding.kind for finding in found] == ["patch-larger-than-images"]


def test_an_outlier_needs_a_gap():
    spread = {f"{n}": float(n) for n in range(20)}

    assert far_out({**spread, "far": 45.0}, least=1.0) == ["far"]
    assert far_out({**spread, "near": 30.0}, least=1.0) == []
    assert far_out({**spread, "far": -45.0, "farther": -50.0}, least=1.0) == ["farther", "far"]


def test_structures_are_those_of_the_drawing():
    label = np.zeros((6, 7, 8), np.uint8)
    label[0:2, 2:5, 3:6] = 1  # 18 voxels, on the lower face of X
    label[4, 2:5, 3:6] = 2  # one slice of 9 voxels
    found = measure_structures(label, Grid.of(label.shape, np.diag([2, 1, 1, 1])))

    assert found.keys() == {1, 2}
    assert found[1].voxels == 18
    assert found[1].centroid_mm == (1.0, 3.0, 4.0)
    assert found[1].cut == 1.0
    assert found[2].cut == 0.0
    assert found[1].inner == 1  # at (0, 3, 4): outside the volume there is no neighbour
    assert found[1].between == found[1].islands == 0


def test_the_command_writes_a_table_json_and_a_page(named):
    made = body(50)
    defects.shifted_labels(made)
    write(named / "scans", "shifted", made)
    page = named / "check.html"

    result = run(app, ["check", str(named / "scans"), "--html", str(page), "--json"])

    assert result.exit_code == 2
    assert "11 cases, 1 finding; 1 of them stops training" in result.stderr
    assert json.loads(result.stdout)["findings"][0]["cases"][0]["case"] == "shifted"
    assert "different grids" in page.read_text()


def test_a_sound_dataset_gets_exit_code_0_and_the_next_command(named):
    result = run(app, ["check", str(named / "scans"), "--label-table", str(named / "labels.csv")])

    assert result.exit_code == 0
    assert "10 cases, and nothing to report" in result.output
    assert f"next: monaiseg prepare {named / 'scans'} --label-table" in result.output


def test_the_page_needs_nothing_but_itself_and_shows_hostile_names_as_text(named):
    made = body(50)
    defects.exchanged_lungs(made)
    write(named / "scans", "<script>alert(1)<", made)
    write_page(named / "page.html", check_named(named))
    page = (named / "page.html").read_text()

    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count("data:image/png;base64,") == 1


def test_the_200_hippocampus_cases_are_clean(hippocampus):
    assert check(hippocampus).findings == ()


def test_neighbours_are_those_of_a_comparison_of_all_pairs(monkeypatch):
    images = np.random.default_rng(0).normal(size=(10, 30)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    monkeypatch.setattr(duplicates, "ROWS", 3)
    brute = [sorted((1 - float(a @ b), j) for j, b in enumerate(images) if j != i)
             for i, a in enumerate(images)]  # fmt: skip

    nearest, first, second = duplicates._neighbours(images)

    assert nearest.tolist() == [row[0][1] for row in brute]
    assert first == pytest.approx([row[0][0] for row in brute], abs=1e-6)
    assert second == pytest.approx([row[1][0] for row in brute], abs=1e-6)
