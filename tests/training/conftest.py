"""Cases and batches that the tests of loaders share."""

from __future__ import annotations

from typing import Any

import pytest

from batches import FOUR, TABLE, epoch, settings_of, written
from monaiseg.data.cases import Case
from monaiseg.training.loaders import (
    build_training_loader,
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> tuple[Case, ...]:
    """Four phantoms of about 20 x 20 x 20. Read only."""
    folder = tmp_path_factory.mktemp("shared")
    return tuple(written(folder, name, seed) for seed, name in enumerate(FOUR))


@pytest.fixture
def own_cases(tmp_path) -> tuple[Case, ...]:
    """The same; the test's own."""
    return tuple(written(tmp_path, name, seed) for seed, name in enumerate(FOUR))


@pytest.fixture(scope="session")
def two_epochs(shared, tmp_path_factory) -> list[Any]:
    """Two epochs of batches, made without workers."""
    loader = build_training_loader(shared, settings_of(), TABLE, tmp_path_factory.mktemp("none"))
    return [epoch(loader, 1), epoch(loader, 2)]
