"""Files that a test writes."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest


@pytest.fixture
def file(tmp_path):
    """Writes bytes under a name and gives the path."""

    def write(raw: bytes, name: str = "scan.nii") -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write
