"""The page: what it says, and what it must not say."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from monaiseg.evaluation import read_sources
from monaiseg.report import read_score_folder, write_page
from monaiseg.report.score_folder import HISTORY_FILE, RUN_SETTINGS_FILE
from monaiseg.training.run_folder import RunFolder
from pages import CANARY, call, make_page, write_folders


def test_a_page_holds_no_path_and_no_text_of_a_header(page):
    text = page.read_text()
    volumes = re.findall(r'<script type="text/plain" id="volume-[^"]*">([^<]*)</script>', text)

    assert len(volumes) == 9
    raw = [gzip.decompress(base64.b64decode(volume)) for volume in volumes]
    for words in (CANARY, "secret_folder", str(page.parents[1])):
        assert words not in text
        assert not any(words.encode() in volume for volume in raw)
    assert not any(any(volume[148:252]) for volume in raw)  # descrip and aux_file


def test_the_policy_allows_each_script_by_its_checksum_and_nothing_else(page):
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)

    assert "default-src 'none'" in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    assert not re.search(r'(src|href)="(?!#|data:)', text.replace("<a href", "<a"))


def test_a_name_from_a_file_is_text_and_no_markup(tmp_path):
    write_folders(tmp_path, num_cases=1, num_labels=1)
    (tmp_path / "labels.csv").write_text("value,name\n1,<script>alert(1)</script>\n")

    text = make_page(tmp_path).read_text()

    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_page_says_how_the_scores_were_made(page):
    text = page.read_text()

    sources = read_sources(page.parent)
    assert sources.versions["monaiseg"] in text
    assert hashlib.sha256((page.parent / "scores.csv").read_bytes()).hexdigest() in text
    assert "<code>monaiseg" in text


def test_two_pages_of_the_same_scores_are_equal(page, tmp_path):
    scores = read_score_folder(page.parent)

    first, second = (
        write_page(scores, tmp_path / name, command=["monaiseg"]).read_bytes() for name in "ab"
    )

    assert first == second


def test_a_moved_folder_still_has_its_predictions(tmp_path, data_task, trained):
    scores = tmp_path / "scores"
    call("evaluate", trained.run_folder, "--data", data_task.folder, "--report", scores)
    moved = shutil.move(scores, tmp_path / "elsewhere")

    (case,) = read_score_folder(Path(moved)).worst_first()

    assert read_score_folder(Path(moved)).files(case)[2].is_file()


def test_the_report_of_a_model_has_its_curves_settings_and_a_link_to_each_label_map(
    tmp_path, data_task, trained
):
    scores = tmp_path / "scores"
    call("evaluate", trained.run_folder, "--data", data_task.folder, "--report", scores)

    told = call("report", scores)

    text = (scores / "report.html").read_text()
    assert "report.html" in told
    for words in ("Training loss against the epoch", "Validation Dice", "&#34;patch_size&#34;"):
        assert words in text
    (case,) = data_task.cases["test"]
    assert f'href="predictions/{case.id}_pred.nii.gz"' in text
    assert str(trained.run_folder.parent) not in text
    settings = json.loads((trained.run_folder / RUN_SETTINGS_FILE).read_text())
    assert settings["tsk_set"]["output_root_path"] not in text


def test_scores_without_label_maps_make_a_page_without_pictures(page, tmp_path):
    for name in ("scores.csv", "summary.json"):
        shutil.copy(page.parent / name, tmp_path)

    told = call("report", tmp_path)

    text = (tmp_path / "report.html").read_text()
    assert "no pictures" in told
    assert "<picture>" not in text
    assert "structure 2" in text
    assert len(text) < 100_000


def test_a_folder_without_scores_is_told_what_to_do(tmp_path):
    from typer.testing import CliRunner

    from monaiseg.cli import app

    result = CliRunner().invoke(app, ["report", str(tmp_path)])

    assert result.exit_code == 2
    assert "monaiseg evaluate" in result.output


def test_the_files_of_a_run_have_the_names_that_training_gives_them(tmp_path):
    run = RunFolder(tmp_path)

    assert (run.history.name, run.settings_file.name) == (HISTORY_FILE, RUN_SETTINGS_FILE)


@pytest.mark.slow
def test_a_page_whose_volumes_find_no_room_stays_under_15_megabytes(tmp_path):
    """A case is 5 million voxels of noise, which no gzip makes small."""
    write_folders(tmp_path, num_cases=3, num_labels=3, shape=(200, 160, 160), height=150)

    page = make_page(tmp_path)

    assert page.stat().st_size < 15e6
    assert "volume-0-image" in page.read_text()
