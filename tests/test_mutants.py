"""The table of mutants is true: each changes the source as it stands, and names tests that are there."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from mutants import MUTANTS, REPOSITORY


@cache
def names_in(module: str) -> set[str]:
    tree = ast.parse((REPOSITORY / "tests" / module).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_names_tests_that_are_there(mutant):
    path = REPOSITORY / "monaiseg" / mutant.module
    source = path.read_text(encoding="utf-8")

    assert source.count(mutant.old) == 1
    ast.parse(source.replace(mutant.old, mutant.new))
    assert mutant.tests
    for test in mutant.tests:
        module, _, name = test.partition("::")
        assert name.partition("[")[0] in names_in(module)


def test_no_two_mutants_are_the_same():
    counts = Counter(word for m in MUTANTS for word in (m.name, (m.module, m.old, m.new)))

    assert set(counts.values()) == {1}
