"""Do the tests bite? Each mutant here breaks one promise by one edit of the source, and the tests named with it must fail.

    python tests/mutants.py              all of them
    python tests/mutants.py lock best    those with one of these words in their name

A *mutant* replaces text that stands exactly once in a module. It is tried in a copy of the repository; a mutant whose
tests pass all the same *survives*, and is a test that is missing. `tests/test_mutants.py` keeps the table true.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
COPIED = ("monaiseg", "tests", "scripts", "benchmarks", "pyproject.toml")
TESTS_FAILED = 1
"""pytest's exit code; others mean that it did not come to the tests."""


@dataclass(frozen=True)
class Mutant:
    """One edit of one module, and the tests that must notice."""

    name: str
    module: str
    """File in `monaiseg/`."""
    old: str
    new: str
    tests: tuple[str, ...]
    """`test_module.py::test_name`, in `tests/`."""


MUTANTS = [
    # ------------------------------------------------------------ files: atomic and durable
    Mutant(
        "a new file is not synced",
        "files.py",
        "        os.fsync(descriptor)\n    finally:\n        os.close(descriptor)\n\n\ndef _sync_folder",
        "    finally:\n        os.close(descriptor)\n\n\ndef _sync_folder",
        ("test_checkpoint.py::test_a_power_cut_at_any_moment_leaves_a_generation",),
    ),
    Mutant(
        "the folder is not synced after a rename",
        "files.py",
        "        os.replace(temporary, path)\n        _sync_folder(path.parent)\n",
        "        os.replace(temporary, path)\n",
        (
            "test_files.py::test_what_is_written_is_synced_before_it_is_renamed_and_the_folder_after",
            "test_checkpoint.py::test_a_power_cut_at_any_moment_leaves_a_generation",
        ),
    ),
    Mutant(
        "files are written in place",
        "files.py",
        "    temporary = _temporary_in(path.parent)\n    try:\n        _write_new(temporary, payload)\n"
        "        os.replace(temporary, path)\n",
        "    temporary = path\n    try:\n        path.write_bytes(payload)\n",
        ("test_files.py::test_whichever_call_fails_the_file_is_the_old_or_the_new",),
    ),
    Mutant(
        "a link under the temporary name is followed",
        "files.py",
        'os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)',
        "os.O_WRONLY | os.O_CREAT",
        ("test_files.py::test_a_link_planted_under_the_temporary_name_is_refused",),
    ),
    # ------------------------------------------------------------ checkpoints
    Mutant(
        "older generations go before the new one is written",
        "checkpoint.py",
        '    path, _ = _write(folder, f"step-{checkpoint.step:09d}", checkpoint)\n'
        "    _prune(folder, checkpoint)\n",
        "    _prune(folder, checkpoint)\n"
        '    path, _ = _write(folder, f"step-{checkpoint.step:09d}", checkpoint)\n',
        ("test_checkpoint.py::test_whichever_call_fails_a_generation_can_be_loaded",),
    ),
    Mutant(
        "the record comes before its file",
        "checkpoint.py",
        "    write_atomic(path, payload)\n"
        '    write_atomic(_record_path(path), (json.dumps(record, indent=2) + "\\n").encode())\n',
        '    write_atomic(_record_path(path), (json.dumps(record, indent=2) + "\\n").encode())\n'
        "    write_atomic(path, payload)\n",
        ("test_checkpoint.py::test_killed_before_whichever_call_a_generation_can_be_loaded",),
    ),
    Mutant(
        "one generation is kept",
        "checkpoint.py",
        "superfluous = [path for path in own if path.stem not in {current, older, best}]",
        "superfluous = [path for path in own if path.stem not in {current, best}]",
        ("test_checkpoint.py::test_two_generations_the_best_and_the_kept_ones_stay",),
    ),
    Mutant(
        "the SHA-256 is not compared",
        "checkpoint.py",
        'if record and (record["size"], record["sha256"]) != (len(payload), digest):',
        'if record and record["size"] != len(payload):',
        ("test_checkpoint.py::test_two_hundred_flipped_bits_are_all_seen",),
    ),
    Mutant(
        "the best is not held against its pointer",
        "checkpoint.py",
        "if expected_sha256 and digest != expected_sha256:",
        "if False and digest != expected_sha256:",
        (
            "test_checkpoint.py::test_a_best_that_is_not_the_one_committed_is_refused_for_prediction_and_forgotten_in_training",
        ),
    ),
    Mutant(
        "checkpoints are unpickled",
        "checkpoint.py",
        'state = torch.load(_repacked(payload), map_location="cpu", weights_only=True)',
        'state = torch.load(_repacked(payload), map_location="cpu", weights_only=False)',
        ("test_source_gates.py::test_no_module_can_run_what_it_reads",),
    ),
    Mutant(
        "the pickle is not surveyed",
        "checkpoint.py",
        "                _check_opcodes(record)\n",
        "                pass\n",
        ("test_checkpoint.py::test_code_in_a_pickle_of_any_protocol_does_not_run",),
    ),
    Mutant(
        "compressed records are taken",
        "checkpoint.py",
        "if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:",
        "if False:",
        ("test_checkpoint.py::test_a_compressed_record_is_refused_however_small",),
    ),
    Mutant(
        "weights that are not finite are committed",
        "checkpoint.py",
        "    if broken := _first_not_finite(state):\n        raise NumericsError(",
        "    if broken := None:\n        raise NumericsError(",
        ("test_checkpoint.py::test_weights_that_are_not_finite_are_never_committed",),
    ),
    Mutant(
        "threads are not in the fingerprint",
        "checkpoint.py",
        '"threads": num_threads,',
        '"threads": 0,',
        ("test_checkpoint.py::test_what_has_changed_since_is_said_in_words",),
    ),
    # ------------------------------------------------------------ loaders: the same bits, whoever asks
    Mutant(
        "what a resume skips is skipped in every epoch",
        "loaders.py",
        "        skip, self.skip = self.skip, 0\n",
        "        skip = self.skip\n",
        ("test_loaders.py::test_skip_leaves_the_tail_of_that_pass_and_of_no_other",),
    ),
    Mutant(
        "the epoch is not in the seed of the augmentation",
        "loaders.py",
        'seed = derive(self.seed, "augment", epoch, position)',
        'seed = derive(self.seed, "augment", position)',
        ("test_loaders.py::test_a_case_is_cut_anew_at_every_position_of_every_epoch",),
    ),
    Mutant(
        "transforms keep their random states",
        "loaders.py",
        "            self.chain.set_random_state(seed=seed)\n",
        "",
        ("test_loaders.py::test_workers_give_the_same_bits",),
    ),
    Mutant(
        "a cache is found by its path",
        "loaders.py",
        'digests = [file_sha256(path) for path in (*item["image"], item["label"])]',
        'digests = [str(path) for path in (*item["image"], item["label"])]',
        ("test_loaders.py::test_a_replaced_file_gives_the_new_voxels",),
    ),
    # ------------------------------------------------------------ run folder, signals, numbers
    Mutant(
        "the lock is not taken",
        "workspace.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_UN)",
        ("test_workspace.py::test_a_second_training_is_refused_at_once_with_who_and_since_when",),
    ),
    Mutant(
        "workers inherit the lock",
        "workspace.py",
        "os.register_at_fork(after_in_child=_leave_to_parent)\n",
        "",
        (
            "test_workspace.py::test_a_worker_that_outlives_its_trainer_does_not_keep_the_folder_locked",
        ),
    ),
    Mutant(
        "SIGTERM is not heard",
        "handlers.py",
        "numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)",
        "numbers = (signal.SIGINT, signal.SIGHUP)",
        ("test_handlers.py::test_a_process_that_is_signalled_finishes_its_step_and_commits",),
    ),
    Mutant(
        "a loss that is no number goes on",
        "handlers.py",
        "        if math.isfinite(loss):\n            return\n",
        "        if True:\n            return\n",
        ("test_training.py::test_a_loss_that_is_no_number_stops_with_the_cases_names",),
    ),
    Mutant(
        "TensorBoard keeps what a killed training wrote",
        "handlers.py",
        "purge_step=self._step + 1)",
        "purge_step=None)",
        (
            "test_handlers.py::test_a_resumed_training_takes_back_what_the_killed_one_wrote_after_its_commit",
        ),
    ),
    # ------------------------------------------------------------ training: resume
    Mutant(
        "a resume that is not exact is not refused",
        "training.py",
        "if changes and not accept_inexact:",
        "if False and not accept_inexact:",
        ("test_training.py::test_a_resume_that_would_not_be_exact_is_refused_with_the_difference",),
    ),
    # ------------------------------------------------------------ inputs: volumes
    Mutant(
        "a gzip stream is not read to its end",
        "volumes.py",
        "trailing = len(self._block) - start + self._stream.drain()",
        "trailing = 0",
        (
            "test_volumes.py::test_every_bit_flip_in_a_compressed_file_is_seen_or_harmless",
            "test_catalogue.py::test_a_bad_input_is_refused_with_what_to_do[row-28-wrong-checksum]",
        ),
    ),
    Mutant(
        "volumes over the cap are allocated",
        "volumes.py",
        "        if need > cap_bytes:\n",
        "        if False:\n",
        (
            "test_catalogue.py::test_a_bomb_is_refused_before_it_takes_memory[row-33-200-MiB-in-900-KB,-over-the-cap]",
        ),
    ),
    Mutant(
        "a header is believed whatever its file can hold",
        "volumes.py",
        "if self.header.compressed and self._declared > _DEFLATE_RATIO * self._size + _CHUNK:",
        "if False:",
        ("test_volumes.py::test_a_volume_over_the_cap_is_refused_before_it_is_allocated",),
    ),
    Mutant(
        "a stream may go on for ever after its voxels",
        "volumes.py",
        "            if count > _MAX_TRAILING:\n",
        "            if False:\n",
        ("test_volumes.py::test_a_stream_that_goes_on_and_on_is_given_up",),
    ),
    Mutant(
        "values that are not finite pass",
        "volumes.py",
        "    if not finite:\n",
        "    if False:\n",
        ("test_volumes.py::test_values_that_are_not_finite_are_counted_and_placed",),
    ),
    Mutant(
        "sform and qform may lie a millimetre apart",
        "volumes.py",
        "GRID_TOLERANCE_MM = 0.1",
        "GRID_TOLERANCE_MM = 1.0",
        ("test_volumes.py::test_a_header_that_cannot_be_trusted_is_refused",),
    ),
    Mutant(
        "label values are rounded from however far",
        "volumes.py",
        "LABEL_TOLERANCE = 1e-3",
        "LABEL_TOLERANCE = 0.5",
        ("test_volumes.py::test_a_label_map_that_is_none_is_refused",),
    ),
    Mutant(
        "negative label values pass",
        "volumes.py",
        "        if low < 0:\n",
        "        if False:\n",
        ("test_volumes.py::test_a_label_map_that_is_none_is_refused",),
    ),
    Mutant(
        "entities of a label table are expanded",
        "volumes.py",
        'if b"<!" in content.replace(b"<![CDATA[", b"").replace(b"<!--", b""):',
        "if False:",
        ("test_volumes.py::test_a_label_table_with_entities_is_refused",),
    ),
    # ------------------------------------------------------------ inputs: settings, lists, names
    Mutant(
        "the last of two equal keys wins",
        "settings.py",
        "text, object_pairs_hook=object_of, parse_constant=refuse, parse_float=number",
        "text, parse_constant=refuse, parse_float=number",
        ("test_settings.py::test_text_that_is_no_settings_is_refused_by_the_file_and_the_place",),
    ),
    Mutant(
        "settings may be nested without end",
        "settings.py",
        "    if _is_deep(document):\n",
        "    if False:\n",
        ("test_settings.py::test_text_that_is_no_settings_is_refused_by_the_file_and_the_place",),
    ),
    Mutant(
        "a list may lead out of its root",
        "lists.py",
        "if root is not None and Path(root).resolve() not in path.resolve().parents:",
        "if False:",
        ("test_lists.py::test_a_declared_root_keeps_the_list_inside",),
    ),
    Mutant(
        "a list may name devices and pipes",
        "lists.py",
        "    if not stat.S_ISREG(mode):\n",
        "    if False:\n",
        ("test_lists.py::test_all_that_a_list_cannot_name_is_named_at_once",),
    ),
    Mutant(
        "a dataset may list files outside of its folder",
        "cases.py",
        "    if root not in path.parents:\n",
        "    if False:\n",
        ("test_cases.py::test_a_decathlon_list_cannot_lead_out_of_its_folder",),
    ),
    Mutant(
        "a name may be code in a bundle",
        "files.py",
        'if code := set(text) & set("$@%"):',
        "if code := set[str]():",
        (
            "test_catalogue.py::test_a_bad_input_is_refused_with_what_to_do[row-09-label-name-that-is-code]",
        ),
    ),
    # ------------------------------------------------------------ inputs: what cases and models mean
    Mutant(
        "label values that the table lacks pass",
        "preparation.py",
        "    check_labels(facts, table)\n",
        "",
        ("test_preparation.py::test_a_label_table_names_the_labels_and_must_name_all",),
    ),
    Mutant(
        "an image may stand in training and test",
        "facts.py",
        "leaks = len({split for split, _ in same}) > 1",
        "leaks = False",
        ("test_facts.py::test_an_image_in_two_splits_is_refused_and_twice_in_one_is_noted",),
    ),
    Mutant(
        "a label map may change after the check",
        "facts.py",
        "digests = [file_sha256(path) for path in case.files]",
        "digests = [file_sha256(path) for path in case.images]",
        (
            "test_planted.py::test_a_file_that_changed_or_vanished_since_the_check_stops_the_training",
        ),
    ),
    Mutant(
        "tensors may lie in memory as they like",
        "checkpoint.py",
        "        and tensor.is_contiguous()\n",
        "",
        ("test_checkpoint.py::test_anything_but_plain_values_and_dense_finite_tensors_is_refused",),
    ),
    Mutant(
        "the network that a checkpoint asks for is built at once",
        "prediction.py",
        '        with torch.device("meta"):\n',
        '        with torch.device("cpu"):\n',
        (
            "test_catalogue.py::test_a_bomb_is_refused_before_it_takes_memory[row-62-terabytes-by-its-settings]",
        ),
    ),
    Mutant(
        "a model may call the labels otherwise",
        "cli.py",
        "if clash := predictor.table.contradiction(task.table):",
        "if clash := None:",
        (
            "test_catalogue.py::test_a_bad_model_is_refused_with_what_to_do[row-68-labels-the-other-way-round]",
        ),
    ),
    Mutant(
        "a link under the log's name is followed",
        "workspace.py",
        "flags | os.O_NOFOLLOW, 0o666),",
        "flags, 0o666),",
        ("test_planted.py::test_links_planted_in_a_run_folder_are_not_followed",),
    ),
    Mutant(
        "torch with known holes is used",
        "devices.py",
        "        if numbers < oldest:\n",
        "        if False:\n",
        ("test_catalogue.py::test_versions_with_known_holes_are_refused",),
    ),
    # ------------------------------------------------------------ training: killed, asked to stop, starved
    Mutant(
        "the commit comes before the validation",
        "training.py",
        "        epoch, tsk = engine.state.epoch, self.settings.tsk_set\n        last =",
        "        epoch, tsk = engine.state.epoch, self.settings.tsk_set\n        self._commit(epoch_closed=True)\n        last =",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the best is not restored",
        "training.py",
        "        self.best = saved.best\n",
        "        self.best = None\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the schedule is not restored",
        "training.py",
        "        self.rate.load_state_dict(scheduler)\n",
        "",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the optimiser is not restored",
        "training.py",
        "            self.optimizer.load_state_dict(dict(saved.optimizer))\n",
        "            pass\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the average is not restored",
        "training.py",
        "        self.average.load_state_dict(saved.averaged)\n",
        "        self.average.load_state_dict(None)\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the history is not restored",
        "training.py",
        "        self.history = [dict(row) for row in saved.history]\n",
        "        self.history = []\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "dropout does not follow from the step",
        "training.py",
        '        _seed(derive(self.settings.tsk_set.seed, "step", step), self.device)  # dropout\n',
        "",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "a resume skips batches where it should skip draws",
        "training.py",
        "        self.sampler.skip = (step % self.steps) * self.settings.batch_size\n",
        "        self.sampler.skip = step % self.steps\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "a commit comes before TensorBoard's entry of its step",
        "training.py",
        "            self.board.attach(trainer, every=tsk.print_step[0])\n"
        "        # After the board: what it shows of a step is then in the step's commit.\n"
        "        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)\n",
        "        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)\n"
        "        if distributed.is_first():\n"
        "            self.board.attach(trainer, every=tsk.print_step[0])\n",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "losses that TensorBoard has not shown yet are forgotten",
        "training.py",
        "        self.board.stand_at(saved.step, unshown)\n",
        "",
        ("crash/test_crash.py::test_killed_at_a_point_and_resumed_it_ends_as_if_nothing_had_been",),
    ),
    Mutant(
        "the table of epochs is not mended by a resume",
        "training.py",
        "        self.table_of_epochs.write(self.history)  # it may lack rows, or have some of later\n",
        "",
        (
            "crash/test_crash.py::test_a_history_that_found_no_room_for_its_last_row_has_it_after_a_resume",
        ),
    ),
    Mutant(
        "a validation that was broken off counts as done",
        "validation.py",
        "            if self.is_broken_off:\n                return None\n",
        "",
        ("crash/test_crash.py::test_a_signal_ends_the_step_commits_and_can_be_resumed_from",),
    ),
    Mutant(
        "an epoch without its validation is left at that",
        "training.py",
        "            self._end_epoch(self.trainer)\n        if not (self.is_complete",
        "            pass\n        if not (self.is_complete",
        ("crash/test_crash.py::test_a_signal_ends_the_step_commits_and_can_be_resumed_from",),
    ),
    Mutant(
        "room is not looked for before the first step",
        "training.py",
        "                    self._check_room()\n",
        "",
        ("crash/test_crash.py::test_a_disk_without_room_is_said_before_the_first_step",),
    ),
    Mutant(
        "a worker's death in a step is a traceback",
        "training.py",
        "if isinstance(error, RuntimeError) and (fault := self.loader.fault(error)):",
        "if fault := None:",
        (
            "crash/test_crash.py::test_a_worker_that_dies_in_a_step_is_named_with_its_cases_and_a_resume_is_exact",
        ),
    ),
    Mutant(
        "an extension is added at every resume",
        "training.py",
        "        epochs = self.epochs + extend\n",
        "        epochs = planned + extend\n",
        ("test_training.py::test_extend_trains_longer",),
    ),
    Mutant(
        "what waits on disk is not compared",
        "loaders.py",
        'if digests == {path.name: sha256_of(path) for path in entry.glob("*.npy")}:',
        "if digests:",
        ("test_loaders.py::test_an_entry_with_a_turned_bit_is_made_anew_aloud",),
    ),
    Mutant(
        "equal checkpoints have other bytes",
        "checkpoint.py",
        "return sys.intern(value) if type(value) is str else value",
        "return value",
        ("test_checkpoint.py::test_equal_checkpoints_have_equal_bytes",),
    ),
    Mutant(
        "a reader that leaves ends the training",
        "handlers.py",
        "        self.quiet = True\n        with contextlib",
        "        raise SystemExit(1)\n        with contextlib",
        ("crash/test_crash.py::test_a_reader_of_the_messages_that_leaves_ends_no_training",),
    ),
    Mutant(
        "a second Ctrl-C waits too",
        "handlers.py",
        "if self.requested and number == signal.SIGINT:",
        "if False:",
        ("test_handlers.py::test_a_second_interrupt_ends_at_once",),
    ),
]


def tried(mutant: Mutant, copy: Path) -> bool:
    """Whether the mutant's tests fail on it, as they should."""
    path = copy / "monaiseg" / mutant.module
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: its text stands {source.count(mutant.old)} times in {path}"
        )
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return run_tests(mutant.tests, copy)[0] == TESTS_FAILED
    finally:
        path.write_text(source, encoding="utf-8")


def run_tests(tests: Sequence[str], copy: Path) -> tuple[int, str]:
    """pytest's exit code for these tests of a copy of the repository, and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "--exitfirst", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = finished.stdout[-5000:] + finished.stderr[-3000:]
    if finished.returncode not in {0, TESTS_FAILED}:
        raise RuntimeError(said)
    return finished.returncode, said


def copied(folder: Path) -> Path:
    """A copy of what the tests need of the repository."""
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def survivors(mutants: Sequence[Mutant]) -> Iterator[Mutant]:
    """Try each mutant, say how it went, and give those that live on."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy = copied(Path(name))
        named = sorted({test for mutant in mutants for test in mutant.tests})
        code, said = run_tests(named, copy)
        if code:
            raise RuntimeError(f"the named tests fail without any mutant: mend that first\n{said}")
        for number, mutant in enumerate(mutants, start=1):
            started = time.monotonic()
            killed = tried(mutant, copy)
            took = time.monotonic() - started
            word = "killed" if killed else "SURVIVES"
            print(
                f"{number:3} of {len(mutants)}  {word:8}  {took:5.1f} s  {mutant.name}", flush=True
            )
            if not killed:
                yield mutant


def main() -> None:
    """Try the mutants that were asked for; exits with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their name")
    words = parser.parse_args().words
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    alive = list(survivors(chosen))
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    sys.exit(1 if alive else 0)


if __name__ == "__main__":
    main()
