"""A storage of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from studies.execution.storage import open_storage


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_postgresql)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RDBStorage:
    """A storage in which a trial counts as dead two seconds after its last sign of life, and is retried twice."""
    url = f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    return open_storage(url, heartbeat=1, grace=2, retries=2)
