"""Errors: what counts as memory that ran out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monaiseg.errors import lack_of_memory


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
