"""Stores of MLflow's, made once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def uri(tmp_path: Path, empty_mlflow: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'tracking.db')}"


@pytest.fixture
def other(tmp_path: Path, empty_mlflow: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'other.db')}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"
