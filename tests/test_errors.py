"""Errors: what counts as memory that ran out."""

from __future__ import annotations

import os
import resource
import tempfile

import numpy as np
import pytest
import torch

from children import in_child
from monaiseg.errors import lack_of_memory, reached_limit


def test_torchs_own_words_for_memory_that_ran_out_are_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)

    assert lack_of_memory(raised.value) is raised.value


def test_numpys_words_are_known_after_they_came_from_a_worker_as_text():
    with pytest.raises(MemoryError) as raised:
        np.empty(10**15)
    error = RuntimeError(f"cases S01: {type(raised.value).__name__}: {raised.value}")

    assert lack_of_memory(error) is error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_python_and_cuda_say_it_by_type(error):
    assert lack_of_memory(error) is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("memory")])
def test_other_faults_are_not_taken_for_it(error):
    assert lack_of_memory(error) is None


def test_limits_of_the_system_are_known_by_their_errors(tmp_path):
    """A child without files, threads or room for temporary files makes the system say so itself."""

    def files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
        held = []
        try:
            while True:
                held.append((tmp_path / "x").open("w"))
        except OSError as error:
            del held
            return reached_limit(error)

    def folders():
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = str(tmp_path / "missing")
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = lambda: [str(tmp_path / "missing")]
        try:
            tempfile.mkdtemp()
        except OSError as error:
            return reached_limit(error)

    assert "ulimit -n" in in_child(files).result
    assert "TMPDIR" in in_child(folders).result
    assert "ulimit -u" in reached_limit(RuntimeError("can't start new thread"))
    assert "--shm-size" in reached_limit(
        RuntimeError("unable to write to file </torch_12_34>: No space left on device (28)")
    )


@pytest.mark.parametrize("error", [OSError(2, "No such file"), RuntimeError("shapes differ"), None])
def test_other_errors_are_no_limits(error):
    assert reached_limit(error) is None
