"""The fuzzers: a hundred inputs of each in every test run, and the files that once made one fail."""

from __future__ import annotations

import pytest

from fuzz import CORPUS, Fuzzer, models, texts, volumes

pytestmark = pytest.mark.filterwarnings("ignore")  # drawn files are full of doubtful things
FUZZERS = (*volumes.FUZZERS, *texts.FUZZERS, *models.FUZZERS)


@pytest.mark.parametrize("fuzzer", FUZZERS, ids=lambda fuzzer: fuzzer.name)
def test_drawn_files_are_read_or_refused(fuzzer: Fuzzer, tmp_path):
    accepted = [fuzzer.accepts(fuzzer.input(0, number), tmp_path) for number in range(100)]

    assert accepted[0], "the sound input"
    assert not all(accepted)
    assert fuzzer.input(0, 7) == fuzzer.input(0, 7) != fuzzer.input(1, 7)


@pytest.mark.parametrize(
    ("fuzzer", "path"),
    [
        pytest.param(fuzzer, path, id=f"{fuzzer.name}-{path.name}")
        for fuzzer in FUZZERS
        for path in fuzzer.corpus()
    ],
)
def test_what_once_failed_is_refused(fuzzer: Fuzzer, path, tmp_path):
    assert not fuzzer.accepts(path.read_bytes(), tmp_path)


def test_every_folder_of_the_corpus_has_its_fuzzer():
    assert {path.name for path in CORPUS.iterdir()} <= {fuzzer.name for fuzzer in FUZZERS}
