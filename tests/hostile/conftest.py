"""The bench that things are planted on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)
