"""The command, and a training by its plan."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from monaiseg.cli import app
from monaiseg.planning.measurements import Measurements
from monaiseg.settings.planning import PlanningSettings
from monaiseg.settings.reading import load_settings
from monaiseg.training import checkpoint as checkpoints
from plans import GIB


def test_a_plan_is_measured_written_and_trained_on_time(data_task, tmp_path, monkeypatch):
    lenient = PlanningSettings(least_steps=1)  # however busy this machine is
    monkeypatch.setattr("monaiseg.planning.planner.PlanningSettings", lambda: lenient)
    settings, kept = tmp_path / "plan.json", tmp_path / "measured.json"
    root, name = str(data_task.folder.parent), data_task.folder.name
    words = ["plan", "--output-root-path", root, "-dtn", name, "--minutes", "0.5", "--cores", "1"]
    words += ["--memory", "4", "--measurements", str(kept)]

    first = CliRunner().invoke(app, [*words, "-o", str(settings)], catch_exceptions=False)
    again = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "again.json")])

    assert first.exit_code == again.exit_code == 0
    assert first.stdout.count("\n") > 10
    assert f"monaiseg train {data_task.folder} --settings {settings} --name first" in first.stdout
    assert load_settings(settings) == load_settings(tmp_path / "again.json")

    words[words.index("--cores") + 1] = "2"
    other = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "other.json")])
    assert other.exit_code == 2
    assert "cores 1 then, 2 now" in other.stderr
    assert Measurements.load(kept).data.base_bytes > GIB // 10

    trained = CliRunner().invoke(
        app,
        ["train", "-ts", str(settings), "-o", root, "-dtn", name, "-tn", "planned"],
        catch_exceptions=False,
    )
    assert trained.exit_code == 0, trained.output
    assert "best mean Dice" in trained.stdout
    saved = checkpoints.newest(data_task.folder / "planned")
    assert "dice/mean" in saved.history[-1]
    assert saved.step == saved.scheduler["course"]["last_step"]


def test_a_plan_replaces_no_file_and_reads_no_file_that_holds_no_measurements(data_task, tmp_path):
    root, name = str(data_task.folder.parent), data_task.folder.name
    words = ["plan", "--output-root-path", root, "-dtn", name, "--minutes", "1", "-o"]
    there = tmp_path / "there.json"
    there.write_text(json.dumps({"steps": 1}))

    taken = CliRunner().invoke(app, [*words, str(there)])
    wrong = CliRunner().invoke(
        app, [*words, str(tmp_path / "new.json"), "--measurements", str(there)]
    )

    assert (taken.exit_code, wrong.exit_code) == (2, 2)
    assert "--force" in taken.stderr
    assert "has no measurements" in wrong.stderr
    assert not (tmp_path / "new.json").exists()
