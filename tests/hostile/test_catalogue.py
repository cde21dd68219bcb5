"""The catalogue of what goes wrong with inputs: 85 rows, each shown through the command line or by a named test.

Most rows stand in the modules beside this one; here are those of the machine, and the count that no row is left out.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import REPOSITORY, Bench, call
from bench_models import as_checkpoint, predict, sound_model
from fuzz import models
from monaiseg.training.checkpoint import commit, newest
from monaiseg.training.conditions import difference
from monaiseg.training.devices import OLDEST


def test_another_number_of_processes_is_a_difference():
    assert difference({"world size": 2}, {"world size": 1}) == ["world size: 2 then, 1 now"]


def test_clock_time_zone_and_language_change_nothing(bench: Bench, monkeypatch):
    written = []
    for zone, language in (("UTC", "C"), ("Pacific/Kiritimati", "de_DE.UTF-8")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", language)
        time.tzset()
        shutil.rmtree(bench.root / "out", ignore_errors=True)
        assert call(bench.prepare).exit_code == 0
        written.append(bench.tree())
    monkeypatch.undo()
    time.tzset()
    assert written[0] == written[1]


def test_the_newest_checkpoint_is_the_furthest_whatever_the_clock_says(tmp_path):
    sound = as_checkpoint(models.meaning())
    for step in (3, 4):
        commit(tmp_path, replace(sound, step=step))
    for path in tmp_path.glob("step-000000004.*"):
        os.utime(path, (0, 0))

    assert newest(tmp_path).step == 4


@pytest.mark.parametrize(("name", "version"), [("torch", "2.9.1+cpu"), ("monai", "1.6.0")])
def test_versions_with_known_holes_are_refused(name, version, bench: Bench, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda asked: version if asked == name else real(asked)
    )

    result = call(predict(sound_model)(bench))

    assert result.exit_code == 2
    assert re.search(
        rf"{name} {re.escape(version)} is installed.*; install {name}>=", result.output
    )


def test_the_oldest_versions_are_those_of_the_project_file():
    text = (REPOSITORY / "pyproject.toml").read_text()
    for name, numbers in OLDEST.items():
        assert f'"{name}>={".".join(map(str, numbers))}"' in text


# ---------------------------------------------------------------- no row is left out


ELSEWHERE = {
    7: ["test_a_patch_that_does_not_divide_is_refused_before_training"],
    11: ["test_a_gpu_that_is_not_there_is_refused"],
    14: [
        "test_extend_trains_longer",
        "test_a_resume_that_would_not_be_exact_is_refused_with_the_difference",
    ],
    20: ["test_a_declared_root_keeps_the_list_inside"],
    23: ["test_a_file_that_changed_or_vanished_since_the_check_stops_the_training"],
    24: ["test_what_has_changed_since_is_said_in_words"],
    50: ["test_a_scan_smaller_than_the_patch_is_labelled"],
    63: ["test_a_resume_that_would_not_be_exact_is_refused_with_the_difference"],
    66: ["test_a_finished_training_is_said_to_be_complete_and_left_alone"],
    70: [
        "test_a_full_disk_is_told_with_path_needed_and_free_bytes",
        "test_whichever_call_fails_a_generation_can_be_loaded",
        "test_a_board_on_a_full_disk_is_one_warning_and_the_training_ends_well",
        "test_a_history_on_a_full_disk_is_one_warning_and_whole_again_later",
        "test_a_log_on_a_full_disk_is_one_warning",
    ],
    71: [
        "test_a_disk_without_room_is_said_before_the_first_step",
        "test_real_disks_that_are_full_or_read_only",
        "test_a_folder_that_cannot_be_written_or_synced_is_known_by_probing",
        "test_a_disk_that_cannot_sync_is_known_before_the_first_step",
    ],
    72: [
        "test_a_second_training_is_refused_at_once_with_who_and_since_when",
        "test_a_worker_that_outlives_its_trainer_does_not_keep_the_folder_locked",
    ],
    73: ["test_a_training_that_moves_on_while_it_is_read_is_read_again"],
    74: [
        "test_a_process_that_is_signalled_finishes_its_step_and_commits",
        "test_two_processes_stop_at_one_step_and_resume_to_the_same_weights",
    ],
    75: [
        "test_a_second_interrupt_ends_at_once_with_130",
        "test_a_reader_of_a_command_that_leaves_is_no_fault",
        "test_a_second_interrupt_ends_at_once",
        "test_a_signal_asks_and_does_not_break_in",
    ],
    76: [
        "test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",
        "test_killed_at_random_times_with_workers_it_ends_as_if_nothing_had_been",
        "test_a_power_cut_at_any_moment_leaves_a_generation",
        "test_leftovers_of_a_kill_are_cleared_away_and_the_users_files_are_not",
    ],
    77: [
        "test_a_dead_or_hanging_worker_is_named_and_not_waited_for",
        "test_a_worker_that_dies_in_a_step_is_named_with_its_cases_and_a_resume_is_exact",
    ],
    78: [
        "test_memory_that_runs_out_is_told_with_what_to_lower",
        "test_memory_that_runs_out_is_said_with_the_smallest_change",
    ],
    79: ["test_the_fault_of_one_process_ends_all"],
    80: ["test_another_number_of_processes_is_a_difference"],
    81: ["test_a_loss_that_is_no_number_stops_with_the_cases_names"],
    84: ["test_modes_follow_the_umask", "test_the_umask_rules_the_modes"],
    82: [
        "test_clock_time_zone_and_language_change_nothing",
        "test_the_newest_checkpoint_is_the_furthest_whatever_the_clock_says",
    ],
    85: ["test_versions_with_known_holes_are_refused"],
}  # fmt: skip
"""Rows that other tests show, wholly or in part."""


NOT_SHOWN = {
    83: "the size of /dev/shm is the container's; the loader names a worker that died for want of it (row 77)",
}
"""Rows that no test of this machine can show, and why."""


def test_no_row_of_the_catalogue_is_left_out():
    tables = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    shown = {int(number) for text in tables for number in re.findall(r"\bRow\((\d+),", text)}

    assert shown | ELSEWHERE.keys() | NOT_SHOWN.keys() == set(range(1, 86))
    assert not NOT_SHOWN.keys() & (shown | ELSEWHERE.keys())


def test_the_tests_that_are_named_are_there():
    tests = REPOSITORY / "tests"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in tests.rglob("test_*.py")]
    there = {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }

    assert {name for names in ELSEWHERE.values() for name in names} <= there
