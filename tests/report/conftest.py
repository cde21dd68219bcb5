"""A score folder that the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import make_page, write_folders


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two structures in three cases, under a folder with a name that must not show."""
    root = tmp_path_factory.mktemp("secret_folder")
    write_folders(root)
    return make_page(root)
