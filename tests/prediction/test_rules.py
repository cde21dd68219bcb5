"""Post-processing reaches label maps: that of the model, that of the command line, or none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.data.postprocessing import ChosenRule, write_rules
from monaiseg.data.volumes import read_label_map
from monaiseg.portable import LabelRule
from monaiseg.prediction import Predictor
from monaiseg.training.checkpoint import load_checkpoint

ALL_OF_1 = LabelRule(1, least_mm3=1e9)
"""Removes label 1 altogether."""


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the best checkpoint, with a rule beside it that removes label 1."""
    path = Path(shutil.copy(load_checkpoint(trained.run_folder).path, tmp_path))
    write_rules(path, [ChosenRule(ALL_OF_1, 0.1, 0.2)], Predictor(path, device="cpu").table, ["a"])
    return path


def test_the_rules_beside_a_checkpoint_are_applied(checkpoint, phantom):
    image = phantom(label_values=(1, 4)).image

    with_rules = Predictor(checkpoint, device="cpu").predict(image)
    without = Predictor(checkpoint, device="cpu", postprocessing=()).predict(image)

    assert set(np.unique(without)) == {0, 1, 4}
    assert np.array_equal(with_rules, np.where(without == 1, 0, without))


@pytest.mark.parametrize(
    ("words", "values", "said"),
    [
        ([], {0, 4}, "post-processing: label 1: components of at least 1e+09 mm3"),
        (["--no-postprocessing"], {0, 1, 4}, None),
        (["--drop-below", "4=1000000ml"], {0, 1}, "post-processing: label 4: components"),
    ],
)
def test_the_command_line_chooses_rules_and_names_them(
    words, values, said, checkpoint, phantom, tmp_path
):
    image = phantom(label_values=(1, 4)).image
    command = ["predict", str(checkpoint), str(image), "-o", str(tmp_path / "out"), *words]

    done = CliRunner().invoke(app, command)

    assert done.exit_code == 0, done.output
    (made,) = (tmp_path / "out").glob("*.nii.gz")
    assert set(np.unique(read_label_map(made)[0])) == values
    assert ("post-processing" in done.output) == (said is not None)
    assert said is None or said in done.output


def test_one_validation_case_is_too_few_to_choose_on(trained):
    done = CliRunner().invoke(app, ["evaluate", str(trained.run_folder), "--tune-postprocessing"])

    assert done.exit_code == 2
    assert "at least 2 validation cases, and there are 1" in done.output
