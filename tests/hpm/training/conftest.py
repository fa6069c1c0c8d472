"""What several tests of runs share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def tiny_with_plugins(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny run, which may import what is in `tests/plugins`, here and in other processes; one thread each."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), str(Path(__file__).parents[3])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tiny
