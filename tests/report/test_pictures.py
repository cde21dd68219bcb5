"""`evaluate --pictures` on folders of label maps."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from pages import write_folders


def evaluated(root: Path, *more: str) -> tuple[int, str]:
    words = [
        "evaluate",
        "--prediction-dir",
        root / "predictions",
        "--reference-dir",
        root / "references",
    ]
    words += ["--report", root / "scores", *more]
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_folders(root)
    return root


def test_the_worst_and_the_best_cases_are_drawn_in_their_order(folders):
    code, output = evaluated(
        folders, "--pictures", "worst:2,best:1", "--image-dir", str(folders / "images")
    )

    assert code == 0, output
    drawn = sorted(path.name for path in (folders / "scores" / "pictures").iterdir())
    assert drawn == ["best_01_case_0.png", "worst_01_case_2.png", "worst_02_case_1.png"]
    assert "next: monaiseg report" in output


@pytest.mark.parametrize("words", ["worst", "3", "worst:-1", "first:2"])
def test_other_words_are_refused_before_anything_is_scored(folders, words):
    code, output = evaluated(folders, "--pictures", words)

    assert code == 2
    assert "worst:5" in output


def test_an_image_folder_that_lacks_a_case_is_refused_with_its_name(folders, tmp_path):
    write_folders(tmp_path, num_cases=1)

    code, output = evaluated(folders, "--image-dir", str(tmp_path / "images"))

    assert code == 2
    assert "case_1, case_2" in output
