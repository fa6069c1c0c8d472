"""Where cases write."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, for whatever a case writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
