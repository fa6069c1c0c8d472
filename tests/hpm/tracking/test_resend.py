"""A complete run sends what MLflow lacks from its folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked_runs import rows_of, runs, steps

from hpm.runs.run_folder import RunFolder
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.resend import send_rest


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A complete run of eight rows."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for row in rows_of(8):
        folder.metrics.append(row)
    for file in (folder.config, folder.operative):
        file.write_text("Ramp.end = 0.5\n")
    folder.write_summary({"metrics": {}})
    return folder


def test_what_is_missing_is_sent_with_parameters_and_tags(run: RunFolder, empty_mlflow: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    tracker = MLflowTracker(uri=uri, tags={"mine": "1"})
    tracker.start(run.path, name="a name", parameters={"Ramp.end": "0.5"}, tags={"seed": "0"})
    tracker.send(run.metrics.rows()[:3])
    tracker.finish("KILLED")
    send_rest(run, MLflowTracker(uri=uri))
    (run_id,) = runs(uri)
    assert steps(uri, run_id) == list(range(1, 9))
    entry = MlflowClient(tracking_uri=uri).get_run(run_id)
    assert (entry.info.run_name, entry.info.status, entry.data.params) == ("a name", "FINISHED", {"Ramp.end": "0.5"})
    assert (entry.data.tags["seed"], entry.data.tags["mine"]) == ("0", "1")
    assert json.loads((run.path / "mlflow.json").read_text())["ended"]


def test_what_is_remembered_holds_no_password(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://me:hunter2@127.0.0.1:9"
    tracker = MLflowTracker(uri=uri)
    tracker.start(run.path, name="run", parameters={"MLflowTracker.uri": f"'{uri}'"}, tags={})
    assert "hunter2" not in (run.path / "mlflow.json").read_text()
    tracker.finish("FINISHED")
    told = [str(warning.message) for warning in recwarn]
    assert "password" in told[0]
    assert any("MLflow cannot be used" in text for text in told)


def test_a_run_that_was_never_tracked_is_left_alone(run: RunFolder, tmp_path: Path) -> None:
    send_rest(run, MLflowTracker(uri=f"sqlite:///{tmp_path / 'other.db'}"))
    assert not (run.path / "mlflow.json").exists()
    assert not (tmp_path / "other.db").exists()
